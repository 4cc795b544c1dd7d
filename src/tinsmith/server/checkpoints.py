"""Checkpoints on disk: `tinker://` paths to directories, and the facts kept beside the weights.

`<root>/<run>/weights/<name>/` holds training state, `sampler_weights/<name>/` a PEFT adapter, and
`external_weights/<name>/` one that was exported; each has a `checkpoint.json`, written last,
without which a directory is no checkpoint. Everything is resolved from disk, so checkpoints outlive
the process that wrote them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from tinsmith.core.jsonio import dumps
from tinsmith.core.paths import atomic_write_text
from tinsmith.server.errors import MissingError, RequestError
from tinsmith.types import AdamOptimizerConfig, LoraConfig, OptimizerConfig

logger = logging.getLogger(__name__)

RECORD_FILE = "checkpoint.json"
SCHEME = "tinker://"
MAX_NAME_BYTES = 180

CheckpointKind = Literal["weights", "sampler_weights", "external_weights"]
MADE_BY: dict[CheckpointKind, str] = {
    "weights": "save_weights",
    "sampler_weights": "save_weights_for_sampler",
    "external_weights": "save_weights_external",
}


class CheckpointRecord(BaseModel):
    """Facts about a checkpoint, kept beside its weights."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    path: str
    model_id: str
    base_model: str
    lora_config: LoraConfig
    optimizer_config: OptimizerConfig = AdamOptimizerConfig()
    created_at: str
    """RFC 3339, UTC."""
    user_metadata: dict[str, Any] | None = None  # Any: the user's own JSON
    snapshot_id: str | None = None
    """Content address; sampler weights only."""
    key_id: int | None = None
    """API key of the owner; None belongs to the service's operator."""
    expires_at: float | None = None
    """When it was to be deleted as it was saved, in seconds since 1970; None keeps it."""

    def row(self, size_bytes: int) -> dict[str, object]:
        """What the metadata database knows of it."""
        path = CheckpointPath.from_text(self.path)
        return {
            "path": self.path,
            "model_id": self.model_id,
            "kind": path.kind,
            "key_id": self.key_id,
            "base_model": self.base_model,
            "created_at": datetime.fromisoformat(self.created_at).timestamp(),
            "size_bytes": size_bytes,
            "is_public": False,
            "expires_at": self.expires_at,
            "user_metadata": self.user_metadata,
        }


@dataclass(frozen=True, slots=True)
class CheckpointPath:
    """The parts of `tinker://<run>/<kind>/<name>`."""

    run_id: str
    kind: CheckpointKind
    name: str

    @classmethod
    def from_text(cls, text: str) -> CheckpointPath:
        """Takes a path apart that the service itself has made."""
        run_id, kind, name = text.removeprefix(SCHEME).split("/")
        assert kind in MADE_BY
        return cls(run_id, cast("CheckpointKind", kind), name)

    def __str__(self) -> str:
        return f"{SCHEME}{self.run_id}/{self.kind}/{self.name}"


def parse_checkpoint_path(text: str, *, field: str, kind: CheckpointKind) -> CheckpointPath:
    """Splits a `tinker://` path and checks that it is of the wanted kind.

    Raises:
        RequestError: naming `field`, when the path is malformed or of another kind.
    """
    parts = text.removeprefix(SCHEME).split("/")
    if not text.startswith(SCHEME) or len(parts) != 3 or not all(parts):
        raise RequestError(
            f"{field}={text!r}: must look like {SCHEME}<run>/{kind}/<name>",
            field=field,
            hint="use the path that the save returned",
        )
    run_id, found, name = parts
    if found != kind:
        other = MADE_BY[kind]
        raise RequestError(
            f"{field}={text!r}: is of kind {found!r}, must be {kind!r}",
            field=field,
            hint=f"use a path that {other} returned",
        )
    return CheckpointPath(run_id, kind, check_name(name, field=field))


def parse_any_checkpoint_path(text: str, *, field: str) -> CheckpointPath:
    """Splits a `tinker://` path of any kind.

    Raises:
        RequestError: naming `field`, when the path is malformed.
    """
    kind: CheckpointKind = "weights"
    for known in MADE_BY:
        if known in text.removeprefix(SCHEME).split("/")[1:2]:
            kind = known
    return parse_checkpoint_path(text, field=field, kind=kind)


def check_name(name: str, *, field: str) -> str:
    """Returns a checkpoint name that can be part of a path.

    Raises:
        RequestError: naming `field`, when it cannot.
    """
    is_plain = name.isprintable() and not set(name) & set("/\\")
    if not name or not is_plain or name in (".", "..") or len(_encoded(name)) > MAX_NAME_BYTES:
        raise RequestError(
            f"{field}={name[:80]!r}: must be a plain name of 1..{MAX_NAME_BYTES} characters "
            "without slashes",
            field=field,
            hint="for example 'step-100'",
        )
    return name


class CheckpointStore:
    """The checkpoints below one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def directory(self, path: CheckpointPath) -> Path:
        """Where a checkpoint lies, whether or not it exists."""
        return self.root / _encoded(path.run_id) / path.kind / _encoded(path.name)

    def size_bytes(self, path: CheckpointPath) -> int:
        """Bytes of an existing checkpoint's files."""
        return _size_bytes(self.directory(path))

    def files(self, path: CheckpointPath) -> list[str]:
        """A checkpoint's own files, relative to it; its record is the service's."""
        directory = self.directory(path)
        found = [file for file in directory.rglob("*") if file.is_file()]
        names = sorted(file.relative_to(directory).as_posix() for file in found)
        return [name for name in names if name != RECORD_FILE]

    def set_expiry(self, path: CheckpointPath, expires_at: float | None) -> None:
        """Changes the expiry in a checkpoint's record, which outlives the database."""
        record = self.read(path, field="path").model_copy(update={"expires_at": expires_at})
        text = dumps(record.model_dump(mode="json", exclude_none=True))
        atomic_write_text(self.directory(path) / RECORD_FILE, text)

    def scan(self) -> Iterator[tuple[CheckpointRecord, int]]:
        """Every complete checkpoint on disk, with its size in bytes."""
        for file in self.root.glob(f"*/*/*/{RECORD_FILE}"):
            try:
                record = CheckpointRecord.model_validate_json(file.read_bytes())
                path = CheckpointPath.from_text(record.path)
            except (OSError, ValidationError, ValueError, AssertionError):
                logger.warning("%s cannot be read and is left alone", file)
                continue
            if self.directory(path) == file.parent:  # not one in the making
                yield record, _size_bytes(file.parent)

    def read(self, path: CheckpointPath, *, field: str) -> CheckpointRecord:
        """The facts of an existing checkpoint.

        Raises:
            MissingError: there is none, or its record cannot be read.
        """
        try:
            text = (self.directory(path) / RECORD_FILE).read_bytes()
            return CheckpointRecord.model_validate_json(text)
        except (OSError, ValidationError) as exc:
            raise MissingError(
                f"{field}={str(path)!r}: no such checkpoint",
                field=field,
                hint="use the path that the save returned",
            ) from exc


def _size_bytes(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def _encoded(part: str) -> str:
    """A file name for a run id or checkpoint name; one to one, safe on every file system."""
    text = quote(part, safe="-_+=@ ")
    return "%2E" + text[1:] if text.startswith(".") else text
