"""Who a credential belongs to, as far as it says so itself. Main name: `whoami_of_token`."""

from __future__ import annotations

import base64
import binascii
from typing import Any, cast

from tinsmith.core import jsonio
from tinsmith.types import WhoamiResponse


def whoami_of_token(credential: str) -> WhoamiResponse | None:
    """The caller that a JWT names; None of anything else. The signature is the service's matter."""
    parts = credential.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = jsonio.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return None
    if not isinstance(claims, dict):
        return None
    said = cast("dict[str, Any]", claims)
    if not said.get("sub"):
        return None
    return WhoamiResponse(
        user_urn=str(said["sub"]),
        org_urn=f"tml:organization:{said.get('org_id', '')}",
        email=said.get("email") or None,
    )
