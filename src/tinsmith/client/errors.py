"""The SDK's exceptions, under `TinsmithError`.

    TinsmithError(message, field, hint)
    ├─ APIError(message, body)
    │  ├─ APIConnectionError            no usable answer; also a ConnectionError
    │  │  └─ APITimeoutError            also a TimeoutError
    │  ├─ APIResponseValidationError    an answer that breaks the protocol
    │  └─ APIStatusError(status_code)
    │     400 BadRequestError, 401 AuthenticationError, 402 BillingError,
    │     403 PermissionDeniedError, 404 NotFoundError, 409 ConflictError,
    │     422 UnprocessableEntityError, 429 RateLimitError, >= 500 InternalServerError
    ├─ RequestFailedError(request_id, category)   accepted, and failed later
    │  └─ ResultExpiredError                      finished, and its result is gone
    ├─ SessionLostError(session_id)
    ├─ UnsupportedError              the service lacks an extension of the protocol
    └─ ClientClosedError

Names follow the Tinker SDK. All of them pickle. `category` says whose fault it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from tinsmith.core import jsonio
from tinsmith.core.errors import Category, TinsmithError


class APIError(TinsmithError):
    """A request did not get the answer it needed."""

    def __init__(
        self,
        message: str,
        *,
        body: object = None,
        field: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, field=field, hint=hint)
        self.body = body
        """The answer's body: parsed where it is JSON, else text; None without an answer."""


class APIConnectionError(APIError, ConnectionError):
    """No usable answer: the service could not be reached or broke off."""

    category = "transport"


class APITimeoutError(APIConnectionError, TimeoutError):
    """The service did not answer in time."""


class APIResponseValidationError(APIError):
    """The service answered with something that the protocol does not allow."""

    category = "server"


class APIStatusError(APIError):
    """The service answered with a status of 400 or above."""

    category = "user"

    def __init__(
        self,
        message: str,
        *,
        status_code: int = 0,
        body: object = None,
        field: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, body=body, field=field, hint=hint)
        self.status_code = status_code
        self.retry_after_s: float | None = None
        """The pause that the service asked for, if it did."""


class BadRequestError(APIStatusError, ValueError):
    """400: the request is wrong."""


class AuthenticationError(APIStatusError):
    """401: the API key is missing or unknown."""


class BillingError(APIStatusError):
    """402: the account cannot pay for the request."""


class PermissionDeniedError(APIStatusError):
    """403: the key may not do this."""


class NotFoundError(APIStatusError, LookupError):
    """404: there is no such thing."""


class ConflictError(APIStatusError):
    """409: in conflict with something under way."""


class UnprocessableEntityError(APIStatusError, ValueError):
    """422: the request's shape is wrong."""


class RateLimitError(APIStatusError):
    """429: too much at once."""

    category = "transport"


class InternalServerError(APIStatusError, RuntimeError):
    """500 and above: the service failed."""

    category = "server"


class RequestFailedError(TinsmithError):
    """A request that had been accepted failed when it was carried out.

    `category` is the service's word; where it gives none, the fault is taken to be its own.
    """

    def __init__(
        self,
        message: str,
        request_id: str = "",
        category: Category = "server",
        *,
        field: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, field=field, hint=hint)
        self.request_id = request_id
        self.category = category


class ResultExpiredError(RequestFailedError):
    """The service no longer has the result of a request."""


class SessionLostError(TinsmithError, ConnectionError):
    """The service ended the session; its models cannot be reached through it any more."""

    category = "user"

    def __init__(self, message: str, session_id: str = "", *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.session_id = session_id


class UnsupportedError(TinsmithError, NotImplementedError):
    """The service does not do something that goes beyond the protocol."""

    category = "user"


class ClientClosedError(TinsmithError, RuntimeError):
    """The ServiceClient was closed."""

    category = "user"


class ExperimentalWarning(FutureWarning):
    """Something may change; the SDK's name, which nothing here raises at present."""


TinkerError = TinsmithError
"""The base under its name in the Tinker SDK."""

_CLASS_OF_STATUS: Mapping[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    402: BillingError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    422: UnprocessableEntityError,
    429: RateLimitError,
}


def status_error(status_code: int, content: bytes, *, request: str) -> APIStatusError:
    """The exception for an answer with an error status.

    Args:
        status_code: 400 or above.
        content: the answer's body. The service's own is JSON with `message` or `detail`, and
            `field` and `hint` where it knows them.
        request: what was asked, such as `POST optim_step`.
    """
    body = _parsed(content)
    details = _as_mapping(body)
    message = _text(details.get("message")) or _text(details.get("detail")) or _text(body)
    cls = _CLASS_OF_STATUS.get(status_code)
    if cls is None:
        cls = InternalServerError if status_code >= 500 else APIStatusError
    return cls(
        f"{request}: {message or 'no reason given'} [status {status_code}]",
        status_code=status_code,
        body=body,
        field=_text(details.get("field")),
        hint=_text(details.get("hint")),
    )


def failed_request(payload: Mapping[str, Any], request_id: str) -> RequestFailedError:
    """The exception for a future whose result is an error."""
    said = payload.get("category")
    category: Category = "user" if said == "user" else "server"
    message = _text(payload.get("message")) or _text(payload.get("error"))
    return RequestFailedError(
        message or "the request failed and the service did not say why",
        request_id,
        category,
        field=_text(payload.get("field")),
        hint=_text(payload.get("hint")),
    )


def _parsed(content: bytes) -> object:
    try:
        return cast("object", jsonio.loads(content))
    except ValueError:
        return content.decode("utf-8", errors="replace")[:2000] or None


def _as_mapping(body: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", body) if isinstance(body, dict) else {}


def _text(value: object) -> str | None:
    """A non-empty text, also of the lists that validation errors come in."""
    if isinstance(value, str):
        return value.strip() or None
    return None if not value or isinstance(value, dict) else str(value)
