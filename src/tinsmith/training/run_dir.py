"""The run directory: `config.json`, `metrics.jsonl`, `checkpoints.jsonl`.

`open_run` prepares a new one, clears an old one, or finds where an interrupted run goes on.
"""

from __future__ import annotations

import json
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tinsmith.core.errors import ConfigError
from tinsmith.core.paths import atomic_write_text, runs_dir
from tinsmith.telemetry.recorder import drop_steps_after
from tinsmith.training.checkpoints import CheckpointRecord, last_resumable, read_records
from tinsmith.training.config import FREE_ON_RESUME, IfExists


@dataclass(frozen=True)
class RunDir:
    """Paths of a run's files."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints.jsonl"

    @property
    def diff(self) -> Path:
        return self.path / "code.diff"

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that a run writes here."""
        return self.config, self.metrics, self.checkpoints, self.diff

    def holds_run(self) -> bool:
        return any(file.exists() for file in self.files)


def new_run_dir(kind: str, data: Path) -> Path:
    """A directory under the data directory, named by kind, data and local time."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", data.stem).strip("-") or "data"
    name = f"{kind}-{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    path = runs_dir() / name
    serial = 2
    while path.exists():
        path = runs_dir() / f"{name}-{serial}"
        serial += 1
    return path


def open_run(
    run: RunDir, config: BaseModel, manifest: dict[str, Any], if_exists: IfExists
) -> CheckpointRecord | None:
    """Make `run` ready for writing.

    Args:
        run: Directory, new or used.
        config: The resolved configuration; a resumed run must have the same.
        manifest: What else goes into `config.json`.
        if_exists: What to do with a run that is already there.

    Returns:
        The checkpoint to go on from; None to start at the beginning.

    Raises:
        ConfigError: A run is there and `if_exists` does not allow for it, or it has another
            configuration.
    """
    if run.holds_run():
        choice = _ask(run) if if_exists == "ask" else if_exists
        if choice == "raise":
            raise ConfigError(
                f"run_dir={str(run.path)!r}: holds a run",
                field="run_dir",
                hint="set if_exists to resume or delete, or choose another directory",
            )
        if choice == "resume":
            return _resume(run, config)
        for file in run.files:
            file.unlink(missing_ok=True)
    run.path.mkdir(parents=True, exist_ok=True)
    diff = manifest.pop("diff", "")
    if diff:
        atomic_write_text(run.diff, diff)
    document = {"config": config.model_dump(mode="json"), **manifest}
    atomic_write_text(run.config, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return None


def _resume(run: RunDir, config: BaseModel) -> CheckpointRecord | None:
    _check_same_config(run, config)
    record = last_resumable(read_records(run.checkpoints))
    drop_steps_after(run.metrics, -1 if record is None else record.step)
    return record


def _check_same_config(run: RunDir, config: BaseModel) -> None:
    try:
        before = json.loads(run.config.read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"run_dir={str(run.path)!r}: config.json cannot be read, so nothing can be resumed",
            field="run_dir",
            hint="set if_exists=delete, or choose another directory",
        ) from error
    now = config.model_dump(mode="json")
    for name in sorted({*before, *now} - FREE_ON_RESUME):
        if before.get(name) != now.get(name):
            raise ConfigError(
                f"{name}={now.get(name)!r}: the run to resume has {before.get(name)!r}",
                field=name,
                hint="resume with the same settings, or choose another run_dir",
            )


def _ask(run: RunDir) -> IfExists:
    """Ask on the terminal; without one there is nobody to ask."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return "raise"
    sys.stderr.write(f"{run.path} holds a run. Resume it, delete it, or stop? [r/d/S] ")
    sys.stderr.flush()
    answers: dict[str, IfExists] = {"r": "resume", "d": "delete"}
    return answers.get(sys.stdin.readline().strip().lower()[:1], "raise")
