"""What the service knows while it runs: sessions, models and samplers, in memory.

One module holds all of it, so that a persistent metadata store can take its place. Records are
mutable on purpose: each is the single place of its facts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinsmith.server.errors import GoneError, MissingError, RequestError
from tinsmith.types import LoraConfig

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


@dataclass(slots=True)
class ModelRecord:
    """One model in training: an adapter behind an ordered lane of one engine."""

    model_id: str
    session_id: str
    base_model: str
    lora_config: LoraConfig
    user_metadata: dict[str, Any] | None
    unit: EngineUnit


@dataclass(slots=True)
class SamplerRecord:
    """One sampling session: a base model, or one immutable snapshot on it."""

    sampler_id: str
    session_id: str
    base_model: str
    model_path: str | None = None
    directory: Path | None = None
    snapshot_id: str | None = None
    unit: EngineUnit | None = None
    """The engine whose memory holds a snapshot that is on no disk."""


class MemoryStore:
    """Records by id. Lookups raise errors that name the field."""

    def __init__(self) -> None:
        self.sessions: dict[str, SessionRecord] = {}
        self.models: dict[str, ModelRecord] = {}
        self.samplers: dict[str, SamplerRecord] = {}
        self._reserved: dict[tuple[str, str, int], tuple[str, str]] = {}

    def session(self, session_id: str) -> SessionRecord:
        """A living session.

        Raises:
            MissingError: never opened here.
            GoneError: over.
        """
        record = self.sessions.get(session_id)
        if record is None:
            raise MissingError(
                f"session_id={session_id!r}: unknown",
                field="session_id",
                hint="sessions end with the service: open a new one",
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
        """
        record = self.models.get(model_id)
        if record is None:
            self._check_session_of(model_id)
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
        if record is None:
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

    def reserve(self, session_id: str, field_name: str, number: int, *, digest: str) -> str | None:
        """Takes a per-session sequence number for a request of this content.

        Returns:
            What `bind` noted for the number when this is a repetition, else None.

        Raises:
            RequestError: the number belongs to different content.
        """
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
