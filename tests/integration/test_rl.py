"""The RL loop against a real service: rewards rise, and a killed run goes on exactly."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.integration.service_process import ServiceProcess
from tinsmith.client import ServiceClient
from tinsmith.telemetry import read_metrics
from tinsmith.training import RLConfig, RunResult, names, run_rl

pytestmark = [pytest.mark.integration, pytest.mark.slow]


class KilledError(BaseException):
    """The trainer dies here; not an Exception, so nothing cleans up after it."""


class DiesAt:
    """Ends the run once a step is on record."""

    def __init__(self, step: int) -> None:
        self.step = step

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step == self.step and names.REWARD_MEAN in metrics:
            raise KilledError

    def close(self) -> None: ...


def brief(text: str, answer: str) -> float:
    """Fewer letters are better."""
    return 1 - len(text) / 40


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path) -> Iterator[ServiceClient]:
    with (
        ServiceProcess(tmp_path_factory.mktemp("service")) as running,
        ServiceClient(base_url=running.ready["url"], api_key=running.ready["api_key"]) as client,
    ):
        yield client


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    rows = [
        {"question": "What colour is grass?", "answer": "green"},
        {"question": "What is the capital of France?", "answer": "Paris"},
        {"question": "What colour is milk?", "answer": "white"},
        {"question": "What is the opposite of hot?", "answer": "cold"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings(data: Path, run_dir: Path, **changes: Any) -> RLConfig:
    values: dict[str, Any] = {
        "data": data,
        "run_dir": run_dir,
        "batch_size": 4,
        "group_size": 8,
        "max_tokens": 12,
        "num_steps": 5,
        "learning_rate": 3e-3,
        "lora_rank": 8,
        "save_every": 2,
        "seed": 0,
    }
    return RLConfig(**(values | changes))


def comparable(result: RunResult) -> list[dict[str, float]]:
    return [
        {k: v for k, v in row.items() if not k.startswith(names.MEASURED_PREFIXES)}
        for row in read_metrics(result.run_dir / "metrics.jsonl")
    ]


def test_the_reward_rises(service: ServiceClient, data_file: Path, tmp_path: Path) -> None:
    result = run_rl(settings(data_file, tmp_path / "run"), reward=brief, service=service)
    rows = comparable(result)
    assert len(rows) == 5
    rewards = [row[names.REWARD_MEAN] for row in rows]
    # The start has a mean of 0.46 and a standard error of 0.03 over its 32 answers.
    assert rewards[-1] > rewards[0] + 0.12
    # The sampler and the trainer compute the same logprobs, to float32's rounding.
    assert all(row[names.POLICY_KL_K2] < 1e-7 for row in rows)
    assert all(row[names.ROLLOUT_ENDED] == 1.0 for row in rows)
    assert result.sampler_path is not None


def test_a_killed_run_with_terms_and_substeps_resumes_to_the_metrics_of_an_undisturbed_one(
    service: ServiceClient, data_file: Path, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {
        "loss": "ppo",
        "num_substeps": 2,
        "keep_constant_groups": True,
        "num_steps": 4,
        "group_size": 4,
        "regularizers": [
            {"kind": "kl_estimate", "weight": 0.05, "state": {"kind": "dual_ascent", "target": 0.1}}
        ],
    }
    undisturbed = run_rl(
        settings(data_file, tmp_path / "whole", **changes), reward=brief, service=service
    )
    config = settings(data_file, tmp_path / "killed", if_exists="resume", **changes)
    with pytest.raises(KilledError):
        run_rl(config, reward=brief, service=service, recorder=DiesAt(3))
    resumed = run_rl(config, reward=brief, service=service)
    assert resumed.resumed_from_step == 2
    rows = comparable(resumed)
    # Tokens are the same; their logprobs depend on what was drawn beside them, in the last bits.
    for row, expected in zip(rows, comparable(undisturbed), strict=True):
        assert row == pytest.approx(expected, rel=1e-2, abs=1e-4)
    assert [row["optim/step"] for row in rows] == [2, 4, 6, 8]
    assert {"reg/kl_estimate/value", names.POLICY_CLIP_FRACTION} <= set(rows[0])
    # Between the updates of a step the policy has moved away from the one that sampled.
    assert all(row[names.POLICY_KL_K2] > 1e-7 for row in rows)


@pytest.mark.parametrize("loss", ["importance_sampling", "ppo"])
def test_the_loss_on_logprobs_gives_the_gradient_of_the_services_own(
    service: ServiceClient, data_file: Path, tmp_path: Path, loss: str
) -> None:
    """A term without weight sends the steps through forward_backward_custom."""
    changes: dict[str, Any] = {"loss": loss, "num_substeps": 2, "num_steps": 1}
    results = [
        run_rl(
            settings(data_file, tmp_path / f"run{n}", regularizers=terms, **changes),
            reward=brief,
            service=service,
        )
        for n, terms in enumerate([[], [{"kind": "l1", "weight": 0.0}]])
    ]
    plain, composed = (comparable(result)[0] for result in results)
    assert composed[names.REWARD_MEAN] == plain[names.REWARD_MEAN]
    # float32 sums in another order
    for name in (names.TRAIN_LOSS, "optim/grad_norm", "optim/weight_norm", names.POLICY_KL_K1):
        assert composed[name] == pytest.approx(plain[name], rel=1e-4, abs=1e-7), name
