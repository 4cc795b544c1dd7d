"""The preference loop against a real service: it learns the preference, and it survives a kill."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.integration.service_process import ServiceProcess
from tinsmith.client import ServiceClient
from tinsmith.telemetry import read_metrics
from tinsmith.training import (
    PreferenceConfig,
    RunResult,
    SupervisedConfig,
    names,
    run_preference,
    run_supervised,
)

pytestmark = [pytest.mark.integration, pytest.mark.slow]


class KilledError(BaseException):
    """The trainer dies here; not an Exception, so nothing cleans up after it."""


class DiesAt:
    """Ends the run once a step is on record, while the next one is on its way."""

    def __init__(self, step: int) -> None:
        self.step = step

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step == self.step and names.TRAIN_LOSS in metrics:
            raise KilledError

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path) -> Iterator[ServiceClient]:
    with (
        ServiceProcess(tmp_path_factory.mktemp("service")) as running,
        ServiceClient(base_url=running.ready["url"], api_key=running.ready["api_key"]) as client,
    ):
        yield client


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    """People want it brief and polite."""
    path = tmp_path / "pairs.jsonl"
    things = ["tea", "bread", "a lamp", "a map", "soap", "a pen", "milk", "rope"]
    with path.open("w") as file:
        for number in range(16):
            thing = things[number % len(things)]
            row = {
                "prompt": f"Do you sell {thing}? ({number})",
                "chosen": f"Yes, we have {thing}. Thank you for asking.",
                "rejected": f"Go and look for {thing} yourself, I am busy now.",
            }
            file.write(json.dumps(row) + "\n")
    return path


def settings(data: Path, run_dir: Path, **changes: Any) -> PreferenceConfig:
    values: dict[str, Any] = {
        "data": data,
        "run_dir": run_dir,
        "test_size": 4,
        "batch_size": 4,
        "num_epochs": 3,
        "learning_rate": 1e-3,
        "lora_rank": 8,
        "eval_every": 0,
        "save_every": 3,
        "seed": 7,
    }
    return PreferenceConfig(**(values | changes))


def comparable(result: RunResult) -> list[dict[str, float]]:
    return [
        {k: v for k, v in row.items() if not k.startswith(names.MEASURED_PREFIXES)}
        for row in read_metrics(result.run_dir / "metrics.jsonl")
    ]


def test_a_run_learns_the_preference_of_comparisons_that_it_has_not_seen(
    service: ServiceClient, data_file: Path, tmp_path: Path
) -> None:
    config = settings(
        data_file,
        tmp_path / "run",
        num_epochs=2,
        learning_rate=2e-3,
        regularizers=[{"kind": "kl_estimate", "weight": 0.01, "estimator": "k2"}],
    )
    result = run_preference(config, service=service)
    before, after = result.metrics_before, result.metrics
    # The reference is the model itself: by two ways of computing logprobs, to float32's rounding.
    assert before[names.EVAL_LOSS] == pytest.approx(0.693147, abs=1e-4)
    assert abs(before[names.EVAL_MARGIN]) < 1e-3
    assert after[names.EVAL_PAIR_ACCURACY] == 1.0
    assert after[names.EVAL_MARGIN] > 0.5
    assert after[names.EVAL_LOSS] < 0.8 * before[names.EVAL_LOSS]
    steps = [row for row in comparable(result) if names.TRAIN_LOSS in row]
    assert len(steps) == 6
    assert steps[0]["reg/kl_estimate/value"] < 1e-6 < steps[-1]["reg/kl_estimate/value"]
    assert result.sampler_path is not None


def test_a_killed_run_resumes_to_the_metrics_of_an_undisturbed_one(
    service: ServiceClient, data_file: Path, tmp_path: Path
) -> None:
    undisturbed = run_preference(settings(data_file, tmp_path / "undisturbed"), service=service)
    config = settings(data_file, tmp_path / "killed", if_exists="resume")
    with pytest.raises(KilledError):
        run_preference(config, service=service, recorder=DiesAt(5))
    resumed = run_preference(config, service=service)
    assert resumed.resumed_from_step == 3
    assert comparable(resumed) == comparable(undisturbed)


def test_a_run_may_start_from_a_supervised_one_which_is_then_its_reference(
    service: ServiceClient, data_file: Path, tmp_path: Path
) -> None:
    chats = tmp_path / "chats.jsonl"
    said = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Good day."}]
    chats.write_text(json.dumps({"messages": said}) + "\n")
    supervised = SupervisedConfig(
        data=chats, run_dir=tmp_path / "sft", lora_rank=4, learning_rate=1e-2, num_epochs=3
    )
    first = run_supervised(supervised, service=service)
    config = settings(
        data_file, tmp_path / "dpo", start_from=first.state_path, lora_rank=32, max_steps=2
    )
    rows = comparable(run_preference(config, service=service))
    fresh = settings(data_file, tmp_path / "fresh", max_steps=1)
    other = comparable(run_preference(fresh, service=service))
    assert rows[0][names.EVAL_LOSS] == pytest.approx(0.693147, abs=1e-4)
    assert abs(rows[0][names.EVAL_NLL] - other[0][names.EVAL_NLL]) > 0.01
