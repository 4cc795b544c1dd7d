"""The PostgreSQL store beyond the contract: its schema, restarts, forks, and TimescaleDB's SQL."""

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.postgres import PostgresServer
from tests.unit.telemetry.records import points, stored_run, triples
from tinsmith import telemetry
from tinsmith.core.errors import ConfigError, MissingExtraError
from tinsmith.telemetry.errors import StoreError
from tinsmith.telemetry.model import Batch, PointColumns, RunStatus
from tinsmith.telemetry.stores import PostgresStore, open_store, postgres_schema, timescale
from tinsmith.telemetry.stores.postgres_copy import decode_array, encode_points

psycopg = pytest.importorskip("psycopg")


@pytest.fixture
def address(fresh_schema: Callable[[], str]) -> str:
    return fresh_schema()


@pytest.fixture
def opened(address: str) -> Iterator[PostgresStore]:
    store = PostgresStore(address)
    yield store
    store.close()


def test_tables_are_made_once_and_points_are_partitioned(address: str) -> None:
    stores = [PostgresStore(address) for _ in range(4)]
    threads = [threading.Thread(target=stored_run, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores[0].list_runs()) == 4
    for store in stores:
        store.close()
    with psycopg.connect(address) as db:
        assert db.execute("SELECT version FROM telemetry_schema").fetchall() == [
            (postgres_schema.SCHEMA_VERSION,)
        ]
        [(count,)] = db.execute(
            "SELECT count(*) FROM pg_inherits WHERE inhparent = 'telemetry_point'::regclass"
        ).fetchall()
        assert count == postgres_schema.NUM_PARTITIONS


def test_tables_of_a_later_release_are_refused(opened: PostgresStore, address: str) -> None:
    stored_run(opened)
    with psycopg.connect(address) as db:
        db.execute("UPDATE telemetry_schema SET version = 99")
    late = PostgresStore(address)
    with pytest.raises(StoreError, match=r"tables of version 99, .* upgrade tinsmith") as caught:
        late.list_runs()
    assert caught.value.is_permanent


def test_the_address_shows_no_password_and_opens_by_name(address: str) -> None:
    assert "secret" not in PostgresStore("postgresql://me:secret@db:5433/runs").url
    assert PostgresStore("postgresql://me:secret@db:5433/runs").url == (
        "postgresql://me@db:5433/runs"
    )
    opened = open_store(address)
    assert isinstance(opened, PostgresStore)
    run_id = stored_run(opened)
    assert [run.run_id for run in opened.list_runs()] == [run_id]
    opened.close()


def test_a_wrong_address_and_an_absent_server_say_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not an address of a PostgreSQL database: .*; write"):
        PostgresStore("postgresql://host/db?colour=red")
    nowhere = PostgresStore(f"postgresql:///db?host={tmp_path}&port=1")
    with pytest.raises(StoreError, match="check that the server runs") as caught:
        nowhere.list_runs()
    assert not caught.value.is_permanent


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r'psycopg.*pip install "tinsmith\[postgres\]"'):
        PostgresStore("postgresql://host/db")


def test_a_text_that_postgres_cannot_hold_is_a_permanent_error(opened: PostgresStore) -> None:
    run_id = stored_run(opened)
    with pytest.raises(StoreError, match="NUL") as caught:
        opened.append(run_id, points(("a\x00b", 1, 1.0)))
    assert caught.value.is_permanent
    opened.append(run_id, points(("a", 1, 1.0)))
    assert triples(opened.points(run_id)) == [("a", 1, 1.0)]


def test_a_server_restarted_in_the_middle_of_a_run_loses_nothing(
    own_server: PostgresServer,
) -> None:
    """The writer tries again, as the recorder's does; every acknowledged row is there."""
    store = PostgresStore(own_server.url)
    run_id = stored_run(store)
    acknowledged: list[int] = []
    errors: list[StoreError] = []

    def write() -> None:
        for step in range(300):
            while True:
                try:
                    store.append(run_id, points(("loss", step, float(step)), ("lr", step, 0.5)))
                    break
                except StoreError as error:
                    errors.append(error)
                    time.sleep(0.02)
            acknowledged.append(step)

    writer = threading.Thread(target=write)
    writer.start()
    for restart in range(3):
        while len(acknowledged) < 50 * (restart + 1):
            time.sleep(0.005)
        own_server.restart()
    writer.join()
    assert not any(error.is_permanent for error in errors)
    assert acknowledged == list(range(300))
    found = store.points(run_id, ["loss"])
    assert found.step.tolist() == list(range(300))
    assert found.value.tolist() == [float(step) for step in range(300)]
    assert len(store.points(run_id, ["lr"])) == 300
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_parent_and_forked_child_use_connections_of_their_own(opened: PostgresStore) -> None:
    run_id = stored_run(opened)
    opened.append(run_id, points(("k", 0, 0.0)))
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for step in range(1, 20):
                opened.append(run_id, points(("k", step, 1.0)))
            code = 0
        finally:
            os._exit(code)
    for step in range(20, 40):
        opened.append(run_id, points(("k", step, 2.0)))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert opened.points(run_id).step.tolist() == list(range(40))


def test_a_large_batch_goes_in_and_out_by_copy(opened: PostgresStore) -> None:
    run_id = stored_run(opened)
    rng = np.random.default_rng(0)
    values = rng.normal(size=20_000)
    values[:3] = math.nan, math.inf, -math.inf
    columns = PointColumns.of(("a", "b"), np.arange(20_000) % 2, np.arange(20_000), values)
    opened.append(run_id, Batch(points=columns))
    found = opened.points(run_id, ["a", "b"])
    np.testing.assert_array_equal(found.value, np.concatenate([values[::2], values[1::2]]))
    assert found.step.dtype.isnative
    assert found.value.dtype == np.float64


def test_the_binary_format_is_the_servers() -> None:
    columns = tuple(np.array([value]) for value in (7, -2, 3, 4, 2**62, math.pi))
    data = encode_points(columns, np.array([9]))
    assert data.startswith(b"PGCOPY\n\xff\r\n\x00")
    assert data.endswith(b"\xff\xff")
    assert data[19:27] == b"\x00\x07" + b"\x00\x00\x00\x04" + b"\x00\x00"
    array = bytes(20) + b"\x00\x00\x00\x08" + (-5).to_bytes(8, "big", signed=True)
    assert decode_array(array, ">i8").tolist() == [-5]


# ---------------------------------------------------------------------------------- schema versions


def test_a_change_of_tables_comes_with_a_new_version(
    schema_digests: Callable[[str, dict[int, str]], None],
) -> None:
    schema_digests("postgresql", postgres_schema.MIGRATIONS)


# -------------------------------------------------------------------------------------- TimescaleDB


def test_timescale_is_not_found_where_it_is_not_installed(
    opened: PostgresStore, address: str
) -> None:
    run_id = stored_run(opened)
    with psycopg.connect(address) as db:
        [(has_it,)] = db.execute(
            "SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'"
        ).fetchall()
        found = timescale.find_timescale(db)
    assert (found is not None) == bool(has_it)
    if not has_it:
        assert opened.compress(10) == 0
    assert run_id


def test_points_become_a_hypertable_by_steps() -> None:
    community = timescale.Timescale((2, 17), has_compression=True)
    create, compress = timescale.hypertable_statements(community)
    assert create == "SELECT create_hypertable('telemetry_point', by_range('step', 1000000));"
    assert compress == (
        "ALTER TABLE telemetry_point SET (timescaledb.compress, "
        "timescaledb.compress_segmentby = 'run_id, key_id, rank', "
        "timescaledb.compress_orderby = 'step, attempt');"
    )
    old = timescale.hypertable_statements(community._replace(version=(2, 9)))
    assert old[0] == (
        "SELECT create_hypertable('telemetry_point', 'step', chunk_time_interval => 1000000);"
    )


def test_the_apache_edition_goes_without_compression() -> None:
    apache = timescale.Timescale((2, 17), has_compression=False)
    assert len(timescale.hypertable_statements(apache)) == 1


def test_compression_names_the_chunks_before_a_step() -> None:
    assert timescale.compression_statement(500) == (
        "SELECT compress_chunk(chunk, if_not_compressed => true) "
        "FROM show_chunks('telemetry_point', older_than => 500::bigint) AS chunk"
    )


class _FakeExtension:
    """Answers the two questions of `find_timescale` as a server with the extension does."""

    def __init__(self, version: str, licence: str | None) -> None:
        self.answers = [(version,), (licence,)]

    def execute(self, sql: str) -> "_FakeExtension":
        return self

    def fetchone(self) -> tuple[str | None, ...]:
        return self.answers.pop(0)


@pytest.mark.parametrize(
    ("licence", "has_compression"), [("timescale", True), ("apache", False), (None, False)]
)
def test_the_edition_is_read_from_the_licence(licence: str | None, has_compression: bool) -> None:
    found = timescale.find_timescale(_FakeExtension("2.13.1-dev", licence))
    assert found == timescale.Timescale((2, 13), has_compression)


def test_the_hypertable_takes_the_place_of_the_partitions() -> None:
    assert postgres_schema.partitions() in postgres_schema.MIGRATIONS[1]
    statements = postgres_schema.statements_of(1, timescale.Timescale((2, 17), True))
    assert "PARTITION" not in statements
    assert "create_hypertable" in statements


def test_a_recorder_outlives_a_server_that_restarts(
    own_server: PostgresServer, fresh_schema: Callable[[], str]
) -> None:
    store = PostgresStore(fresh_schema())
    with telemetry.init("restarts", store=store) as run:
        for step in range(400):
            run.log({"loss": float(step)}, step=step)
            if step in (100, 250):
                assert run.flush()
                own_server.restart()
        run_id = run.run_id
    assert dict(run.health).get("dropped_points", 0) == 0
    found = store.points(run_id, ["loss"])
    assert found.value.tolist() == [float(step) for step in range(400)]
    assert store.get_run(run_id).status == RunStatus.FINISHED
    store.close()
