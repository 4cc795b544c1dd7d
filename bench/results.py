"""What was measured: a `Row` a measurement, a `Report` a run; as JSON.

Main names: `Row`, `Report`, `Bound`, `machine_facts`.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from tinsmith.core.paths import atomic_write_text

__all__ = ["Bound", "Report", "Row", "machine_facts"]

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("tinsmith", "torch", "transformers", "peft")


@dataclass(frozen=True)
class Bound:
    """What a measured value should keep to."""

    kind: Literal["at least", "at most"]
    value: float

    def holds(self, measured: float) -> bool:
        """Whether a value keeps to it."""
        return measured >= self.value if self.kind == "at least" else measured <= self.value

    def __str__(self) -> str:
        return f"{'≥' if self.kind == 'at least' else '≤'} {self.value:g}"


@dataclass(frozen=True)
class Row:
    """One measurement: of ours against a peer, or of ours alone."""

    name: str
    model: str
    unit: str
    ours: float | None = None
    peer: float | None = None
    """None where nothing is compared; the target is then about `ours`."""
    ratio: float | None = None
    """Ours over the peer: the median over rounds of the ratio within a round."""
    ratio_range: tuple[float, float] | None = None
    """Smallest and largest ratio of a round."""
    target: Bound | None = None
    error: str | None = None
    """Why there is no figure."""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target or without a figure."""
        measured = self.ours if self.ratio is None else self.ratio
        if self.target is None or measured is None or self.error is not None:
            return None
        return self.target.holds(measured)

    def to_json(self) -> dict[str, Any]:
        """All fields, and `met`."""
        return {**asdict(self), "met": self.met}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """The row that `to_json` was called on."""
        known = {key: value for key, value in fields.items() if key != "met"}
        if known.get("target"):
            known["target"] = Bound(**known["target"])
        if known.get("ratio_range"):
            low, high = known["ratio_range"]
            known["ratio_range"] = (low, high)
        return cls(**known)


@dataclass
class Report:
    """One run of the benchmark."""

    machine: dict[str, Any]
    options: dict[str, Any]
    """Which groups and models were measured, and whether quickly."""
    rows: list[Row] = field(default_factory=list)
    duration_s: float = 0.0

    @property
    def has_failures(self) -> bool:
        """Whether a measurement gave no figure."""
        return any(row.error is not None for row in self.rows)

    def write(self, path: Path) -> None:
        """Write as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "machine": self.machine,
            "options": self.options,
            "duration_s": round(self.duration_s, 1),
            "rows": [row.to_json() for row in self.rows],
        }
        atomic_write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote."""
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = [Row.from_json(row) for row in content["rows"]]
        return cls(content["machine"], content["options"], rows, content["duration_s"])


def machine_facts() -> dict[str, Any]:
    """What one needs to know to compare two reports."""
    import torch

    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "load_before": round(os.getloadavg()[0], 2),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "revision": _revision(),
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def _memory_gib() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def _revision() -> str | None:
    """The commit, with a `+` where tracked files differ from it; None outside a clone."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(REPOSITORY), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        return commit + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
