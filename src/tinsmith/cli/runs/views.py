"""Runs as JSON and as words."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinsmith.telemetry.model import Attempt, RunRecord, RunTimes

__all__ = ["duration_text", "moment", "progress_words", "to_json"]


def to_json(value: object) -> Any:  # Any: what JSON can say
    """Return a record of the recorder as JSON can say it; NaN is the text "NaN"."""
    from tinsmith.telemetry.exchange.table import encode_json

    return encode_json(asdict(value))  # pyright: ignore[reportArgumentType] - each is a dataclass


def moment(ts_ns: int | None) -> datetime | None:
    """Return the time of nanoseconds since 1970."""
    return None if ts_ns is None else datetime.fromtimestamp(ts_ns / 1e9, UTC)


def duration_text(seconds: float) -> str:
    """Say how long something took.

    Example:
        >>> duration_text(3_725), duration_text(7.25)
        ('1 h 2 min', '7.2 s')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds) // 60
    if minutes < 60:
        return f"{minutes} min {int(seconds) % 60} s"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def progress_words(run: "RunRecord", attempts: "list[Attempt]", times: "RunTimes") -> str:
    """Say a run's state, its time, and that it was resumed where it was."""
    words = [str(run.status)]
    if attempts:
        words.append(f"active {duration_text(times.active_s)}")
    if times.paused_s >= 1:
        words.append(f"paused {duration_text(times.paused_s)}")
    launches = len({attempt.attempt for attempt in attempts})
    if launches > 1:
        words.append(f"{launches} attempts")
    return ", ".join(words)
