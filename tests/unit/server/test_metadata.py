"""The metadata database: rows survive, later writes win, outages are sat out."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError

from tinsmith.core.errors import ConfigError, ServerError, UserError
from tinsmith.server.config import ServerLimits
from tinsmith.server.errors import UnavailableError
from tinsmith.server.metadata import MetadataStore, database, queries
from tinsmith.server.metadata import store as store_module
from tinsmith.server.metadata.boots import BootLock
from tinsmith.server.metadata.tables import checkpoints, futures, metadata, models, sessions


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[MetadataStore]:
    store = await MetadataStore.open(database_url)
    yield store
    await store.close()


def future_row(request_id: str, **values: Any) -> dict[str, Any]:
    row = {"boot_id": "b", "owner_id": "m", "created_at": 1.0, "expires_at": None}
    return {"request_id": request_id, "media_type": None, "payload": None, **row, **values}


def session_row(session_id: str, **values: Any) -> dict[str, Any]:
    row = {"boot_id": "old", "key_id": None, "created_at": 5.0, "last_seen_at": 6.0, "tags": ["a"]}
    row |= {"ended_at": None, "ended": None, "user_metadata": {"n": [1, None]}, "details": {}}
    return {"session_id": session_id, **row, **values}


def model_row(model_id: str, **values: Any) -> dict[str, Any]:
    row = {"boot_id": "old", "key_id": None, "base_model": "b", "lora_config": {"rank": 8}}
    row |= {"user_metadata": None, "created_at": 1.0, "last_request_at": 2.0, "state": "live"}
    return {"model_id": model_id, "session_id": model_id.partition(":")[0], **row, **values}


def checkpoint_row(path: str, created_at: float, **values: Any) -> dict[str, Any]:
    run_id, kind, _ = path.removeprefix("tinker://").split("/")
    row = {"model_id": run_id, "kind": kind, "key_id": None, "base_model": "b", "size_bytes": 3}
    row |= {"is_public": False, "expires_at": None, "user_metadata": None}
    return {"path": path, "created_at": created_at, **row, **values}


async def all_rows(store: MetadataStore, table: sa.Table) -> list[dict[str, Any]]:
    def ask(connection: Connection) -> list[dict[str, Any]]:
        (key,) = table.primary_key.columns
        found = connection.execute(sa.select(table).order_by(key))
        return [dict(row) for row in found.mappings()]

    return await store.run(ask)


async def test_the_migrations_make_the_tables(store: MetadataStore) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    def differences(connection: Connection) -> list[Any]:
        return compare_metadata(MigrationContext.configure(connection), metadata)

    assert await store.run(differences) == []
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).with_name("migrations")))
    assert ScriptDirectory.from_config(config).get_current_head() == database.HEAD


async def test_rows_survive_a_restart_as_they_were(database_url: str) -> None:
    row = session_row("s", user_metadata={"a": {"b": [1, 2.5, "ä\u0000", None, True]}})
    payload = bytes(range(256)) * 100
    for _ in range(2):
        store = await MetadataStore.open(database_url)
        store.put("sessions", row)
        store.put("futures", future_row("r", payload=payload, media_type="x", expires_at=1e12))
        await store.close()
    store = await MetadataStore.open(database_url)
    assert await all_rows(store, sessions) == [row]
    stored = await store.run(partial(queries.stored_future, request_id="r", now_s=2.0))
    assert stored == queries.StoredFuture("b", "m", "x", payload)
    await store.close()


async def test_the_last_write_of_a_row_wins_within_a_batch_and_across(
    store: MetadataStore,
) -> None:
    for name in ("a", "b", "c", "d"):
        store.put("futures", future_row(name))
        store.change("futures", name, {"media_type": "first"})
    store.remove("futures", "b")
    store.change("futures", "b", {"media_type": "too late"})
    store.remove("futures", "c")
    store.put("futures", future_row("c", owner_id="again"))
    found = {row["request_id"]: row for row in await all_rows(store, futures)}
    assert set(found) == {"a", "c", "d"}
    assert (found["a"]["media_type"], found["c"]["media_type"]) == ("first", None)
    assert found["c"]["owner_id"] == "again"
    store.change("futures", "a", {"media_type": "second"})
    store.change("futures", "a", {"expires_at": 7.0})
    store.change("futures", "nowhere", {"expires_at": 7.0})
    store.remove("futures", "d")
    found = {row["request_id"]: row for row in await all_rows(store, futures)}
    assert set(found) == {"a", "c"}
    assert (found["a"]["media_type"], found["a"]["expires_at"]) == ("second", 7.0)


async def test_a_question_sees_all_writes_before_it(store: MetadataStore) -> None:
    for number in range(2500):
        store.put("futures", future_row(f"r{number:04}"))
    assert len(await all_rows(store, futures)) == 2500


async def test_a_refused_row_is_lost_alone(store: MetadataStore) -> None:
    store.put("futures", future_row("good"))
    store.put("futures", future_row("bad", created_at=None))
    store.put("futures", future_row("fine"))
    assert [row["request_id"] for row in await all_rows(store, futures)] == ["fine", "good"]


async def test_a_short_outage_loses_nothing(
    store: MetadataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, failures = MetadataStore._write, iter([True, True])

    def flaky(self: MetadataStore, batch: Any) -> None:
        if next(failures, False):
            raise OperationalError("write", {}, Exception("away"))
        write(self, batch)

    monkeypatch.setattr(MetadataStore, "_write", flaky)
    store.put("futures", future_row("r"))
    assert [row["request_id"] for row in await all_rows(store, futures)] == ["r"]


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Takes the database away, or gives it back: what a stopped server looks like to a client."""
    connect = sa.Engine.connect

    def refused(self: sa.Engine) -> Connection:
        raise OperationalError("connect", {}, Exception("connection refused"))

    def set_away(away: bool) -> None:
        monkeypatch.setattr(sa.Engine, "connect", refused if away else connect)

    monkeypatch.setattr(store_module, "RETRY_PAUSES_S", (0.01, 0.02))
    return set_away


async def cut(store: MetadataStore) -> None:
    """Breaks the connection, as the end of the server does."""

    def broken(_: Connection) -> None:
        raise OperationalError("ask", {}, Exception("server closed the connection"))

    with pytest.raises(UnavailableError, match="the metadata database is away"):
        await store.run(broken)


async def test_a_long_outage_loses_no_row_and_refuses_questions(
    store: MetadataStore, outage: Callable[[bool], None], caplog: pytest.LogCaptureFixture
) -> None:
    store.put("futures", future_row("before", owner_id="old"))
    await all_rows(store, futures)
    outage(True)
    await cut(store)
    store.put("futures", future_row("during"))
    for number in range(3):
        store.change("futures", "before", {"owner_id": f"new {number}"})
        with pytest.raises(UnavailableError, match="the metadata database is away"):
            await all_rows(store, futures)
    outage(False)
    rows = {}
    async with asyncio.timeout(5):
        while not rows:
            with contextlib.suppress(UnavailableError):
                rows = {r["request_id"]: r["owner_id"] for r in await all_rows(store, futures)}
    assert rows == {"before": "new 2", "during": "m"}
    assert "lost" not in caplog.text


async def test_rows_that_wait_are_bounded_and_a_stop_does_not_wait(
    store: MetadataStore,
    outage: Callable[[bool], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(store_module, "MAX_WAITING_ROWS", 2)
    outage(True)
    await cut(store)
    for number in range(10):
        store.put("futures", future_row(f"r{number}"))
        with pytest.raises(UnavailableError):
            await all_rows(store, futures)
    async with asyncio.timeout(5):
        await store.close()
    assert "rows of metadata are lost" in caplog.text


@pytest.mark.parametrize(
    ("code", "is_away"),
    [
        ({}, True),
        ({"sqlstate": "57P01"}, True),  # the server goes down
        ({"sqlstate": "54000"}, False),  # an index row too large
        ({"sqlite_errorcode": 5}, True),  # locked
        ({"sqlite_errorcode": 1}, False),  # no such column
    ],
)
def test_an_outage_is_told_from_a_statement_that_never_works(code: dict, is_away: bool) -> None:
    cause = Exception("why")
    vars(cause).update(code)
    assert database.is_outage(OperationalError("write", {}, cause)) is is_away


async def test_a_failing_question_fails_alone(store: MetadataStore) -> None:
    def wrong(connection: Connection) -> None:
        connection.execute(sa.text("SELECT nonsense FROM nowhere"))

    def refused(_: Connection) -> None:
        raise UserError("no", field="x")

    with pytest.raises(ServerError, match="the metadata database failed"):
        await store.run(wrong)
    with pytest.raises(UserError):
        await store.run(refused)
    store.put("futures", future_row("r"))
    assert len(await all_rows(store, futures)) == 1


async def test_a_closed_store_has_written_everything_and_refuses_questions(
    database_url: str,
) -> None:
    store = await MetadataStore.open(database_url)
    store.put("futures", future_row("r"))
    await store.close()
    await store.close()
    with pytest.raises(ServerError, match="closed"):
        await all_rows(store, futures)
    again = await MetadataStore.open(database_url)
    assert len(await all_rows(again, futures)) == 1
    await again.close()


async def test_the_loop_is_not_held_up_while_rows_are_written(store: MetadataStore) -> None:
    started = time.perf_counter()
    for number in range(1000):
        store.put("futures", future_row(f"r{number}", payload=b"x" * 1000))
    assert time.perf_counter() - started < 0.25
    assert len(await all_rows(store, futures)) == 1000


async def test_a_dead_boot_leaves_sessions_lost_models_and_failed_requests(
    store: MetadataStore,
) -> None:
    now_s = time.time()
    take_over = partial(queries.take_over, now_s=now_s, limits=ServerLimits())
    await store.run(partial(take_over, boot_id="old", living=set))
    await store.run(partial(take_over, boot_id="other", living=lambda: {"old"}))
    store.put("sessions", session_row("s", last_seen_at=now_s))
    store.put("sessions", session_row("silent", last_seen_at=now_s - 1e6))
    store.put("sessions", session_row("theirs", boot_id="other", last_seen_at=now_s))
    store.put("models", model_row("s:train:0"))
    store.put("models", model_row("s:train:1", state="unloaded"))
    store.put("models", model_row("theirs:train:0", boot_id="other"))
    for name, created_at in (("first", 1.0), ("last", 2.0)):
        path = f"tinker://s:train:0/weights/{name}"
        store.put("checkpoints", checkpoint_row(path, created_at))
    store.put("futures", future_row("unfinished", boot_id="old"))
    store.put("futures", future_row("running", boot_id="other"))
    await store.run(partial(take_over, boot_id="new", living=lambda: {"other"}))
    left = await store.run(partial(queries.restored, boot_id="new", since_s=now_s - 3600))
    assert [row["session_id"] for row in left.sessions] == ["s"]
    (lost,) = left.models
    assert lost["model_id"] == "s:train:0"
    assert lost["last_checkpoint"] == "tinker://s:train:0/weights/last"
    states = {row["model_id"]: row["state"] for row in await all_rows(store, models)}
    assert states == {"s:train:0": "lost", "s:train:1": "unloaded", "theirs:train:0": "live"}
    ended = {row["session_id"]: row["ended"] for row in await all_rows(store, sessions)}
    assert "without a heartbeat" in (ended["silent"] or "")
    assert (ended["s"], ended["theirs"]) == (None, None)
    expiries = {row["request_id"]: row["expires_at"] for row in await all_rows(store, futures)}
    assert expiries["running"] is None
    assert expiries["unfinished"] == pytest.approx(now_s + 3600)
    assert len(await all_rows(store, checkpoints)) == 2


def test_boots_are_alive_as_long_as_they_hold_their_lock(tmp_path: Path) -> None:
    first, second = BootLock(tmp_path, "first"), BootLock(tmp_path, "second")
    (tmp_path / "dead.lock").touch()
    assert first.living() == second.living() == {"first", "second"}
    assert not (tmp_path / "dead.lock").exists()
    first.release()
    assert second.living() == {"second"}
    second.release()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "cannot be read"),
        ("mysql://somebody:secret@host/name", "names 'mysql'"),
        ("sqlite://", "names no file"),
        ("postgresql://somebody:secret@127.0.0.1:1/name", "cannot be opened"),
    ],
)
async def test_a_bad_address_is_a_settings_error_without_the_password(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        await MetadataStore.open(url)
    assert caught.value.field == "database_url"
    assert "secret" not in str(caught.value)


async def test_a_database_of_a_newer_release_is_refused(database_url: str) -> None:
    store = await MetadataStore.open(database_url)

    def rename(connection: Connection) -> None:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))

    await store.run(rename)
    await store.close()
    with pytest.raises(ConfigError, match="has schema '9999'"):
        await MetadataStore.open(database_url)


async def test_a_postgresql_database_serves_one_service_at_a_time(
    fresh_database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinsmith.server.metadata.store.LOCK_WAIT_S", 0.3)
    url = fresh_database()
    first = await MetadataStore.open(url)
    with pytest.raises(ConfigError, match="another service uses it"):
        await MetadataStore.open(url)
    await asyncio.gather(first.close())
    second = await MetadataStore.open(url)
    await second.close()
