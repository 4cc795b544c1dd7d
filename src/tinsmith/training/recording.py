"""What a training loop tells the recorder, by default and without code of the user's.

A run directory has one recorded run, whose id stands in it: a run that is killed and resumed gets
another attempt, which hides the steps that it does again. Inside a run that the caller has begun
with `telemetry.init`, the loop records into that one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager

from tinsmith import telemetry
from tinsmith.core.paths import atomic_write_text
from tinsmith.telemetry import events
from tinsmith.telemetry.catalogue import unit_of_name
from tinsmith.telemetry.model import Goal
from tinsmith.telemetry.session import RunSettings
from tinsmith.training import names
from tinsmith.training.job import Job
from tinsmith.training.run_dir import RunStart

__all__ = ["RunRecorder", "recorded"]

logger = logging.getLogger(__name__)

_MEANINGS: Mapping[str, tuple[str, Goal | None]] = {
    "nll": ("nats", "min"),
    "loss": ("nats", "min"),
    "bits": ("bits", "min"),
    "bits_per_byte": ("bits", "min"),
    "accuracy": ("fraction", "max"),
    "reward": ("1", "max"),
    "score": ("1", "max"),
    "tokens_per_s": ("tokens/s", None),
    "learning_rate": ("1", None),
    "grad_norm": ("1", None),
}
"""Unit and goal of metrics by the last part of their names."""


@contextmanager
def recorded(job: Job, begin: RunStart) -> Generator[telemetry.Run]:
    """Begin the recorded run of a run directory, or its next attempt, and finish it at the end.

    A store that cannot be written costs the record, never the training: there is one warning.
    """
    outer = (
        telemetry.entered_run()
    )  # not the current run: another thread's may be the only open one
    if outer is not None:
        yield outer  # the caller's, and so the caller's to finish
        return
    run = _begin(job, begin)
    with run:
        yield run


def _begin(job: Job, begin: RunStart) -> telemetry.Run:
    config, folder = job.config, begin.run
    known = folder.recorded_run
    run_id = known.read_text(encoding="utf-8").strip() if known.exists() else None
    settings = RunSettings(seed=config.seed, job=job.method.kind)
    if begin.is_resumed and run_id is not None:
        settings["run_id"] = run_id
        settings["resumed_from_step"] = begin.first_step
    if not config.record:
        settings["store"] = "off"
    told = {**config.model_dump(mode="json"), "data_of_run": job.describe()}
    try:
        run = telemetry.init(config.project, folder.path.name, config=told, **settings)
    except (telemetry.StoreError, telemetry.WriterBusyError) as error:
        logger.warning("this run is not recorded: %s", error)
        run = telemetry.init(config.project, folder.path.name, store="off")
    if not run.is_off:
        atomic_write_text(known, f"{run.run_id}\n")
    return run


class RunRecorder:
    """Puts a loop's metrics, and its steps as events, into a run."""

    def __init__(self, run: telemetry.Run) -> None:
        self._run = run
        self._described: set[str] = set()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name in metrics.keys() - self._described:
            self._describe(name)
        self._run.log(metrics, step)
        if names.OPTIM_LEARNING_RATE in metrics:
            self._record_step(step, metrics)

    def close(self) -> None:
        pass  # `recorded` finishes the run

    def _describe(self, name: str) -> None:
        self._described.add(name)
        last = name.rpartition("/")[2]
        unit, goal = _MEANINGS.get(last, (unit_of_name(last), None))
        if unit is not None:
            self._run.define(name, unit=unit, goal=goal)

    def _record_step(self, step: int, metrics: Mapping[str, float]) -> None:
        duration_s = metrics[names.TIME_STEP_S]
        duration_ns = int(duration_s * 1e9)
        measured = {
            "duration_ms": duration_s * 1e3,
            "step_ms": duration_s * 1e3,
            "lr": metrics[names.OPTIM_LEARNING_RATE],
            "tokens": metrics[names.TRAIN_NUM_TOKENS],
        }
        for name, key in (
            ("loss", names.TRAIN_NLL),
            ("grad_norm", f"{names.OPTIM_PREFIX}grad_norm"),
        ):
            if key in metrics:
                measured[name] = metrics[key]
        place = telemetry.current_trace()  # the loop's: its requests bear the same
        self._run.record_event(
            events.TRAIN_STEP,
            measured,
            metadata={"epoch": metrics[names.PROGRESS_EPOCH]},
            step=step,
            times=(time.time_ns() - duration_ns, time.monotonic_ns() - duration_ns, duration_ns),
            ids=(place.trace_id, place.span_id, None) if place else (None, None, None),
        )
