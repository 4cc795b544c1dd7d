"""Errors of the service that carry an HTTP status, and their JSON form.

```
TinsmithError
├── ServerError
│   └── UnavailableError        503  a part of the service is away; try again later
└── UserError
    └── RequestError            400
        ├── UnauthorizedError   401
        ├── ForbiddenError      403  somebody else's
        ├── MissingError        404  unknown session, model, sampler, checkpoint, future
        ├── GoneError           410  existed once: finished session, expired future
        │   └── LostError       410  died with its engine; category server
        ├── TooLargeError       413
        └── OverloadedError     429  try again later
```
"""

from __future__ import annotations

import logging

from tinsmith.core.errors import ServerError, TinsmithError, UserError

logger = logging.getLogger(__name__)


class RequestError(UserError):
    """A request that the service refuses; nothing was done."""

    status = 400


class UnauthorizedError(RequestError):
    """The API key is missing or wrong."""

    status = 401


class ForbiddenError(RequestError):
    """The caller may see the thing and not do this to it."""

    status = 403


class MissingError(RequestError):
    """The thing that the request names does not exist."""

    status = 404


class GoneError(RequestError):
    """The thing that the request names existed and is gone for good."""

    status = 410


class LostError(GoneError):
    """A model's engine died, and the model with it."""

    category = "server"


class TooLargeError(RequestError):
    """The request body is above the service's cap; `head` is where it begins, decompressed."""

    status = 413
    head: bytes = b""


class OverloadedError(RequestError):
    """The service holds as much work as it may; the same request may be sent again later."""

    status = 429


class UnavailableError(ServerError):
    """A part of the service is away; the same request may be sent again later."""

    status = 503


def status_of(error: TinsmithError) -> int:
    """HTTP status of an error that a route raised."""
    if isinstance(error, (RequestError, UnavailableError)):
        return error.status
    return 400 if error.category == "user" else 500


def error_body(error: TinsmithError) -> dict[str, str | None]:
    """JSON body of an error answer; `detail` is what protocol clients show."""
    return {
        "detail": str(error),
        "error": type(error).__name__,
        "category": error.category,
        **_particulars(error),
    }


def future_error_body(error: TinsmithError) -> dict[str, str | None]:
    """JSON result of a future whose work failed; clients know it by its `error` key."""
    category = error.category if error.category in ("user", "server") else "unknown"
    return {"error": str(error), "category": category, **_particulars(error)}


def _particulars(error: TinsmithError) -> dict[str, str | None]:
    """What failed, where, and what to do: of a mistake of the user's, never without the last two.

    Where the message alone says what is allowed, the hint that is left is to keep to it.
    """
    field, hint = error.field, error.hint
    if error.category == "user":
        field = field or "request"
        hint = hint or f"change {field} to what is allowed, and send the request again"
    return {"message": error.message, "field": field, "hint": hint}


def as_error(exc: Exception, doing: str) -> TinsmithError:
    """The exception itself if it is ours, else a server error, logged."""
    if isinstance(exc, TinsmithError):
        return exc
    logger.error("%s failed", doing, exc_info=exc)
    text = str(exc).strip().splitlines()
    return ServerError(
        f"{doing} failed in the engine: {type(exc).__name__}: {text[0] if text else ''}",
        hint="the service's log has the details",
    )
