"""`store`: an empty store of each kind in turn; the contract's tests run on all of them."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.postgres import PostgresServer, require_programs, running_server
from tinsmith.core.ids import new_id
from tinsmith.telemetry.stores import MemoryStore, PostgresStore, SqliteStore, Store

MAKERS: dict[str, Callable[[Path], Store]] = {
    "memory": lambda folder: MemoryStore(),
    "sqlite": lambda folder: SqliteStore(folder / "runs"),
}
SCHEMAS = Path(__file__).parents[3] / "golden" / "telemetry_schemas.json"


@pytest.fixture(params=[*MAKERS, "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "postgresql":
        made = request.getfixturevalue("postgres_store")
    else:
        made = MAKERS[request.param](tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    pytest.importorskip("psycopg")
    with running_server(require_programs()) as server:
        yield server


@pytest.fixture
def own_server(postgres_server: PostgresServer) -> PostgresServer:
    """A server that a test may restart; tests of one process follow each other."""
    return postgres_server


@pytest.fixture(scope="session")
def fresh_schema(postgres_server: PostgresServer) -> Callable[[], str]:
    """Makes an empty schema and tells its address: a fraction of a database's cost."""

    def make() -> str:
        import psycopg

        name = f"test_{new_id()}"
        with psycopg.connect(postgres_server.url, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{postgres_server.url}?options=-csearch_path%3D{name}"

    return make


@pytest.fixture(scope="session")
def shared_schema(fresh_schema: Callable[[], str]) -> str:
    return fresh_schema()


@pytest.fixture
def postgres_store(shared_schema: str) -> PostgresStore:
    """A store whose tables are there already, and empty."""
    store = PostgresStore(shared_schema)
    for run in store.list_runs():
        store.delete_run(run.run_id)
    return store


@pytest.fixture
def schema_digests(request: pytest.FixtureRequest) -> Callable[[str, dict[int, str]], None]:
    """Compares statements by version with the recorded digests, which are only ever added to."""

    def check(store: str, statements: dict[int, str]) -> None:
        known = json.loads(SCHEMAS.read_text()) if SCHEMAS.exists() else {}
        said = known.setdefault(store, {})
        for version, text in statements.items():
            digest = hashlib.sha256(text.encode()).hexdigest()
            if str(version) not in said and request.config.getoption("--regenerate-golden"):
                said[str(version)] = digest
                SCHEMAS.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
            assert said.get(str(version)) == digest, (
                f"the {store} tables of version {version} differ from those of the release that "
                "made them: give the change a version of its own, and run --regenerate-golden"
            )

    return check
