"""Start-up: how long `import tinsmith` and `tinsmith --help` take in a fresh interpreter.

Main name: `import_measurements`.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator

from bench.measurement import Measurement, Setting
from bench.results import Bound, Row
from bench.timing import median_s

__all__ = ["import_measurements"]

LIMIT_S = 0.3
_TIME_IMPORT = (
    "import time; start = time.perf_counter(); import tinsmith; print(time.perf_counter() - start)"
)
_HELP = "import sys; sys.argv = ['tinsmith', '--help']; from tinsmith.cli import main; main()"


def import_measurements(setting: Setting) -> Iterator[Measurement]:
    """Medians over fresh processes."""
    rounds = 3 if setting.quick else 10
    name = "import tinsmith"
    yield Measurement(name, "", lambda: _row(name, _import_s(rounds)))
    help_name = "tinsmith --help, the whole process"
    yield Measurement(
        help_name,
        "",
        lambda: _row(help_name, median_s(lambda: _python(_HELP), rounds=rounds)),
    )


def _import_s(rounds: int) -> float:
    """Seconds of the import itself; the first round, which fills the disk cache, is left out."""
    seconds = [float(_python(_TIME_IMPORT)) for _ in range(rounds + 1)]
    return statistics.median(seconds[1:])


def _row(name: str, seconds: float) -> Row:
    return Row(name=name, model="", unit="s", ours=seconds, target=Bound("at most", LIMIT_S))


def _python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
