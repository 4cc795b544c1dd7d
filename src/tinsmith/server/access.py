"""Who is asking: the API key behind the request at hand, and how far its view goes.

The key check puts the key's id into a context variable for as long as the request is handled, on
whatever thread. Work that no request asked for (timers, the engine's answers) runs as the operator.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from tinsmith.server.metadata.listings import Viewer
from tinsmith.types import AccessScope

_key_id: ContextVar[int | None] = ContextVar("tinsmith_key_id", default=None)


@contextlib.contextmanager
def acting_as(key_id: int | None) -> Iterator[None]:
    """Handles a request for an API key; None is the operator."""
    token = _key_id.set(key_id)
    try:
        yield
    finally:
        _key_id.reset(token)


def current_key_id() -> int | None:
    """The API key of the request at hand; None is the operator, who may do everything."""
    return _key_id.get()


def may_use(owner_key_id: int | None) -> bool:
    """Whether the request at hand may use what a key made."""
    return current_key_id() in (None, owner_key_id)


def viewer_of(scope: AccessScope = "owned") -> Viewer:
    """Who looks at lists; the accessible scope takes in what others have published."""
    return Viewer(current_key_id(), is_wide=scope == "accessible")
