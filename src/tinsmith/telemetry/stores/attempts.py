"""Which attempt a writer that comes to a run belongs to: one rule for every store."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tinsmith.core.errors import ConfigError
from tinsmith.telemetry.errors import WriterBusyError
from tinsmith.telemetry.model import CRASHED_AFTER_S, Attempt, WriterId
from tinsmith.telemetry.processes import is_process_alive

__all__ = ["attempt_for"]


def attempt_for(
    existing: Sequence[Attempt],
    writer: WriterId,
    now_ns: int,
    *,
    asked: int | None = None,
    is_alive: Callable[[WriterId], bool | None] = is_process_alive,
) -> int:
    """Return the number of the attempt that a writer begins or joins.

    Ranks of one launch share a number: a rank joins the last attempt while other ranks of it live
    and it has no writer for this rank itself. Otherwise a new attempt begins. A launch whose first
    ranks may end before its last ones begin says its number itself (`asked`).

    Args:
        existing: All attempts of the run, of every rank.
        writer: Who comes.
        now_ns: The time.
        asked: The number that the caller wants; must not lie before the last one.
        is_alive: Whether a process lives; None where that cannot be known, and then its heartbeat
            decides.

    Raises:
        WriterBusyError: a live process writes this rank.
        ConfigError: `asked` is an attempt of the past, or below 1.
    """
    living = [
        one for one in existing if one.ended_ns is None and _lives(one, now_ns, is_alive(_id(one)))
    ]
    for other in living:
        if other.rank == writer.rank:
            raise _busy(other, now_ns)
    last = max((one.attempt for one in existing), default=0)
    if asked is not None:
        if asked < max(last, 1):
            raise ConfigError(
                f"attempt={asked}: must be {max(last, 1)} or more, since the run has {last}",
                field="attempt",
            )
        if asked > last or all((one.attempt, one.rank) != (asked, writer.rank) for one in existing):
            return asked
        raise ConfigError(
            f"attempt={asked}: rank {writer.rank} of it has been written already",
            field="attempt",
            hint=f"resume with attempt={last + 1}, or leave it out",
        )
    has_lived = any((one.attempt, one.rank) == (last, writer.rank) for one in existing)
    is_joinable = not has_lived and any(one.attempt == last for one in living)
    return last if is_joinable else last + 1


def _id(attempt: Attempt) -> WriterId:
    return WriterId(attempt.rank, attempt.pid, attempt.host, attempt.process_start)


def _lives(attempt: Attempt, now_ns: int, is_alive: bool | None) -> bool:
    if is_alive is not None:
        return is_alive
    return now_ns - attempt.heartbeat_ns <= CRASHED_AFTER_S * 1e9


def _busy(other: Attempt, now_ns: int) -> WriterBusyError:
    age_s = max(now_ns - other.heartbeat_ns, 0) / 1e9
    return WriterBusyError(
        f"rank={other.rank}: process {other.pid} on {other.host} writes it (attempt "
        f"{other.attempt}, last heartbeat {age_s:.0f} s ago)",
        field="rank",
        hint="give this process a rank of its own, or end the other one; a writer on another "
        f"machine counts as dead after {CRASHED_AFTER_S:.0f} s of silence",
    )
