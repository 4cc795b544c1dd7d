"""Checkpoints on disk: `tinker://` paths to directories, and the facts kept beside the weights.

`<root>/<run>/weights/<name>/` holds training state, `<root>/<run>/sampler_weights/<name>/` a PEFT
adapter; each has a `checkpoint.json`, written last, without which a directory is no checkpoint.
Everything is resolved from disk, so checkpoints outlive the process that wrote them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from tinsmith.server.errors import MissingError, RequestError
from tinsmith.types import LoraConfig

RECORD_FILE = "checkpoint.json"
SCHEME = "tinker://"
MAX_NAME_BYTES = 180

CheckpointKind = Literal["weights", "sampler_weights"]


class CheckpointRecord(BaseModel):
    """Facts about a checkpoint, kept beside its weights."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    path: str
    model_id: str
    base_model: str
    lora_config: LoraConfig
    created_at: str
    """RFC 3339, UTC."""
    user_metadata: dict[str, Any] | None = None  # Any: the user's own JSON
    snapshot_id: str | None = None
    """Content address; sampler weights only."""


@dataclass(frozen=True, slots=True)
class CheckpointPath:
    """The parts of `tinker://<run>/<kind>/<name>`."""

    run_id: str
    kind: CheckpointKind
    name: str

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
        other = "save_weights" if kind == "weights" else "save_weights_for_sampler"
        raise RequestError(
            f"{field}={text!r}: is of kind {found!r}, must be {kind!r}",
            field=field,
            hint=f"use a path that {other} returned",
        )
    return CheckpointPath(run_id, kind, check_name(name, field=field))


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


def _encoded(part: str) -> str:
    """A file name for a run id or checkpoint name; one to one, safe on every file system."""
    text = quote(part, safe="-_+=@ ")
    return "%2E" + text[1:] if text.startswith(".") else text
