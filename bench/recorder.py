"""Recording: what `log` costs against trackio, W&B offline, TensorBoard and MLflow, and a step.

Every logger runs in a fresh process and folder (`recorder_probe`), ours right before each round of
a peer's; a call logs two scalars at a step. "Durable" is until everything is on disk and closed. On
a busy machine the rows of CPU are the ones to go by: other programs hardly change them. Peers are
those of the Python that `TINSMITH_BENCH_PEERS` names, by default this one; an absent peer has no
rows, and that is said. Main name: `recorder_measurements`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from bench.measurement import Measurement, Setting
from bench.results import REPOSITORY, Bound, Row

__all__ = ["PEERS", "PEERS_VARIABLE", "recorder_measurements"]

FIND = """
import importlib.util, sys
print(*[name for name in sys.argv[1:] if importlib.util.find_spec(name)])
"""
PEERS_VARIABLE = "TINSMITH_BENCH_PEERS"
NUM_CALLS = 20_000
STEP_SEQUENCES, STEP_LENGTH = 16, 64
"""A step as small as the demo's: recording weighs more in it than in any real one."""
PACE_S = 0.1
"""Twice the time between commits: nothing is saved by committing steps together."""
Costs = dict[str, float]


class _Peer(NamedTuple):
    """A logger to compare with."""

    tool: str
    name: str
    rounds: int
    num_calls: int
    durable_target: Bound | None = None


PEERS = (
    _Peer("trackio", "trackio", 3, NUM_CALLS, Bound("at least", 3.0)),
    _Peer("wandb", "W&B offline", 1, NUM_CALLS, Bound("at least", 10.0)),
    _Peer("tensorboard", "TensorBoard", 1, NUM_CALLS),
    _Peer("mlflow", "MLflow, SQLite", 1, 1_000),
)
COMPARED = (
    ("recorder, durable calls", "calls_per_s", "calls/s"),
    ("recorder, calls a CPU second, all processes", "calls_per_cpu_s", "calls/s"),
    ("recorder, a call, median", "call_us", "us"),
    ("recorder, a call, p99", "call_p99_us", "us"),
    ("recorder, CPU of a call, median", "call_cpu_us", "us"),
    ("recorder, CPU of a call, p99", "call_cpu_p99_us", "us"),
    ("recorder, a point on disk", "bytes_per_point", "bytes"),
)
CPU_TARGETS = {"call_cpu_us": Bound("at most", 2.0), "call_cpu_p99_us": Bound("at most", 50.0)}


def recorder_measurements(setting: Setting) -> Iterator[Measurement]:
    """Ours alone in both modes, ours against each peer, and the share of a training step."""
    for tool, mode in (("tinsmith", "async"), ("tinsmith-commit", "commit")):
        costs = cache(lambda tool=tool: _ours(tool, setting))
        for name, key, unit in COMPARED:
            target = CPU_TARGETS.get(key) if tool == "tinsmith" else None
            row = Row(name, mode, unit, target=target)
            yield Measurement(
                name, mode, lambda row=row, key=key, costs=costs: _alone(row, key, costs())
            )
    for peer in _present_peers():
        rounds = cache(lambda peer=peer: _rounds(peer, setting))
        for name, key, unit in COMPARED:
            target = peer.durable_target if key == "calls_per_s" else None
            row = Row(name, f"against {peer.name}", unit, target=target)
            yield Measurement(
                name,
                row.model,
                lambda row=row, key=key, rounds=rounds: _against(row, key, rounds()),
            )
    name = "recorder, part of a training step's time"
    yield Measurement(name, "tiny", lambda: _share_of_step(name, setting))


def _present_peers() -> list[_Peer]:
    tools = [peer.tool for peer in PEERS]
    found = _run([_peers_python(), "-I", "-c", FIND, *tools]).split()
    absent = [peer.name for peer in PEERS if peer.tool not in found]
    if absent:
        print(
            f"not compared: {', '.join(absent)} (not installed for {_peers_python()}; name a "
            f"Python that has them in {PEERS_VARIABLE})",
            file=sys.stderr,
            flush=True,
        )
    return [peer for peer in PEERS if peer.tool in found]


def _peers_python() -> str:
    return os.environ.get(PEERS_VARIABLE) or sys.executable


def _ours(tool: str, setting: Setting) -> Costs:
    """The median of processes, for each cost."""
    count = 1 if setting.quick or tool == "tinsmith-commit" else 3
    rounds = [_probe(tool, setting, NUM_CALLS) for _ in range(count)]
    return {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}


def _rounds(peer: _Peer, setting: Setting) -> list[tuple[Costs, Costs]]:
    return [
        (
            _probe("tinsmith", setting, NUM_CALLS),
            _probe(peer.tool, setting, peer.num_calls),
        )
        for _ in range(1 if setting.quick else peer.rounds)
    ]


def _probe(tool: str, setting: Setting, num_calls: int) -> Costs:
    """What a logger costs in a fresh process and folder."""
    with tempfile.TemporaryDirectory(dir=setting.scratch) as directory:
        folder = Path(directory) / "record"
        folder.mkdir()
        is_ours = tool.startswith("tinsmith")
        program = str(REPOSITORY / "bench" / "recorder_probe.py")
        python = [sys.executable, "-P"] if is_ours else [_peers_python(), "-I"]
        calls = num_calls // 100 if setting.quick else num_calls
        # A home of its own: a peer's settings and caches are not this user's.
        told = _run([*python, program, tool, str(folder), str(calls)], {"HOME": directory})
    return json.loads(told.splitlines()[-1])


def _run(command: list[str], variables: dict[str, str] | None = None) -> str:
    environment = {**os.environ, **(variables or {})}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["no output"]
        raise RuntimeError(f"{command[0]}: {said[-1]}")
    return done.stdout


def _alone(row: Row, key: str, costs: Costs) -> Row:
    return Row(row.name, row.model, row.unit, ours=costs[key], target=row.target)


def _against(row: Row, key: str, rounds: list[tuple[Costs, Costs]]) -> Row:
    ratios = [ours[key] / peer[key] for ours, peer in rounds]
    return Row(
        row.name,
        row.model,
        row.unit,
        ours=statistics.median(ours[key] for ours, _ in rounds),
        peer=statistics.median(peer[key] for _, peer in rounds),
        ratio=statistics.median(ratios),
        ratio_range=(min(ratios), max(ratios)),
        target=row.target,
    )


def _share_of_step(name: str, setting: Setting) -> Row:
    """CPU time of all that recording a step costs, over the step's time.

    The record is what the supervised loop makes, each step's in a commit of its own. The step is
    the bundled model's on the engine, the fastest of some, without the service.
    """
    step_s = _step_s(setting)
    return Row(
        name,
        "tiny",
        "%",
        ours=_record_cpu_s(setting) / step_s * 100,
        target=Bound("at most", 1.0),
    )


def _step_s(setting: Setting) -> float:
    from bench.batches import datums, equal_examples
    from bench.engines import EngineSide
    from bench.models import tiny_model
    from bench.timing import seconds_of

    model = tiny_model(quick=setting.quick)
    engine = EngineSide(model)
    batch = datums(equal_examples(STEP_SEQUENCES, STEP_LENGTH, model.vocab_size))
    data = {engine.adapter_ids[0]: batch}
    rounds = 2 if setting.quick else 15
    return min(seconds_of(lambda: engine.train_step(data)) for _ in range(rounds))


def _record_cpu_s(setting: Setting) -> float:
    """CPU seconds of this process for recording one step."""
    from tinsmith import telemetry
    from tinsmith.training import names
    from tinsmith.training.recording import RunRecorder

    num_steps = 5 if setting.quick else 100
    keys = (
        names.TRAIN_NLL,
        names.TRAIN_NUM_SEQUENCES,
        names.TRAIN_NUM_TOKENS,
        names.TRAIN_NUM_LOSS_TOKENS,
        names.OPTIM_LEARNING_RATE,
        names.PROGRESS_EPOCH,
        names.TIME_STEP_S,
        f"{names.OPTIM_PREFIX}grad_norm",
        f"{names.OPTIM_PREFIX}weight_norm",
        f"{names.OPTIM_PREFIX}update_norm",
    )
    run = telemetry.init("bench", "step", store=setting.scratch / "step")
    recorder = RunRecorder(run)
    recorder.log(0, dict.fromkeys(keys, 1.0))
    run.flush()
    before_s = time.process_time()
    for step in range(1, num_steps + 1):
        recorder.log(step, dict.fromkeys(keys, 1.0 / step))
        time.sleep(PACE_S)
    run.flush()
    cost_s = (time.process_time() - before_s) / num_steps
    run.finish()
    if run.health:
        raise RuntimeError(f"the recorder lost something: {run.health}")
    return cost_s
