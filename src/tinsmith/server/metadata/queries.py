"""Questions to the metadata database: functions of a connection, for `MetadataStore.run`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tinsmith.server.config import ServerLimits
from tinsmith.server.metadata.tables import boots, checkpoints, futures, models, samplers, sessions

Row = dict[str, Any]  # Any: columns of every type

RESTART_STATES = ("creating", "live")
"""States of a model that lives in its process's memory."""


class StoredFuture(NamedTuple):
    """A request as the database knows it."""

    boot_id: str
    owner_id: str | None
    media_type: str | None
    payload: bytes | None
    """None when it never finished."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What a starting service goes on with."""

    sessions: list[Row]
    models: list[Row]
    """Lost with their process; `last_checkpoint` is what to resume from, or None."""
    samplers: list[Row]
    samples: list[Row]
    """What became of the samplers' requests: `owner_id`, `request_id`, `media_type` and
    `num_bytes` of the result, both None for one that died with its process."""


def take_over(
    connection: Connection,
    *,
    boot_id: str,
    living: Callable[[], Collection[str]],
    now_s: float,
    limits: ServerLimits,
) -> None:
    """Starts a boot and settles what dead ones left: their sessions are this one's from now on.

    `living` is asked within the transaction, so that no boot can start unseen in between.
    """
    connection.execute(sa.insert(boots).values(boot_id=boot_id, started_at=now_s))
    gone = sa.select(boots.c.boot_id).where(
        boots.c.ended_at.is_(None), boots.c.boot_id.not_in(sorted({*living(), boot_id}))
    )
    dead = list(connection.scalars(gone))
    connection.execute(sa.update(boots).where(boots.c.boot_id.in_(dead)).values(ended_at=now_s))
    alive = boots.c.ended_at.is_(None)
    others = sa.select(boots.c.boot_id).where(alive)
    connection.execute(
        sa.update(futures)
        .where(futures.c.payload.is_(None), futures.c.boot_id.not_in(others))
        .where(futures.c.expires_at.is_(None))
        .values(expires_at=now_s + limits.result_keep_s)
    )
    connection.execute(
        sa.update(models)
        .where(models.c.state.in_(RESTART_STATES), models.c.boot_id.not_in(others))
        .values(state="lost")
    )
    silence_s = limits.session_release_s
    of_the_dead = sa.update(sessions).where(sessions.c.boot_id.not_in(others))
    is_recent = sessions.c.last_seen_at >= now_s - silence_s
    connection.execute(
        of_the_dead.where(sessions.c.ended.is_(None), sa.not_(is_recent)).values(
            ended=f"ended after {silence_s:.0f} s without a heartbeat", ended_at=now_s
        )
    )
    connection.execute(of_the_dead.where(is_recent).values(boot_id=boot_id))
    forget_futures(connection, now_s=now_s)


def restored(connection: Connection, *, boot_id: str, since_s: float) -> Restored:
    """The sessions of this boot seen since a time, with their models and samplers."""
    ours = sa.select(sessions).where(
        sessions.c.boot_id == boot_id, sessions.c.last_seen_at >= since_s
    )
    rows = _rows(connection, ours)
    ids = [row["session_id"] for row in rows]
    newest = (
        sa.select(checkpoints.c.path)
        .where(checkpoints.c.model_id == models.c.model_id, checkpoints.c.kind == "weights")
        .order_by(checkpoints.c.created_at.desc())
        .limit(1)
        .scalar_subquery()
        .label("last_checkpoint")
    )
    lost = sa.select(models, newest).where(models.c.session_id.in_(ids), models.c.state == "lost")
    kept = sa.select(samplers).where(samplers.c.session_id.in_(ids))
    samples = (
        sa.select(
            futures.c.owner_id,
            futures.c.request_id,
            futures.c.media_type,
            sa.func.length(futures.c.payload).label("num_bytes"),
        )
        .where(
            futures.c.owner_id.in_(
                sa.select(samplers.c.sampler_id).where(samplers.c.session_id.in_(ids))
            ),
            futures.c.expires_at.is_not(None),
        )
        .order_by(futures.c.created_at)
    )
    return Restored(
        rows, _rows(connection, lost), _rows(connection, kept), _rows(connection, samples)
    )


def end_boot(connection: Connection, *, boot_id: str, now_s: float) -> None:
    """Notes that a boot ended in order."""
    connection.execute(sa.update(boots).where(boots.c.boot_id == boot_id).values(ended_at=now_s))


def stored_future(connection: Connection, *, request_id: str, now_s: float) -> StoredFuture | None:
    """A request that another boot accepted, or whose result left memory; None if expired."""
    row = connection.execute(
        sa.select(
            futures.c.boot_id, futures.c.owner_id, futures.c.media_type, futures.c.payload
        ).where(
            futures.c.request_id == request_id,
            sa.or_(futures.c.expires_at.is_(None), futures.c.expires_at > now_s),
        )
    ).first()
    return None if row is None else StoredFuture(*row)


def session_key_id(connection: Connection, session_id: str) -> int | None:
    """API key that a session belongs to."""
    return connection.scalar(
        sa.select(sessions.c.key_id).where(sessions.c.session_id == session_id)
    )


def is_living(connection: Connection, *, boot_id: str) -> bool:
    """Whether a boot has not ended."""
    ended = sa.select(boots.c.boot_id).where(boots.c.boot_id == boot_id, boots.c.ended_at.is_(None))
    return connection.scalar(ended) is not None


def forget_futures(connection: Connection, *, now_s: float) -> None:
    """Removes requests whose retention is over."""
    connection.execute(sa.delete(futures).where(futures.c.expires_at <= now_s))


def last_checkpoint(connection: Connection, *, model_id: str) -> str | None:
    """Path of a model's newest training checkpoint."""
    return connection.scalar(
        sa.select(checkpoints.c.path)
        .where(checkpoints.c.model_id == model_id, checkpoints.c.kind == "weights")
        .order_by(checkpoints.c.created_at.desc())
        .limit(1)
    )


def known_checkpoints(connection: Connection) -> set[str]:
    """Paths of all checkpoints."""
    return set(connection.scalars(sa.select(checkpoints.c.path)))


def insert_checkpoints(connection: Connection, rows: Sequence[Row]) -> None:
    """Adds checkpoints that were found on disk."""
    if rows:
        connection.execute(sa.insert(checkpoints), list(rows))


def remove_checkpoints(connection: Connection, paths: Sequence[str]) -> None:
    """Removes checkpoints whose directories are gone."""
    connection.execute(sa.delete(checkpoints).where(checkpoints.c.path.in_(paths)))


def _rows(connection: Connection, select: sa.Executable) -> list[Row]:
    return [dict(row) for row in connection.execute(select).mappings()]
