"""The run directory: `config.json`, `metrics.jsonl`, `checkpoints.jsonl`.

`choose_start` decides whether a run starts new, starts over or goes on; `RunStart.begin` does so.
"""

from __future__ import annotations

import fcntl
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from pydantic import BaseModel

from tinsmith.core.errors import ConfigError
from tinsmith.core.jsonio import dumps
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
    def transcript(self) -> Path:
        return self.path / "transcript.html"

    @property
    def shares(self) -> Path:
        return self.path / "shares.html"

    @property
    def trace(self) -> Path:
        return self.path / "trace.json"

    @property
    def recorded_run(self) -> Path:
        """Holds the id of the run in the recorder's store."""
        return self.path / "recorded_run_id.txt"

    @property
    def lock(self) -> Path:
        return self.path / ".lock"

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that a run writes here."""
        return (
            self.config,
            self.metrics,
            self.checkpoints,
            self.diff,
            self.transcript,
            self.shares,
            self.trace,
            self.path / "wandb_run_id.txt",
            self.recorded_run,
        )

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


@dataclass(frozen=True)
class RunStart:
    """How a run begins; nothing is written before `begin`.

    Attributes:
        run: Its directory.
        record: The checkpoint to go on from; None to start at the beginning.
        is_resumed: Whether the directory's files go on.
    """

    run: RunDir
    record: CheckpointRecord | None
    is_resumed: bool

    @property
    def first_step(self) -> int:
        """Steps that are done already."""
        return 0 if self.record is None else self.record.step

    @contextmanager
    def begin(self, config: BaseModel, manifest: Mapping[str, Any]) -> Iterator[None]:
        """Make the directory ready and keep others out of it until the block ends.

        A fresh run gets its `config.json`; a resumed one has its metrics cut back to the
        checkpoint.

        Args:
            config: The resolved configuration.
            manifest: What else goes into `config.json`; `diff` goes into a file of its own.

        Raises:
            ConfigError: Another process is training in this directory, or it cannot be written to.
        """
        with self._open_lock() as lock:
            try:
                # The system lets go of it when the process ends, however it ends.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ConfigError(
                    f"run_dir={str(self.run.path)!r}: another process is training in it",
                    field="run_dir",
                    hint="wait for it to end, or choose another directory",
                ) from error
            self._prepare_files(config, manifest)
            yield

    def _open_lock(self) -> TextIO:
        try:
            self.run.path.mkdir(parents=True, exist_ok=True)
            return self.run.lock.open("w")
        except OSError as error:
            raise ConfigError(
                f"run_dir={str(self.run.path)!r}: cannot be written to: {error.strerror}",
                field="run_dir",
                hint="choose another directory",
            ) from error

    def _prepare_files(self, config: BaseModel, manifest: Mapping[str, Any]) -> None:
        if self.is_resumed:
            drop_steps_after(self.run.metrics, -1 if self.record is None else self.record.step)
            return
        for file in self.run.files:
            file.unlink(missing_ok=True)
        document = {"config": config.model_dump(mode="json"), **manifest}
        diff = document.pop("diff", "")
        if diff:
            atomic_write_text(self.run.diff, diff + "\n")
        atomic_write_text(self.run.config, dumps(document, indent=2) + "\n")


def choose_start(
    run: RunDir, config: BaseModel, if_exists: IfExists, *, data_sha256: str
) -> RunStart:
    """Decide whether a run starts new, starts over, or goes on.

    Args:
        run: Directory of the run.
        config: The resolved configuration.
        if_exists: What to do with a run that is there.
        data_sha256: Hash of the data; a run goes on only with the data it began with.

    Raises:
        ConfigError: A run is there and `if_exists` does not allow for it, or it has another
            configuration or other data.
    """
    if not run.holds_run():
        return RunStart(run, None, is_resumed=False)
    choice = _ask(run) if if_exists == "ask" else if_exists
    if choice == "raise":
        raise ConfigError(
            f"run_dir={str(run.path)!r}: holds a run",
            field="run_dir",
            hint="set if_exists to resume or delete, or choose another directory",
        )
    if choice == "delete":
        return RunStart(run, None, is_resumed=False)
    before = _read_config(run)
    _check_same_config(before["config"], config)
    if before.get("data", {}).get("sha256") != data_sha256:
        raise ConfigError(
            f"run_dir={str(run.path)!r}: the data has changed since this run began",
            field="data",
            hint="restore the file, or set if_exists=delete to start over",
        )
    return RunStart(run, last_resumable(read_records(run.checkpoints)), is_resumed=True)


def _read_config(run: RunDir) -> dict[str, Any]:
    try:
        document = json.loads(run.config.read_text(encoding="utf-8"))
        return {**document, "config": document["config"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"run_dir={str(run.path)!r}: config.json cannot be read, so nothing can be resumed",
            field="run_dir",
            hint="set if_exists=delete, or choose another directory",
        ) from error


def _check_same_config(before: Mapping[str, Any], config: BaseModel) -> None:
    # The data file is compared by its content: it may be named from another directory now.
    now = config.model_dump(mode="json")
    for name in sorted({*before, *now} - FREE_ON_RESUME - {"data"}):
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
