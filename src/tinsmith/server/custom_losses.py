"""Custom losses that clients upload: checked once, held for their session, looked up by id.

A loss lives in memory as long as its session does in this process. A restart forgets it, as it
forgets the models that use it; the error says so, and uploading it again is one call.
"""

from __future__ import annotations

from collections.abc import Mapping

from tinsmith.algorithms.loss_graph import LossGraph, parse_loss_graph
from tinsmith.core.errors import ConfigError, TinsmithError
from tinsmith.server.errors import RequestError
from tinsmith.server.futures import FutureStore, Outcome
from tinsmith.server.sessions import SessionRegistry
from tinsmith.server.store import MemoryStore
from tinsmith.types import CreateCustomLossRequest

MAX_LOSSES = 256
"""Losses that one session may upload; each may hold some megabytes of arguments."""

MAX_NAME_CHARS = 128
MAX_SEQ_ID = 2**53


class CustomLossRegistry:
    """The uploaded losses of the service. Lives on the event loop."""

    def __init__(self, store: MemoryStore, sessions: SessionRegistry, futures: FutureStore) -> None:
        self._store = store
        self._sessions = sessions
        self._futures = futures
        self._losses: dict[str, dict[str, LossGraph]] = {}

    def create(self, body: CreateCustomLossRequest, *, digest: str) -> str:
        """Takes a loss in; returns the id of the request, whose result names the loss.

        Raises:
            ConfigError: a node is not among the allowed operations; nothing is kept.
            RequestError: the session has too many losses, or another one of this number.
        """
        session_id, number = body.session_id, body.custom_loss_seq_id
        self._sessions.touch(session_id)
        if not 0 <= number <= MAX_SEQ_ID:
            raise RequestError(
                f"custom_loss_seq_id={number}: must be 0..{MAX_SEQ_ID}", field="custom_loss_seq_id"
            )
        if not 1 <= len(body.name) <= MAX_NAME_CHARS:
            raise RequestError(
                f"name={body.name[:80]!r}: must have 1..{MAX_NAME_CHARS} characters", field="name"
            )
        known = self._store.reserve(session_id, "custom_loss_seq_id", number, digest=digest)
        if known is not None:
            return known
        losses = self._losses.setdefault(session_id, {})
        try:
            if len(losses) >= MAX_LOSSES:
                raise RequestError(
                    f"session_id={session_id!r}: has uploaded {MAX_LOSSES} losses, which is the "
                    "most that are held",
                    field="session_id",
                    hint="create a loss once and use its handle again, or open a new session",
                )
            graph = parse_loss_graph(
                body.name,
                [item.model_dump() for item in body.inputs],
                body.graph.model_dump(),
            )
        except TinsmithError:
            self._store.unreserve(session_id, "custom_loss_seq_id", number)
            raise
        loss_id = f"{session_id}:loss:{number}"
        losses[loss_id] = graph
        request_id = self._futures.create(owner_id=session_id)
        answer = {"type": "create_custom_loss", "loss_id": loss_id}
        self._futures.complete(request_id, Outcome.from_json(answer))
        self._store.bind(session_id, "custom_loss_seq_id", number, request_id)
        return request_id

    def find(self, session_id: str, config: Mapping[str, float | str]) -> LossGraph:
        """The loss that a forward_backward with `loss_fn="custom"` names.

        Raises:
            ConfigError: it names none, or one that its session does not have.
        """
        field = "loss_fn_config.loss_id"
        for key in config:
            if key != "loss_id":
                raise ConfigError(
                    f"loss_fn_config.{key}: custom takes no such setting (it takes: loss_id)",
                    field=f"loss_fn_config.{key}",
                )
        loss_id = config.get("loss_id")
        if not isinstance(loss_id, str):
            raise ConfigError(
                f"{field}={loss_id!r}: must be the text that create_custom_loss answered with",
                field=field,
                hint="create the loss first: custom runs an uploaded graph",
            )
        graph = self._losses.get(session_id, {}).get(loss_id)
        if graph is None:
            is_own = loss_id.startswith(f"{session_id}:loss:")
            why = (
                "is not held; losses live in memory, and a restart of the service forgets them"
                if is_own
                else f"belongs to no loss of the model's session {session_id!r}"
            )
            raise ConfigError(
                f"{field}={loss_id[:80]!r}: {why}",
                field=field,
                hint="call create_custom_loss again, in the session of the model",
            )
        return graph

    def end_session(self, session_id: str) -> None:
        """Forgets a session's losses."""
        self._losses.pop(session_id, None)
