"""Exact counts of what the recorder could not keep, and one warning for each kind of trouble."""

from __future__ import annotations

import logging
import threading
import warnings

from tinsmith.telemetry.errors import TelemetryWarning

__all__ = ["Health", "never_raise_here"]

_logger = logging.getLogger(__name__)
_thread = threading.local()


def never_raise_here() -> None:
    """Have warnings of the calling thread logged where a filter makes them errors.

    In the writer's thread such an error would cost the batch at hand, and nobody would see it.
    """
    _thread.must_live = True


class Health:
    """Counters of one run in this process; thread-safe."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._said: set[str] = set()
        self.forget_locks()

    def forget_locks(self) -> None:
        """Start with a free lock, as in a forked child."""
        self._lock = threading.RLock()  # a signal handler may log while its thread counts

    def count(self, kind: str, number: int = 1) -> None:
        """Add to the counter of a kind, for instance "dropped_points"."""
        if number:
            with self._lock:
                self._counts[kind] = self._counts.get(kind, 0) + number

    def counts(self) -> dict[str, int]:
        """Return all counters that are not zero, by kind."""
        with self._lock:
            return dict(sorted(self._counts.items()))

    def warn_once(self, about: str, message: str) -> None:
        """Warn, unless a warning about the same was given before."""
        with self._lock:
            if about in self._said:
                return
            self._said.add(about)
        try:
            warnings.warn(message, TelemetryWarning, stacklevel=4)
        except TelemetryWarning:
            if not getattr(_thread, "must_live", False):
                raise
            _logger.warning("%s", message)
