"""Which states are kept, and that a run killed anywhere ends as one that was not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.unit.training.conftest import MakeConfig
from tests.unit.training.fakes import FakeService, KilledError
from tests.unit.training.test_supervised import comparable, work
from tinsmith.telemetry import read_metrics
from tinsmith.training import CheckpointRecord, RunResult, SupervisedConfig, run_supervised
from tinsmith.training.checkpoints import last_resumable, read_records


class Counter:
    """State of a regularizer, say: it counts the evaluations that it has seen."""

    def __init__(self) -> None:
        self.count = 0

    async def __call__(self, client: Any) -> Mapping[str, float]:
        self.count += 1
        return {"eval/count": self.count}

    def state_dict(self) -> Mapping[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count = state["count"]


def run(config: SupervisedConfig, service: FakeService) -> RunResult:
    counter = Counter()
    return run_supervised(
        config, service=service, evaluators=[counter], stateful={"counter": counter}
    )


def records(result: RunResult) -> list[CheckpointRecord]:
    return read_records(result.run_dir / "checkpoints.jsonl")


SETTINGS: list[dict[str, Any]] = [
    {"save_every": 2, "keep_last": 1, "best_metric": "eval/nll"},
    {"save_every": 0, "rolling_save_every_s": 1e-9, "submit_ahead": 2, "num_epochs": 2},
    {"save_every": 3, "batch_tokens": 60, "num_epochs": 2, "submit_ahead": 0},
]


@pytest.mark.parametrize("changes", SETTINGS, ids=["best", "rolling", "tokens"])
def test_a_run_killed_at_any_call_resumes_to_the_metrics_of_an_undisturbed_one(
    make_config: MakeConfig, tmp_path: Path, changes: dict[str, Any]
) -> None:
    whole = FakeService()
    undisturbed = run(make_config(run_dir=tmp_path / "undisturbed", **changes), whole)
    expected = comparable(read_metrics(undisturbed.run_dir / "metrics.jsonl"))
    # Every distinct call, the loading of the client apart: the trainer dies as it is made.
    deaths = [call for call in dict.fromkeys(work(whole.calls)) if not call.startswith("load")]
    assert len(deaths) > 15
    for number, die_at in enumerate(deaths):
        run_dir = tmp_path / f"killed{number}"
        service = FakeService(die_at=die_at)
        with pytest.raises(KilledError):
            run(make_config(run_dir=run_dir, **changes), service)
        again = FakeService(saved=service.saved)
        resumed = run(make_config(run_dir=run_dir, if_exists="resume", **changes), again)
        assert comparable(read_metrics(resumed.run_dir / "metrics.jsonl")) == expected, die_at
        assert records(resumed)[-1] == records(undisturbed)[-1], die_at


def test_a_run_killed_over_and_over_still_ends_the_same(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    undisturbed = run(make_config(run_dir=tmp_path / "undisturbed"), FakeService())
    saved: dict[str, Any] = {}
    for die_at in ("optim_step 3", "forward at 3", "save_state 000004 at 4", "optim_step 8"):
        service = FakeService(saved=saved, die_at=die_at)
        with pytest.raises(KilledError):
            run(make_config(if_exists="resume"), service)
        saved = service.saved
    resumed = run(make_config(if_exists="resume"), FakeService(saved=saved))
    assert comparable(read_metrics(resumed.run_dir / "metrics.jsonl")) == comparable(
        read_metrics(undisturbed.run_dir / "metrics.jsonl")
    )


def test_the_newest_checkpoints_are_kept_and_older_ones_deleted(
    make_config: MakeConfig, service: FakeService
) -> None:
    result = run(make_config(keep_last=2), service)
    assert [r.name for r in records(result)] == ["000006", "000008", "final"]
    assert service.deleted == ["tinker://run/weights/000002", "tinker://run/weights/000004"]
    assert set(service.ttls.values()) == {None}


def test_the_best_state_is_kept_with_weights_to_sample_from(
    make_config: MakeConfig, service: FakeService
) -> None:
    result = run(make_config(best_metric="eval/nll", save_every=0), service)
    rows = [row for row in read_metrics(result.run_dir / "metrics.jsonl") if "eval/nll" in row]
    best = min(rows, key=lambda row: row["eval/nll"])
    kept = [record for record in records(result) if record.kind == "best"]
    assert [record.step for record in kept] == [best["step"]]
    assert kept[0].sampler_path is not None
    assert service.saved[str(kept[0].state_path)].num_steps == best["step"]


def test_the_best_may_be_the_highest(make_config: MakeConfig, service: FakeService) -> None:
    result = run(make_config(best_metric="eval/count", best_is="highest", save_every=0), service)
    assert [r.step for r in records(result) if r.kind == "best"] == [9]


def test_a_resumed_run_remembers_the_best_that_it_had(make_config: MakeConfig) -> None:
    changes: dict[str, Any] = {"best_metric": "eval/count", "best_is": "lowest"}
    service = FakeService(die_at="optim_step 6")
    with pytest.raises(KilledError):
        run(make_config(**changes), service)
    result = run(make_config(if_exists="resume", **changes), FakeService(saved=service.saved))
    # Counts only grow, so the first is the lowest, before the kill and after it.
    assert [r.step for r in records(result) if r.kind == "best"] == [0]


def test_one_rolling_checkpoint_is_kept_and_expires(
    make_config: MakeConfig, service: FakeService
) -> None:
    config = make_config(save_every=0, rolling_save_every_s=1e-9, rolling_ttl_s=60)
    result = run(config, service)
    assert [(r.name, r.kind) for r in records(result)] == [
        ("rolling-000008", "rolling"),
        ("final", "final"),
    ]
    assert service.ttls["rolling-000003"] == 60
    assert service.ttls["final"] is None


def test_periodic_checkpoints_may_expire_and_an_expired_one_is_not_resumed_from(
    make_config: MakeConfig, service: FakeService
) -> None:
    result = run(make_config(checkpoint_ttl_s=100), service)
    found = records(result)[:-1]
    assert all(service.ttls[record.name] == 100 for record in found)
    expiry = found[-1].expires_at
    assert expiry is not None
    assert last_resumable(found, now=expiry - 1) == found[-1]
    assert last_resumable(found, now=expiry + 1) is None


def test_a_checkpoint_that_cannot_be_deleted_does_not_stop_the_run(
    make_config: MakeConfig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.unit.training.fakes import FakeRestClient
    from tinsmith.core.errors import ServerError

    def fail(self: Any, path: str) -> None:
        raise ServerError("disk on fire")

    monkeypatch.setattr(FakeRestClient, "delete_checkpoint_from_tinker_path", fail)
    result = run(make_config(keep_last=1), FakeService())
    assert [r.name for r in records(result)] == ["000008", "final"]
    assert "could not be deleted: disk on fire" in caplog.text


def test_tokens_are_counted_over_the_whole_run(make_config: MakeConfig) -> None:
    result = run(make_config(), FakeService())
    rows = [r for r in read_metrics(result.run_dir / "metrics.jsonl") if "train/num_tokens" in r]
    total = sum(row["train/num_tokens"] for row in rows)
    assert rows[-1]["progress/num_tokens"] == records(result)[-1].num_tokens == total
