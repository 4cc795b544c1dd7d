"""Who is asking: the API key of a request, and how far its view goes."""

from __future__ import annotations

from starlette.requests import Request

from tinsmith.server.metadata.listings import Viewer
from tinsmith.types import AccessScope

KEY_STATE = "tinsmith_key_id"
"""Where the middleware leaves the id of the API key in a request's scope."""


def key_id_of(request: Request) -> int | None:
    """The API key that a request came with; None is the operator."""
    return request.scope.get(KEY_STATE)


def viewer_of(request: Request, scope: AccessScope = "owned") -> Viewer:
    """Who looks at lists; the accessible scope takes in what others have published."""
    return Viewer(key_id_of(request), is_wide=scope == "accessible")
