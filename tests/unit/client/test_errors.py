import json
import pickle

import pytest

from tinsmith.client import errors
from tinsmith.client.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    BadRequestError,
    ClientClosedError,
    InternalServerError,
    RequestFailedError,
    ResultExpiredError,
    SessionLostError,
    failed_request,
    status_error,
)
from tinsmith.core.errors import TinsmithError

EXAMPLES: list[TinsmithError] = [
    APIConnectionError("no answer", hint="is it running?"),
    APITimeoutError("late", body="x"),
    errors.APIResponseValidationError("odd", body={"a": 1}),
    *[
        status_error(code, b'{"message": "no", "field": "rank", "hint": "less"}', request="POST x")
        for code in (400, 401, 402, 403, 404, 409, 418, 422, 429, 500, 503)
    ],
    RequestFailedError("too long", "r1", "user", field="data"),
    ResultExpiredError("gone", "r2"),
    SessionLostError("lost", "S", hint="new one"),
    ClientClosedError("closed"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_every_error_pickles_with_its_attributes(error: TinsmithError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
    assert copy.category == error.category


@pytest.mark.parametrize(
    ("code", "name", "category"),
    [
        (400, "BadRequestError", "user"),
        (401, "AuthenticationError", "user"),
        (402, "BillingError", "user"),
        (403, "PermissionDeniedError", "user"),
        (404, "NotFoundError", "user"),
        (409, "ConflictError", "user"),
        (418, "APIStatusError", "user"),
        (422, "UnprocessableEntityError", "user"),
        (429, "RateLimitError", "transport"),
        (500, "InternalServerError", "server"),
        (599, "InternalServerError", "server"),
    ],
)
def test_a_status_has_its_class(code: int, name: str, category: str) -> None:
    error = status_error(code, b"", request="POST create_model")
    assert type(error).__name__ == name
    assert error.category == category
    assert error.status_code == code
    assert f"status {code}" in str(error)


def test_the_services_words_are_shown() -> None:
    body = {
        "detail": "rank=0: must be 1..256",
        "message": "rank=0: must be 1..256",
        "field": "lora_config.rank",
        "hint": "try rank 32",
    }
    error = status_error(400, json.dumps(body).encode(), request="POST create_model")
    assert isinstance(error, BadRequestError)
    assert str(error) == "POST create_model: rank=0: must be 1..256 [status 400]; try rank 32"
    assert (error.field, error.hint, error.body) == ("lora_config.rank", "try rank 32", body)


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b'{"detail": "not here"}', "not here"),
        (b'{"detail": [{"loc": ["a"], "msg": "missing"}]}', "missing"),
        (b"<html>Bad Gateway</html>", "Bad Gateway"),
        (b"", "no reason given"),
        (b'{"other": 1}', "no reason given"),
        (b'"text"', "text"),
    ],
)
def test_other_bodies_are_shown_as_far_as_they_go(content: bytes, shown: str) -> None:
    assert shown in str(status_error(502, content, request="GET healthz"))


def test_errors_also_are_what_the_standard_library_would_raise() -> None:
    assert issubclass(APIConnectionError, ConnectionError)
    assert issubclass(APITimeoutError, TimeoutError)
    assert issubclass(BadRequestError, ValueError)
    assert issubclass(InternalServerError, RuntimeError)
    assert issubclass(ClientClosedError, RuntimeError)
    for error in EXAMPLES:
        assert isinstance(error, TinsmithError)
        assert isinstance(error, APIStatusError) == hasattr(error, "status_code")


@pytest.mark.parametrize(
    ("said", "category"), [("user", "user"), ("server", "server"), ("unknown", "server")]
)
def test_a_failed_request_carries_its_category(said: str, category: str) -> None:
    error = failed_request({"error": "Prompt too long", "category": said}, "r9")
    assert (error.category, error.request_id) == (category, "r9")
    assert "Prompt too long" in str(error)


def test_a_failure_without_a_category_is_the_services() -> None:
    assert failed_request({"error": ""}, "r").category == "server"
