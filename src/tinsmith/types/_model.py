"""Bases of the pydantic types, and their complaints in the house's words.

`RequestModel` refuses unknown fields, `ResponseModel` ignores them; both are frozen. Building a
request with a bad value raises `ConfigError` (`rank=0: must be 1..256; try rank=32`), or
`DataError` where data is wrong; `parse_request` does the same for a decoded body.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Strict, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from tinsmith.core.errors import ConfigError, DataError, UserError

__all__ = ["Flag", "RequestModel", "ResponseModel", "allowed", "parse_request", "user_error"]

_MAX_SHOWN_CHARS = 80


class RequestModel(BaseModel):
    """Something that is sent to a service: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    if not TYPE_CHECKING:  # type checkers derive the real parameters from the fields

        def __init__(self, /, **values: object) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise user_error(error, type(self)) from None

        # Tells pydantic that validation need not go through this method.
        __init__.__pydantic_base_init__ = True

    @classmethod
    def _of_checked(cls, values: dict[str, object]) -> Self:
        """Make one of values for all fields that are known to be good; 10 times as fast.

        `values` may hold what a cached property would find out, too.
        """
        made = cls.__new__(cls)
        # The way back from a pickle: pydantic's own door for content that needs no validation.
        made.__setstate__(
            {
                "__dict__": values,
                "__pydantic_fields_set__": set(
                    cls.__pydantic_fields__
                ),  # what model_fields shows, faster
                "__pydantic_extra__": None,
                "__pydantic_private__": None,
            }
        )
        return made


class ResponseModel(BaseModel):
    """Something that a service answers: frozen, unknown fields ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


R = TypeVar("R", bound=RequestModel)


def parse_request(model: type[R], body: Mapping[str, object]) -> R:
    """Validate a decoded JSON body.

    Raises:
        UserError: naming the field, its value and what is allowed.
    """
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise user_error(error, model) from None


Flag = Annotated[bool, Strict()]
"""True or false; a text such as "false" stands for neither."""


def allowed(test: Callable[[Any], bool], rule: str, hint: str | None = None) -> AfterValidator:
    """Return a validator that refuses values by a rule such as "must be 1..256".

    `test` never sees None, which means that the field is not given.
    """

    def check(value: object) -> object:
        if value is not None and not test(value):
            context = {"rule": rule} if hint is None else {"rule": rule, "hint": hint}
            raise PydanticCustomError("not_allowed", "{rule}", context)
        return value

    return AfterValidator(check)


def user_error(
    error: ValidationError, model: type[BaseModel] | None = None, *, root: str = "value"
) -> UserError:
    """Say the first complaint of pydantic as `field=value: rule; hint`; `root` names the whole.

    Example:
        >>> from tinsmith.types import LoraConfig
        >>> LoraConfig(rank=0)
        Traceback (most recent call last):
        ...
        tinsmith.core.errors.ConfigError: rank=0: must be 1..256; try rank=32
    """
    details = error.errors(include_url=False)[0]
    context = cast("dict[str, object]", details.get("ctx", {}))
    inner = context.get("error")
    field = _field_name(details, inner) or root
    others = error.error_count() - 1
    more = f" (and {others} more)" if others else ""
    if details["type"] == "extra_forbidden":
        return ConfigError(
            f"{field}: unknown field{more}", field=field, hint=_nearest_field(field, model)
        )
    if details["type"] == "json_invalid":  # what was sent instead is no value of the field
        return ConfigError(f"{field}: {_decapitalised(details['msg'])}", field=field)
    if details["type"] == "missing":
        return ConfigError(f"{field}: missing{more}", field=field)
    if isinstance(inner, UserError):
        return _moved(inner, field)
    hint = context.get("hint")
    return ConfigError(
        f"{field}={_shown(details['input'])}: {_decapitalised(details['msg'])}{more}",
        field=field,
        hint=hint if isinstance(hint, str) else None,
    )


def _field_name(details: ErrorDetails, inner: object) -> str:
    # Tags of a union stand in the location; they are no part of the path that the caller wrote.
    parts = [str(part) for part in details["loc"] if str(part) not in _TAGS]
    if isinstance(inner, UserError) and inner.field and (not parts or parts[-1] != inner.field):
        parts.append(inner.field)
    return ".".join(parts)


_TAGS = frozenset(
    {"encoded_text", "image", "image_asset_pointer", "dmel", "adamw", "dimuon", "other_family"}
)


def _moved(inner: UserError, field: str) -> UserError:
    """Return an error of a part with the part's place in the whole."""
    message = inner.message
    if inner.field and message.startswith(inner.field):
        message = field + message.removeprefix(inner.field)
    elif not message.startswith(field):
        message = f"{field}: {message}"
    kind = DataError if isinstance(inner, DataError) else ConfigError
    return kind(message, field=field, hint=inner.hint)


def _nearest_field(field: str, model: type[BaseModel] | None) -> str | None:
    if model is None or "." in field:  # a part's fields are not the model's
        return None
    nearest = difflib.get_close_matches(field, model.model_fields, n=1)
    return f"did you mean {nearest[0]!r}?" if nearest else None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else text[:_MAX_SHOWN_CHARS] + "..."


def _decapitalised(text: str) -> str:
    return text[:1].lower() + text[1:]
