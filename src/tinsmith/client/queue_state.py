"""Tells people that the service lets their requests wait, and why; not too soon, not too often.

Main names: `QueueObserver`, `PauseLogger`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

logger = logging.getLogger(__name__)

ACTIVE = "active"
TRAINING_GRACE_S = 15 * 60.0
"""A training request may wait for others' turns this long before anybody is told."""
REPEAT_S = 60.0

QueueObserver = Callable[[str, str | None], None]
"""Gets the state (`active`, `paused_capacity`, `paused_rate_limit`) and the service's reason."""

_REASONS: Mapping[str, str] = {
    "paused_capacity": "the service is short of capacity",
    "paused_rate_limit": "too many requests of yours are under way",
}


class PauseLogger:
    """Logs a warning once a pause has lasted, and then once a minute."""

    def __init__(self, what: str, *, grace_s: float = 0.0) -> None:
        """Know of no pause yet.

        Args:
            what: waits, such as `training of S:train:0`.
            grace_s: how long a pause lasts before it is told.
        """
        self._what = what
        self._grace_s = grace_s
        self._state = ACTIVE
        self._since_s = 0.0
        self._told_s = float("-inf")

    def __call__(self, state: str, reason: str | None) -> None:
        """Take note of a state."""
        now_s = time.monotonic()
        if state != self._state:
            self._state, self._since_s = state, now_s
        is_early = now_s - self._since_s < self._grace_s or now_s - self._told_s < REPEAT_S
        if state == ACTIVE or is_early:
            return
        self._told_s = now_s
        shown = reason or _REASONS.get(state, f"the service says {state!r}")
        logger.warning("%s is paused: %s", self._what, shown)
