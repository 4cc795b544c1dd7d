"""What a client was asked to connect to, with the environment's defaults.

An argument goes before a variable, a variable before the embedded service; `credentials` says where
a key comes from. Main names: `ConnectionSettings`, `settings_from`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from tinsmith.client import launcher
from tinsmith.client.credentials import find_credential
from tinsmith.core import environment
from tinsmith.core.errors import UserError


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


def settings_from(base_url: str | None, api_key: str | None) -> ConnectionSettings:
    """Settings of an address and a key that may be left to the environment.

    Raises:
        MissingExtraError: no address, and the packages of the embedded service are missing.
        UserError: the address is not one, or the file of keys is damaged.
    """
    base_url = (base_url or environment.base_url() or "").rstrip("/") or None
    if base_url is None:
        launcher.check_engine_installed()
    elif not base_url.startswith(("http://", "https://")):
        raise UserError(
            f"base_url={base_url!r}: must start with http:// or https://",
            field="base_url",
            hint=f"try http://{base_url}",
        )
    return ConnectionSettings(
        base_url=base_url,
        api_key=(api_key or "") if base_url is None else find_credential(base_url, api_key).key,
        credential_command=environment.credential_command(),
        project_id=environment.project_id(),
        tags=environment.tags(),
    )
