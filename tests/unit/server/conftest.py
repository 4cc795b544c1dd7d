"""Services on databases of each kind: a SQLite file always, PostgreSQL where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.postgres import require_programs, running_postgres
from tests.unit.server.services import Start, running_service
from tinsmith.core.ids import new_id


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    with running_postgres(require_programs()) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(
    request: pytest.FixtureRequest, tmp_path: Path, fresh_database: Callable[[], str]
) -> str:
    """The address of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'metadata.sqlite3'}"
    return fresh_database()


@pytest.fixture
def fresh_database(request: pytest.FixtureRequest) -> Callable[[], str]:
    """Makes an empty PostgreSQL schema: a fraction of a database's cost, and as good here."""

    def make() -> str:
        import psycopg

        url: str = request.getfixturevalue("postgres_url")
        name = f"test_{new_id()}"
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{url}?options=-csearch_path%3D{name}"

    return make


@pytest.fixture
def start_on(tmp_path: Path, database_url: str) -> Start:
    """Starts a service, again and again on the same state directory and database."""
    return partial(running_service, state_dir=tmp_path, database_url=database_url)
