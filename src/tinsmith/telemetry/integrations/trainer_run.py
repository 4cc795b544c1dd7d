"""The recorded run of a trainer that is seen through its callbacks alone.

A training that ends well says so; one that ends by an exception often does not. So a training that
is still going on when the process ends, or when its thread begins another one, has failed.

A run stays open when its training is over, since evaluations come after it: it is finished by the
next training, by `close`, or when the process ends.
"""

from __future__ import annotations

import atexit
import sys
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path

from tinsmith.core.errors import TinsmithError
from tinsmith.telemetry import events
from tinsmith.telemetry.catalogue import EventSpec
from tinsmith.telemetry.errors import TelemetryWarning
from tinsmith.telemetry.run import Run
from tinsmith.telemetry.session import RunSettings, current_run, init, open_runs
from tinsmith.telemetry.spans import Span

__all__ = ["TrainerRun", "metric_name", "size_of", "trainer_metric_name"]

_AREAS: Mapping[str, str] = {
    "train": "train",
    "eval": "eval",
    "val": "eval",
    "valid": "eval",
    "validation": "eval",
    "test": "test",
}


def metric_name(key: str) -> str:
    """Return our `area/name` for a trainer's `area_name`; other names stay.

    Example:
        >>> [metric_name(key) for key in ("train_loss", "val_loss", "test_acc", "optim/lr", "loss")]
        ['train/loss', 'eval/loss', 'test/acc', 'optim/lr', 'loss']
    """
    area, separator, name = key.partition("_")
    if "/" in key or not separator or not name or area not in _AREAS:
        return key
    return f"{_AREAS[area]}/{name}"


def trainer_metric_name(key: str) -> str:
    """Return our name of a metric in a Hugging Face Trainer's log: `eval_loss` is `eval/loss`.

    The rest is of training: `loss` is `train/loss`; `train_loss`, its mean over all steps, is
    `train/train_loss`.
    """
    area, separator, name = key.partition("_")
    return f"{area}/{name}" if separator and area in ("eval", "test") else f"train/{key}"


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; 0 where it is gone."""
    try:
        files = [one for one in path.rglob("*") if one.is_file()] if path.is_dir() else [path]
        return sum(one.stat().st_size for one in files)
    except OSError:
        return 0


class TrainerRun:
    """Begins a run when a training begins, keeps its spans, and says how it ended.

    Inside a run that the caller has begun with `telemetry.init` it records into that one, which is
    the caller's to finish.

    Args:
        project: What the run belongs to.
        name: What to call it.
        settings: What else `telemetry.init` is told.
    """

    def __init__(self, project: str, name: str | None, settings: RunSettings) -> None:
        self._project = project
        self._name = name
        self._settings = settings
        self._run: Run | None = None
        self._is_own = False
        self._spans: list[tuple[EventSpec, Span]] = []
        self.thread = 0
        """Where its training goes on."""

    @property
    def run(self) -> Run | None:
        """The run, while it is open."""
        return self._run if self._run is not None and self._run.is_open else None

    @property
    def is_training(self) -> bool:
        """Whether a training has begun and not ended."""
        return bool(self._spans)

    def begin(
        self,
        *,
        config: Mapping[str, object],
        name: str | None = None,
        run_id: str | None = None,
        resumed_from_step: int | None = None,
    ) -> Run:
        """Begin the run of a training, or the next attempt of the run that it goes on with.

        A store that cannot be written costs the record, never the training: there is one warning.

        Args:
            config: What the trainer was told.
            name: What to call the run, where the user did not say.
            run_id: The run whose checkpoint was loaded.
            resumed_from_step: The last step that the checkpoint counts.
        """
        _close_earlier(self)
        callers = [one for one in open_runs() if one not in [known.run for known in _followed]]
        if callers:
            self._run, self._is_own = current_run(), False
            self._run.update_config(config)
            return self._run
        settings = RunSettings(**self._settings)
        if run_id is not None:
            settings.setdefault("run_id", run_id)
        if resumed_from_step is not None:
            settings["resumed_from_step"] = resumed_from_step
        self._run, self._is_own = self._begun(config, self._name or name, settings), True
        _followed.append(self)
        return self._run

    def enter(
        self,
        event: EventSpec,
        *,
        step: int | None = None,
        announce: bool = False,
        **metadata: object,
    ) -> None:
        """Begin a span within those that are open."""
        if self._run is not None:
            span = self._run.span(event, step=step, announce=announce, **metadata)
            self._spans.append((event, span.__enter__()))
            self.thread = threading.get_ident()

    def leave(self, event: EventSpec, **measurements: object) -> None:
        """End the innermost span of an event, and what is open within it."""
        while any(known is event for known, _ in self._spans):
            ended, span = self._spans.pop()
            if ended is event:
                span.measure(**measurements)
            span.__exit__(None, None, None)
            if ended is event:
                return

    def fail(self, error: BaseException | None) -> None:
        """End the training, and the run where it is our own, as failed by an error."""
        if self._run is None:
            return
        error = error or RuntimeError("training stopped before its end")
        told = {"error": type(error).__name__, "message": str(error)}
        self._run.event(events.TRAIN_EXCEPTION, metadata=told)
        while self._spans:
            self._spans.pop()[1].__exit__(type(error), error, error.__traceback__)
        if self._is_own:
            code = 130 if isinstance(error, KeyboardInterrupt) else 1
            self._run.finish("failed", exit_code=code)
        self._forget()

    def close(self) -> None:
        """Finish the run where it is our own; a training that has not ended has failed."""
        if self.is_training:
            self.fail(getattr(sys, "last_value", None))
        elif self._is_own and self._run is not None:
            self._run.finish()
        self._forget()

    def _begun(self, config: Mapping[str, object], name: str | None, settings: RunSettings) -> Run:
        try:
            return init(self._project, name, config=config, **settings)
        except TinsmithError as error:
            warnings.warn(f"this training is not recorded: {error}", TelemetryWarning, stacklevel=4)
            return init(self._project, name, store="off")

    def _forget(self) -> None:
        if self in _followed:
            _followed.remove(self)


_followed: list[TrainerRun] = []


def _close_earlier(beginning: TrainerRun) -> None:
    here = threading.get_ident()
    for known in list(_followed):
        if known is beginning or not known.is_training or known.thread == here:
            known.close()


def _close_all() -> None:
    """What trains when the process ends has failed; other runs end as `session` has it."""
    for known in list(_followed):
        if known.is_training:
            known.close()


atexit.register(_close_all)  # after `session`'s, and so called before it
