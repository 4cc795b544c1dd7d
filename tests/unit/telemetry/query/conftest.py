"""`recorded`: a store with one run of everything, hot, or sealed as well."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.telemetry.records import event, other_machine, points, run_record, sample
from tinsmith.telemetry.model import (
    Alert,
    Artifact,
    Attempt,
    Batch,
    KeyInfo,
    RunStatus,
)
from tinsmith.telemetry.query import seal_run
from tinsmith.telemetry.stores import MemoryStore, SqliteStore, Store


@dataclass(frozen=True)
class Recorded:
    store: Store
    run_id: str
    sealed_root: Path | None


def write_everything(store: Store) -> str:
    record = run_record(
        name="first",
        project="Math/RL",
        group="seeds",
        condition="treatment",
        tags=("a", "b"),
        config={"lr": 1e-4, "layers": [1, 2]},
        seed=7,
    )
    store.put_run(record)
    run_id = record.run_id
    ended = {"started_ns": 1, "heartbeat_ns": 2, "ended_ns": 3, "status": RunStatus.FINISHED}
    for number, resumed in ((1, None), (2, 5)):
        store.put_attempt(
            run_id,
            Attempt(
                attempt=number, resumed_from_step=resumed, **ended, **other_machine()._asdict()
            ),
        )
    store.put_keys(run_id, [KeyInfo(key="loss", unit="nats", goal="min")])
    store.append(run_id, points(*(("loss", step, 10.0 - step) for step in range(10))))
    store.append(run_id, points(*(("loss", step, 0.5, 0, 2) for step in range(6, 9))))
    odd = ((1, math.nan), (2, math.inf), (3, -math.inf), (4, 2.0**53 + 2), (5, 5e-324))
    store.append(run_id, points(*(("odd/ü", step, value, 1, 2) for step, value in odd)))
    store.append(
        run_id,
        Batch(
            events=(
                event("llm.request", measurements={"cost_usd": 0.5}, metadata={"model": "q"}),
                event(
                    "llm.request", ts_ns=2**60, duration_ns=7, measurements={"ttft_ms": math.inf}
                ),
            ),
            samples=(sample(token_logprobs=(-1.5, -math.inf), rewards={"total": math.nan}),),
            artifacts=(
                Artifact(
                    digest="ab", name="w", kind="model", uri="file:x", num_bytes=2**40, ts_ns=4
                ),
            ),
            alerts=(Alert(alert_id="1", rule="nan", message="loss is NaN", opened_ns=5),),
        ),
    )
    return run_id


@pytest.fixture(params=["hot", "sealed", "memory sealed"])
def recorded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Recorded]:
    in_memory = request.param == "memory sealed"
    store: Store = MemoryStore() if in_memory else SqliteStore(tmp_path / "runs")
    run_id = write_everything(store)
    root = tmp_path / "sealed" if in_memory else None
    if "sealed" in request.param:
        seal_run(store, run_id, root)
    yield Recorded(store, run_id, root)
    store.close()
