"""One logger in a process and a folder of its own: what many calls cost it, as JSON.

    python -I bench/recorder_probe.py TOOL FOLDER NUM_CALLS

A call logs two scalars at a step. Timed are each call (wall clock and CPU of the calling thread)
and all calls with the close that makes them durable; start-up is left out. CPU is that of this
process and those it started. It imports nothing of the benchmark: a peer's Python runs it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Log = Callable[[int], object]
Close = Callable[[], object]
TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


def _scalars(step: int) -> dict[str, float]:
    return {"loss": 1.0 / (step + 1), "lr": 1e-4}


def _tinsmith(folder: Path, durability: Any) -> tuple[Log, Close]:  # Any: a literal type
    from tinsmith import telemetry

    run = telemetry.init("bench", "run", store=folder, durability=durability)

    def close() -> None:
        run.finish()
        if run.health:
            raise RuntimeError(f"the recorder lost something: {run.health}")

    return lambda step: run.log(_scalars(step), step=step), close


def _trackio(folder: Path) -> tuple[Log, Close]:
    os.environ["TRACKIO_DIR"] = str(folder)
    import trackio  # pyright: ignore[reportMissingImports] - of the peer's Python

    trackio.init(project="bench", name="run", embed=False)
    return lambda step: trackio.log(_scalars(step), step=step), trackio.finish


def _wandb(folder: Path) -> tuple[Log, Close]:
    os.environ["WANDB_SILENT"] = "true"
    import wandb  # pyright: ignore[reportMissingImports] - of the peer's Python

    run = wandb.init(project="bench", mode="offline", dir=str(folder))
    return lambda step: run.log(_scalars(step), step=step), run.finish


def _tensorboard(folder: Path) -> tuple[Log, Close]:
    from tensorboard.summary import Writer  # pyright: ignore[reportMissingImports] - of the peer's Python

    writer = Writer(str(folder))

    def log(step: int) -> None:
        for name, value in _scalars(step).items():
            writer.add_scalar(name, value, step=step)

    def close() -> None:
        writer.flush()
        writer.close()

    return log, close


def _mlflow(folder: Path) -> tuple[Log, Close]:
    import mlflow  # pyright: ignore[reportMissingImports] - of the peer's Python

    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.create_experiment("bench", artifact_location=str(folder / "artifacts"))
    mlflow.set_experiment("bench")
    mlflow.start_run()
    return lambda step: mlflow.log_metrics(_scalars(step), step=step), mlflow.end_run


TOOLS: dict[str, Callable[[Path], tuple[Log, Close]]] = {
    "tinsmith": lambda folder: _tinsmith(folder, "async"),
    "tinsmith-commit": lambda folder: _tinsmith(folder, "commit"),
    "trackio": _trackio,
    "wandb": _wandb,
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
}


def measure(tool: str, folder: Path, num_calls: int) -> dict[str, float]:
    """Log, close, and say what it cost."""
    log, close = TOOLS[tool](folder)
    log(0)  # what the first call alone does (tables, threads, imports) is start-up
    bytes_before = _num_bytes(folder)
    wall_ns, cpu_ns = [0] * num_calls, [0] * num_calls
    wall, cpu = time.perf_counter_ns, time.thread_time_ns
    cpu_before, began = _all_cpu_s(), wall()
    for i in range(num_calls):
        cpu_start, wall_start = cpu(), wall()
        log(i + 1)
        wall_ns[i] = wall() - wall_start
        cpu_ns[i] = cpu() - cpu_start
    close()
    durable_s = (wall() - began) / 1e9
    all_cpu_s = _all_cpu_s() - cpu_before
    wall_ns.sort()
    cpu_ns.sort()
    return {
        "calls_per_s": num_calls / durable_s,
        "calls_per_cpu_s": num_calls / all_cpu_s,
        "call_us": wall_ns[num_calls // 2] / 1e3,
        "call_p99_us": wall_ns[num_calls * 99 // 100] / 1e3,
        "call_cpu_us": cpu_ns[num_calls // 2] / 1e3,
        "call_cpu_p99_us": cpu_ns[num_calls * 99 // 100] / 1e3,
        "bytes_per_point": (_num_bytes(folder) - bytes_before) / (2 * num_calls),
    }


def _num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _all_cpu_s() -> float:
    """CPU seconds of this process and of all that it started, those that have ended included."""
    ended = os.times()
    return (
        time.process_time()
        + ended.children_user
        + ended.children_system
        + sum(map(_tree_cpu_s, _children(os.getpid())))
    )


def _tree_cpu_s(pid: int) -> float:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        own = sum(int(field) for field in fields[11:15]) * TICK_S
        return own + sum(map(_tree_cpu_s, _children(pid)))
    return 0.0  # it has ended, or there is no /proc


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text(encoding="utf-8").split())
    return found


if __name__ == "__main__":
    tool, directory, count = sys.argv[1:]
    told = measure(tool, Path(directory), int(count))
    print(json.dumps(told), flush=True)
