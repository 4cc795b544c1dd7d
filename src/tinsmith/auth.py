"""Whether there is a key for the service, and whether the service takes it.

The functions have the names of the Tinker SDK's `auth` module. They look at the service of
`TINSMITH_BASE_URL` (or `TINKER_BASE_URL`), else at the embedded one, which needs no key.
"""

from __future__ import annotations

from tinsmith.client import ServiceClient
from tinsmith.client.credentials import find_credential
from tinsmith.core import environment
from tinsmith.core.errors import TinsmithError

__all__ = ["get_tinker_token", "raise_if_tinker_not_accessible", "tinker_has_credentials"]


def get_tinker_token() -> str | None:
    """The key that would be sent, or None; the credential command is not run."""
    try:
        return find_credential(environment.base_url() or "", None).key or None
    except (OSError, TinsmithError):
        return None


def tinker_has_credentials() -> bool:
    """Whether there is a key, a command that prints one, or no need of one; asks nobody."""
    if environment.base_url() is None:
        return True
    try:
        return find_credential(environment.base_url() or "", None).source != "nowhere"
    except (OSError, TinsmithError):
        return False


def raise_if_tinker_not_accessible() -> None:
    """Ask the service one thing, once; return if it answers.

    Raises:
        TinsmithError: of the class that fits: `AuthenticationError` when the key is refused,
            `APIConnectionError` when nobody answers, and so on.
    """
    try:
        with ServiceClient(max_retries=0) as service:
            service.get_server_capabilities().result()
    except OSError as error:
        if isinstance(error, TinsmithError):
            raise
        raise TinsmithError(str(error)) from error
