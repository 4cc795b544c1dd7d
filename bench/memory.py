"""Peak memory of training, ours against the bare loop, each in a process of its own.

The headline is the plain peak resident set: what a machine needs to have. `python -m
bench.memory_probe` is the process that is measured. Main name: `memory_measurements`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

from bench.measurement import Measurement, Setting
from bench.models import BenchModel
from bench.results import REPOSITORY, Bound, Row

__all__ = ["memory_measurements"]

TARGET = Bound("at most", 1.1)
COUNT, LENGTH = 16, 256
MIB = 2**20


def memory_measurements(setting: Setting) -> Iterator[Measurement]:
    """The plain peak, and how much of it came after the model was loaded."""
    count = 4 if setting.quick else COUNT
    for model in setting.models:
        measured: dict[str, dict[str, int]] = {}
        for name, key, target in (
            (f"peak memory of training, {count} x {LENGTH} tokens", "peak_bytes", TARGET),
            ("... the part above the loaded model", "step_bytes", None),
        ):
            yield Measurement(
                name,
                model.name,
                lambda name=name, key=key, target=target, model=model, measured=measured: _measure(
                    Row(name, model.name, "MiB", target=target), key, model, count, measured
                ),
            )


def _measure(
    empty: Row, key: str, model: BenchModel, count: int, measured: dict[str, dict[str, int]]
) -> Row:
    """Fill in a row; both processes run once for all rows of a model."""
    for side in ("ours", "peer"):
        if side not in measured:
            measured[side] = _probe(side, model, count)
    ours, peer = measured["ours"][key] / MIB, measured["peer"][key] / MIB
    return Row(
        name=empty.name,
        model=empty.model,
        unit=empty.unit,
        ours=ours,
        peer=peer,
        ratio=ours / peer,
        ratio_range=(ours / peer, ours / peer),
        target=empty.target,
    )


def _probe(side: str, model: BenchModel, count: int) -> dict[str, int]:
    command = [sys.executable, "-m", "bench.memory_probe", "--side", side]
    command += ["--model", str(model.path), "--vocab-size", str(model.vocab_size)]
    command += ["--count", str(count), "--length", str(LENGTH)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    if done.returncode != 0:
        raise RuntimeError(f"{side}: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    return json.loads(done.stdout)
