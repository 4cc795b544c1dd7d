"""What a client was asked to connect to, with the environment's defaults.

An argument goes before a variable, a variable before the embedded service; `credentials` says where
a key comes from. Main names: `ConnectionSettings`, `settings_from`, `checked_headers`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from tinsmith.client import launcher
from tinsmith.client.credentials import find_credential, is_sendable
from tinsmith.core import environment
from tinsmith.core.errors import UserError

_HEADER_NAME = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"
"""A token of RFC 9110."""


@dataclasses.dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """What a ServiceClient was asked for."""

    base_url: str | None
    """None starts or joins the embedded service."""
    api_key: str = dataclasses.field(default="", repr=False)
    credential_command: str | None = dataclasses.field(default=None, repr=False)
    """Prints the key where there is none, and where the service wants it so."""
    timeout_s: float = 60.0
    max_retries: int = 10
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    user_metadata: Mapping[str, str] | None = None
    project_id: str | None = None
    display_name: str | None = None
    tags: Sequence[str] = ()
    """Of the session."""
    session_id: str | None = None
    """A session that another process opened and will finish; None opens one."""


def checked_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Headers that a request can carry; a value, which may be a secret, appears in no message.

    Raises:
        UserError: one is none.
    """
    for name, value in (headers or {}).items():
        if not isinstance(name, str) or not re.fullmatch(_HEADER_NAME, name):  # pyright: ignore[reportUnnecessaryIsInstance] - scripts are not type-checked
            what = f"{name!r}: not the name of a header"
        elif not is_sendable(value):
            what = f"{name!r}: its value is not one line of plain text"
        else:
            continue
        raise UserError(
            f"default_headers_overrides: {what}",
            field="default_headers_overrides",
            hint="give texts, without line ends or spaces around them",
        )
    return dict(headers or {})


def settings_from(base_url: str | None, api_key: str | None) -> ConnectionSettings:
    """Settings of an address and a key that may be left to the environment.

    Raises:
        MissingExtraError: no address, and the packages of the embedded service are missing.
        UserError: the address is not one, or the file of keys is damaged.
    """
    for name, value in (("base_url", base_url), ("api_key", api_key)):
        if not isinstance(value, str | None):  # pyright: ignore[reportUnnecessaryIsInstance] - scripts are not type-checked
            raise UserError(f"{name}: a {type(value).__name__}; must be a text", field=name)
    base_url = (base_url or environment.base_url() or "").strip().rstrip("/") or None
    if base_url is None:
        launcher.check_engine_installed()
    elif not base_url.startswith(("http://", "https://")):
        raise UserError(
            f"base_url={base_url!r}: must start with http:// or https://",
            field="base_url",
            hint=f"try http://{base_url.rpartition('://')[2]}",
        )
    return ConnectionSettings(
        base_url=base_url,
        api_key=(api_key or "") if base_url is None else find_credential(base_url, api_key).key,
        credential_command=environment.credential_command(),
        project_id=environment.project_id(),
        tags=environment.tags(),
    )
