"""Lists of what the service keeps: training runs, checkpoints, sessions; newest first, by page.

`viewer` is the API key that asks: its own rows are found, and with `is_wide` also what others have
published. A viewer of None is the operator, who sees everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tinsmith.server.metadata.queries import Row
from tinsmith.server.metadata.tables import checkpoints, models, samplers, sessions


class Page(NamedTuple):
    """Part of a list, and how long the list is."""

    rows: list[Row]
    total_count: int


class Viewer(NamedTuple):
    """Who looks, and how far."""

    key_id: int | None = None
    is_wide: bool = False


def training_runs(
    connection: Connection,
    *,
    viewer: Viewer,
    limit: int,
    offset: int,
    project_id: str | None = None,
) -> Page:
    """A page of training runs by their last request, with their newest checkpoints."""
    wanted = sa.select(models).where(_may_see_model(viewer))
    if project_id is not None:
        of_project = sa.select(sessions.c.session_id).where(
            sessions.c.details["project_id"].as_string() == project_id
        )
        wanted = wanted.where(models.c.session_id.in_(of_project))
    order = (models.c.last_request_at.desc(), models.c.model_id)
    page = _page(connection, wanted, order, limit=limit, offset=offset)
    _add_newest_checkpoints(connection, viewer, page.rows)
    return page


def training_run(connection: Connection, *, viewer: Viewer, model_id: str) -> Row | None:
    """One training run, with its newest checkpoints."""
    wanted = sa.select(models).where(models.c.model_id == model_id, _may_see_model(viewer))
    rows = _rows(connection, wanted)
    _add_newest_checkpoints(connection, viewer, rows)
    return rows[0] if rows else None


def run_checkpoints(connection: Connection, *, viewer: Viewer, model_id: str) -> list[Row]:
    """All checkpoints of a training run."""
    wanted = sa.select(checkpoints).where(
        checkpoints.c.model_id == model_id, _may_see_checkpoint(viewer)
    )
    return _rows(connection, wanted.order_by(checkpoints.c.created_at.desc(), checkpoints.c.path))


def all_checkpoints(connection: Connection, *, viewer: Viewer, limit: int, offset: int) -> Page:
    """A page of checkpoints of all runs."""
    wanted = sa.select(checkpoints).where(_may_see_checkpoint(viewer))
    order = (checkpoints.c.created_at.desc(), checkpoints.c.path)
    return _page(connection, wanted, order, limit=limit, offset=offset)


def checkpoint(connection: Connection, *, path: str) -> Row | None:
    """One checkpoint."""
    rows = _rows(connection, sa.select(checkpoints).where(checkpoints.c.path == path))
    return rows[0] if rows else None


def expired_checkpoints(connection: Connection, *, now_s: float) -> list[str]:
    """Paths of checkpoints whose time is over."""
    return list(
        connection.scalars(sa.select(checkpoints.c.path).where(checkpoints.c.expires_at <= now_s))
    )


def next_expiry(connection: Connection) -> float | None:
    """When the next checkpoint expires."""
    return connection.scalar(sa.select(sa.func.min(checkpoints.c.expires_at)))


def session_ids(connection: Connection, *, viewer: Viewer, limit: int, offset: int) -> list[str]:
    """A page of session ids."""
    wanted = (
        sa.select(sessions.c.session_id)
        .where(_may_see_session(viewer))
        .order_by(sessions.c.created_at.desc(), sessions.c.session_id)
    )
    return list(connection.scalars(wanted.limit(limit).offset(offset)))


def session(connection: Connection, *, viewer: Viewer, session_id: str) -> Row | None:
    """One session, with the ids of its training runs and samplers in order of their making."""
    wanted = sa.select(sessions).where(
        sessions.c.session_id == session_id, _may_see_session(viewer)
    )
    rows = _rows(connection, wanted)
    if not rows:
        return None
    for name, table, key in (
        ("training_run_ids", models, models.c.model_id),
        ("sampler_ids", samplers, samplers.c.sampler_id),
    ):
        of_session = sa.select(key).where(table.c.session_id == session_id)
        rows[0][name] = list(connection.scalars(of_session.order_by(table.c.created_at, key)))
    return rows[0]


def set_project(connection: Connection, *, session_id: str, project_id: str) -> None:
    """Moves a session to a project."""
    is_it = sessions.c.session_id == session_id
    details = connection.scalar(sa.select(sessions.c.details).where(is_it))
    details = {**(details or {}), "project_id": project_id}
    connection.execute(sa.update(sessions).where(is_it).values(details=details))


def sessions_before(
    connection: Connection, *, viewer: Viewer, before: tuple[float, str] | None
) -> Iterator[Row]:
    """Sessions that a search goes through, newest first, after the cursor's."""
    wanted = sa.select(sessions).where(_may_see_session(viewer))
    if before is not None:
        created_at, session_id = before
        wanted = wanted.where(
            sa.or_(
                sessions.c.created_at < created_at,
                sa.and_(sessions.c.created_at == created_at, sessions.c.session_id > session_id),
            )
        )
    wanted = wanted.order_by(sessions.c.created_at.desc(), sessions.c.session_id)
    for row in connection.execute(wanted).mappings():
        yield dict(row)


def checkpoint_totals(
    connection: Connection, *, session_ids: Sequence[str]
) -> dict[str, tuple[int, int]]:
    """Number and bytes of the checkpoints of sessions that have any."""
    totals = (
        sa.select(models.c.session_id, sa.func.count(), sa.func.sum(checkpoints.c.size_bytes))
        .join(checkpoints, checkpoints.c.model_id == models.c.model_id)
        .where(models.c.session_id.in_(session_ids))
        .group_by(models.c.session_id)
    )
    return {name: (count, int(size or 0)) for name, count, size in connection.execute(totals)}


def storage(connection: Connection, *, viewer: Viewer) -> tuple[int, int]:
    """Number and bytes of all checkpoints."""
    totals = sa.select(sa.func.count(), sa.func.sum(checkpoints.c.size_bytes)).where(
        _may_see_checkpoint(viewer)
    )
    count, size = connection.execute(totals).one()
    return count, int(size or 0)


def _add_newest_checkpoints(connection: Connection, viewer: Viewer, runs: list[Row]) -> None:
    ids = [run["model_id"] for run in runs]
    rank = sa.func.row_number().over(
        partition_by=(checkpoints.c.model_id, checkpoints.c.kind),
        order_by=(checkpoints.c.created_at.desc(), checkpoints.c.path),
    )
    ranked = (
        sa.select(checkpoints, rank.label("rank"))
        .where(checkpoints.c.model_id.in_(ids), _may_see_checkpoint(viewer))
        .subquery()
    )
    newest = _rows(connection, sa.select(ranked).where(ranked.c.rank == 1))
    found = {(row["model_id"], row["kind"]): row for row in newest}
    for run in runs:
        run["last_checkpoint"] = found.get((run["model_id"], "weights"))
        run["last_sampler_checkpoint"] = found.get((run["model_id"], "sampler_weights"))


def _may_see_model(viewer: Viewer) -> sa.ColumnElement[bool]:
    if viewer.key_id is None:
        return sa.true()
    own = models.c.key_id == viewer.key_id
    if not viewer.is_wide:
        return own
    published = sa.select(checkpoints.c.model_id).where(checkpoints.c.is_public)
    return sa.or_(own, models.c.model_id.in_(published))


def _may_see_checkpoint(viewer: Viewer) -> sa.ColumnElement[bool]:
    if viewer.key_id is None:
        return sa.true()
    own = checkpoints.c.key_id == viewer.key_id
    return sa.or_(own, checkpoints.c.is_public) if viewer.is_wide else own


def _may_see_session(viewer: Viewer) -> sa.ColumnElement[bool]:
    return sa.true() if viewer.key_id is None else sessions.c.key_id == viewer.key_id


def _page(
    connection: Connection,
    wanted: sa.Select[Any],
    order: tuple[sa.ColumnElement[Any], ...],
    *,
    limit: int,
    offset: int,
) -> Page:
    count = sa.select(sa.func.count()).select_from(wanted.subquery())
    rows = _rows(connection, wanted.order_by(*order).limit(limit).offset(offset))
    return Page(rows, connection.scalar(count) or 0)


def _rows(connection: Connection, select: sa.Select[Any]) -> list[Row]:
    return [dict(row) for row in connection.execute(select).mappings()]
