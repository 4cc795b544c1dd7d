"""`store`: an empty store of each kind in turn; the contract's tests run on all of them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tinsmith.telemetry.stores import MemoryStore, SqliteStore, Store

MAKERS: dict[str, Callable[[Path], Store]] = {
    "memory": lambda folder: MemoryStore(),
    "sqlite": lambda folder: SqliteStore(folder / "runs"),
}


@pytest.fixture(params=MAKERS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made = MAKERS[request.param](tmp_path)
    yield made
    made.close()
