"""Short-lived tokens (JWT): what they say, and how a key is exchanged for one and renewed.

The signature is the service's matter; a client only reads what the token says of itself. Main
names: `claims_of`, `ExchangedToken`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from tinsmith.client.errors import APIError, APIResponseValidationError, AuthenticationError
from tinsmith.core import jsonio
from tinsmith.core.errors import TinsmithError
from tinsmith.types import WhoamiResponse

logger = logging.getLogger(__name__)

JWT_PREFIX = "eyJ"
LEAST_LEFT_S = 60.0
"""With less of its life left than this a token is not sent before a renewal was tried."""
RETRY_S = 60.0
"""Pause after a renewal that failed while the token still holds."""


def claims_of(credential: str) -> Mapping[str, Any] | None:
    """What a JWT says; None of anything else."""
    parts = credential.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = jsonio.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return None
    return cast("Mapping[str, Any]", claims) if isinstance(claims, dict) else None


def is_expired(credential: str) -> bool:
    """Whether a credential is a JWT whose time has passed; any other holds."""
    if not credential.startswith(JWT_PREFIX):
        return False
    expires = (claims_of(credential) or {}).get("exp")
    return isinstance(expires, int | float) and time.time() >= expires


def whoami_of_token(credential: str) -> WhoamiResponse | None:
    """The caller that a JWT names; None where it names none."""
    said = claims_of(credential)
    if said is None or not said.get("sub"):
        return None
    return WhoamiResponse(
        user_urn=str(said["sub"]),
        org_urn=f"tml:organization:{said.get('org_id', '')}",
        email=said.get("email") or None,
    )


class ExchangedToken:
    """The token that a service gave for a key; renewed in time, and after it was refused.

    Renewal begins at half of the token's life, in the background of the request that finds it so.
    The life is counted from when the token came, so that a wrong clock here does no harm.
    """

    def __init__(self, exchange: Callable[[], Awaitable[str]]) -> None:
        """Hold no token yet.

        Args:
            exchange: asks the service for one with the key.
        """
        self._exchange = exchange
        self._token = ""
        self._renew_at_s = 0.0
        self._ends_s = 0.0
        self._renewal: asyncio.Task[str] | None = None

    async def token(self) -> str:
        """A token that holds.

        Raises:
            AuthenticationError: the service refuses the key.
            APIError: it could not be asked, and there is no token that still holds.
        """
        now_s = time.monotonic()
        if now_s < self._renew_at_s:
            return self._token
        renewal = self._renewing()
        if self._ends_s - now_s > LEAST_LEFT_S:
            return self._token
        try:
            return await asyncio.shield(renewal)
        except AuthenticationError:
            raise
        except TinsmithError:
            if time.monotonic() >= self._ends_s:
                raise
            return self._token

    async def renewed(self, rejected: str) -> str | None:
        """A token other than the refused one; one exchange, however many requests were refused."""
        if self._token != rejected:
            return self._token
        token = await asyncio.shield(self._renewing())
        return None if token == rejected else token

    def _renewing(self) -> asyncio.Task[str]:
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.get_running_loop().create_task(self._renew())
            self._renewal.add_done_callback(_mark_read)
        return self._renewal

    async def _renew(self) -> str:
        try:
            token = await self._exchange()
            lifetime_s = _lifetime_s(token)
        except APIError as error:
            if self._token:
                logger.warning("the token could not be renewed: %s", error)
            self._renew_at_s = min(time.monotonic() + RETRY_S, self._ends_s)
            raise
        now_s = time.monotonic()
        self._token = token
        self._ends_s = now_s + lifetime_s
        self._renew_at_s = now_s + lifetime_s * random.uniform(0.45, 0.55)
        return token


def _lifetime_s(token: str) -> float:
    """How long a token holds from when it was made.

    Raises:
        APIResponseValidationError: it does not say.
    """
    said = claims_of(token) or {}
    try:
        lifetime_s = float(said["exp"]) - float(said["iat"])
    except (KeyError, TypeError, ValueError):
        lifetime_s = 0.0
    if lifetime_s <= 0:
        raise APIResponseValidationError(
            "auth/token: the service's token does not say how long it holds (exp, iat)",
            hint="the service may speak another version of the protocol",
        )
    return lifetime_s


def _mark_read(renewal: asyncio.Task[str]) -> None:
    """Keep asyncio from reporting a failure that the next request will meet itself."""
    if not renewal.cancelled():
        renewal.exception()
