"""The only place that reads environment variables.

`TINSMITH_*` comes before its `TINKER_*` twin; an empty value counts as unset.
"""

from __future__ import annotations

import os

__all__ = ["api_key", "base_url", "log_level", "variable"]


def variable(*names: str) -> str | None:
    """The first of `names` that is set to something, or None."""
    for name in names:
        if value := os.environ.get(name, "").strip():
            return value
    return None


def base_url() -> str | None:
    """Address of the service, without a trailing slash; None means the embedded one."""
    value = variable("TINSMITH_BASE_URL", "TINKER_BASE_URL")
    return value.rstrip("/") if value else None


def api_key() -> str | None:
    """Key for the service."""
    return variable("TINSMITH_API_KEY", "TINKER_API_KEY")


def log_level() -> str | None:
    """Level of the `tinsmith` logger that the command line sets ("debug", "info", ...)."""
    return variable("TINSMITH_LOG", "TINKER_LOG")
