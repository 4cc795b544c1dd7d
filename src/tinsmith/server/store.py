"""What the service knows while it runs: sessions, models and samplers, in memory.

Every change is also told to the metadata database, from which `restore` takes up what an earlier
process left. Records are mutable on purpose: each is the single place of its facts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tinsmith.server.access import may_use
from tinsmith.server.errors import GoneError, LostError, MissingError, RequestError
from tinsmith.server.metadata.writes import MetadataWrites, NullWrites
from tinsmith.types import LoraConfig, OptimizerConfig

if TYPE_CHECKING:
    from tinsmith.server.engines import EngineUnit


@dataclass(slots=True)
class SessionRecord:
    """One client's session."""

    session_id: str
    last_seen_s: float
    tags: list[str] = field(default_factory=list[str])
    user_metadata: dict[str, Any] = field(default_factory=dict[str, Any])  # the user's own JSON
    ended: str | None = None
    """Why the session is over, or None while it lives."""
    details: dict[str, Any] = field(default_factory=dict[str, Any])  # Any: what else clients tell
    key_id: int | None = None
    created_at: float = field(default_factory=lambda: round(time.time(), 6))
    noted_at: float = 0.0
    """When its last sign of life was written down."""


@dataclass(slots=True)
class ModelRecord:
    """One model in training: an adapter behind an ordered lane of one engine."""

    model_id: str
    session_id: str
    base_model: str
    lora_config: LoraConfig
    user_metadata: dict[str, Any] | None
    unit: EngineUnit
    optimizer_config: OptimizerConfig
    key_id: int | None = None
    created_at: float = field(default_factory=time.time)
    noted_at: float = 0.0
    """When its last request was written down."""


@dataclass(slots=True)
class SamplerRecord:
    """One sampling session: a base model, or one immutable snapshot on it at a time."""

    sampler_id: str
    session_id: str
    base_model: str
    model_path: str | None = None
    directory: Path | None = None
    snapshot_id: str | None = None
    unit: EngineUnit | None = None
    """The engine whose memory holds a snapshot that is on no disk."""
    inflight_model_id: str | None = None
    """The model whose in-flight saves move the session to newer snapshots; None: it stays."""

    @property
    def is_lost(self) -> bool:
        """Whether its weights were in the memory of an earlier process only."""
        return self.snapshot_id is not None and self.model_path is None and self.unit is None


ModelState = Literal["creating", "live", "unloaded", "failed", "lost"]

NOTE_EVERY_S = 1.0
"""Signs of life are written down no more often than this."""


class MemoryStore:
    """Records by id. Lookups raise errors that name the field."""

    def __init__(self, writes: MetadataWrites | None = None, boot_id: str = "") -> None:
        self._writes = writes or NullWrites()
        self._boot_id = boot_id
        self.on_expiring: Callable[[float], None] = lambda _: None
        """Hears when a new checkpoint expires."""
        self.is_closing = False
        """Set when the service stops: from then on models end with it, not by themselves."""
        self.lost_models: dict[str, str | None] = {}
        """Models of earlier processes, with the checkpoints to resume them from."""
        self.sessions: dict[str, SessionRecord] = {}
        self.models: dict[str, ModelRecord] = {}
        self.samplers: dict[str, SamplerRecord] = {}
        self._reserved: dict[tuple[str, str, int], tuple[str, str]] = {}

    def add_session(self, record: SessionRecord) -> None:
        """Takes a new session in."""
        self.sessions[record.session_id] = record
        record.noted_at = record.created_at
        row = {
            "session_id": record.session_id,
            "boot_id": self._boot_id,
            "key_id": record.key_id,
            "created_at": record.created_at,
            "last_seen_at": record.created_at,
            "ended_at": None,
            "ended": None,
            "tags": record.tags,
            "user_metadata": record.user_metadata,
            "details": record.details,
        }
        self._writes.put("sessions", row)

    def note_session(self, record: SessionRecord) -> None:
        """Writes down that a session was heard of just now, or that it ended."""
        now = time.time()
        if record.ended is not None:
            values = {"ended": record.ended, "ended_at": now, "details": record.details}
            self._writes.change("sessions", record.session_id, values)
        elif now - record.noted_at >= NOTE_EVERY_S:
            record.noted_at = now
            self._writes.change("sessions", record.session_id, {"last_seen_at": now})

    def add_model(self, record: ModelRecord) -> None:
        """Takes a new model in."""
        self.models[record.model_id] = record
        record.noted_at = record.created_at
        row = {
            "model_id": record.model_id,
            "session_id": record.session_id,
            "boot_id": self._boot_id,
            "key_id": record.key_id,
            "base_model": record.base_model,
            "lora_config": record.lora_config.model_dump(mode="json"),
            "user_metadata": record.user_metadata,
            "created_at": record.created_at,
            "last_request_at": record.created_at,
            "state": "creating",
        }
        self._writes.put("models", row)

    def note_request(self, record: ModelRecord) -> None:
        """Writes down that a request for a model came just now."""
        now = time.time()
        if now - record.noted_at >= NOTE_EVERY_S:
            record.noted_at = now
            self._writes.change("models", record.model_id, {"last_request_at": now})

    def note_state(self, model_id: str, state: ModelState) -> None:
        """Writes down what became of a model."""
        if not self.is_closing:
            self._writes.change("models", model_id, {"state": state})

    def set_lora_config(self, record: ModelRecord, lora_config: LoraConfig) -> None:
        """Notes what a model's adapter really is."""
        record.lora_config = lora_config
        config = lora_config.model_dump(mode="json")
        self._writes.change("models", record.model_id, {"lora_config": config})

    def add_sampler(self, record: SamplerRecord) -> None:
        """Takes a new sampling session in."""
        self.samplers[record.sampler_id] = record
        row = {
            "sampler_id": record.sampler_id,
            "session_id": record.session_id,
            "base_model": record.base_model,
            "model_path": record.model_path,
            "snapshot_id": record.snapshot_id,
            "created_at": time.time(),
        }
        self._writes.put("samplers", row)

    def move_inflight(self, model_id: str, snapshot_id: str) -> set[str]:
        """Moves the in-flight sampling sessions of a model to newer weights.

        Returns:
            Snapshots that no sampling session has any longer.
        """
        moved = [s for s in self.samplers.values() if s.inflight_model_id == model_id]
        left = {s.snapshot_id for s in moved if s.snapshot_id is not None}
        for sampler in moved:
            sampler.snapshot_id = snapshot_id
        return self.unneeded(left)

    def unneeded(self, snapshot_ids: set[str]) -> set[str]:
        """Those snapshots among the given ones that no sampling session has."""
        return snapshot_ids - {sampler.snapshot_id for sampler in self.samplers.values()}

    def add_checkpoint(self, row: dict[str, object]) -> None:
        """Writes down a checkpoint that is complete on disk."""
        expires_at = row["expires_at"]
        if isinstance(expires_at, float):
            self.on_expiring(expires_at)
        self._writes.put("checkpoints", row)

    def session(self, session_id: str) -> SessionRecord:
        """A living session.

        Raises:
            MissingError: never opened here.
            GoneError: over.
        """
        record = self.sessions.get(session_id)
        if record is None or not may_use(record.key_id):
            raise MissingError(
                f"session_id={session_id!r}: unknown",
                field="session_id",
                hint="open a new session",
            )
        if record.ended is not None:
            raise GoneError(
                f"session_id={session_id!r}: {record.ended}",
                field="session_id",
                hint="open a new session",
            )
        return record

    def model(self, model_id: str) -> ModelRecord:
        """A model by its id, living or not.

        Raises:
            MissingError: never created here.
            GoneError: its session is over.
            LostError: it was in the memory of an earlier process.
        """
        record = self.models.get(model_id)
        if record is None or not may_use(record.key_id):
            self._check_session_of(model_id)
            if model_id in self.lost_models and self._may_use_session_of(model_id):
                raise self._lost(model_id, field="model_id")
            raise MissingError(
                f"model_id={model_id!r}: unknown",
                field="model_id",
                hint="create a model, or load a checkpoint into one",
            )
        return record

    def sampler(self, sampler_id: str) -> SamplerRecord:
        """A sampling session by its id.

        Raises:
            MissingError: never opened here, or not complete yet.
            GoneError: its session is over.
        """
        record = self.samplers.get(sampler_id)
        if record is None or not self._may_use_session_of(sampler_id):
            self._check_session_of(sampler_id)
            raise MissingError(
                f"sampling_session_id={sampler_id!r}: unknown",
                field="sampling_session_id",
                hint="open a sampling session, or wait for the save that opens it",
            )
        return record

    def _check_session_of(self, derived_id: str) -> None:
        """Raises when the session that an id was derived from is over."""
        session_id = derived_id.partition(":")[0]
        if session_id in self.sessions:
            self.session(session_id)

    def _may_use_session_of(self, derived_id: str) -> bool:
        session = self.sessions.get(derived_id.partition(":")[0])
        return may_use(None if session is None else session.key_id)

    def reserve(self, session_id: str, field_name: str, number: int, *, digest: str) -> str | None:
        """Takes a per-session sequence number for a request of this content.

        Returns:
            What `bind` noted for the number when this is a repetition, else None.

        Raises:
            RequestError: the number belongs to different content.
            LostError: an earlier process of the service answered the number.
        """
        model_id = f"{session_id}:train:{number}"
        if field_name == "model_seq_id" and model_id in self.lost_models:
            raise self._lost(model_id, field=field_name)
        key = (session_id, field_name, number)
        taken = self._reserved.setdefault(key, (digest, ""))
        if taken[0] != digest:
            raise RequestError(
                f"{field_name}={number}: already used by a different request of "
                f"session_id={session_id!r}",
                field=field_name,
                hint="give every new request of a session the next number",
            )
        return taken[1] or None

    def bind(self, session_id: str, field_name: str, number: int, answer: str) -> None:
        """Notes what a repetition of the reserved request is answered with."""
        key = (session_id, field_name, number)
        self._reserved[key] = (self._reserved[key][0], answer)

    def unreserve(self, session_id: str, field_name: str, number: int) -> None:
        """Gives a number back: its request was refused."""
        self._reserved.pop((session_id, field_name, number), None)

    def forget_session(self, session_id: str) -> None:
        """Drops the models, samplers and reservations of a session; its record stays."""
        self.models = {k: v for k, v in self.models.items() if v.session_id != session_id}
        self.samplers = {k: v for k, v in self.samplers.items() if v.session_id != session_id}
        self._reserved = {k: v for k, v in self._reserved.items() if k[0] != session_id}
        self.lost_models = {
            k: v for k, v in self.lost_models.items() if k.partition(":")[0] != session_id
        }

    def _lost(self, model_id: str, *, field: str) -> LostError:
        path = self.lost_models[model_id]
        return LostError(
            f"model_id={model_id!r}: was in the memory of a service that has been restarted",
            field=field,
            hint=resume_hint(path),
        )


def resume_hint(path: str | None) -> str:
    """How to go on after a restart; `path` is the last training checkpoint, if there is one."""
    if path is None:
        return "it has no checkpoint to resume from: make a new model"
    return f"resume from the last checkpoint: load {path} into a new model"
