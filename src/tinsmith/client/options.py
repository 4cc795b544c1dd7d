"""How long one attempt of a request may take and how many there are, as keyword arguments.

Main names: `RequestOptions`, `FEW_LONG_ATTEMPTS`.
"""

from __future__ import annotations

from typing import TypedDict

import httpx


class RequestOptions(TypedDict, total=False):
    """Arguments that `ServiceClient(**options)` takes."""

    timeout: float | httpx.Timeout
    """Seconds that one attempt may take."""
    max_retries: int
    """Attempts after the first."""


FEW_LONG_ATTEMPTS: RequestOptions = {"timeout": 120.0, "max_retries": 2}
"""For slow networks and services: few attempts that may take long (the default is 60 s and 10)."""
