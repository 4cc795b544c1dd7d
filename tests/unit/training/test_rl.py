"""The RL loop on the service in NumPy: rollouts, advantages, losses, exact resume."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.training.fakes import FakeService, KilledError
from tinsmith.core.errors import ConfigError, DataError
from tinsmith.data import Prompt
from tinsmith.telemetry import read_metrics
from tinsmith.training import RLConfig, RunResult, names, run_rl
from tinsmith.training.rl import (
    PolicyLoss,
    make_updates,
    rollout_metrics,
    trained_groups,
)
from tinsmith.training.rollouts import MASK, Group, Rollout, datum_of, group_seed

MakeRun = Callable[..., RLConfig]


def long_is_good(text: str, answer: str) -> float:
    return float(len(text))


@pytest.fixture
def make_run(tmp_path: Path, tiny_dir: object) -> MakeRun:
    """Configuration of a run of 6 steps over 6 prompts."""
    data = tmp_path / "prompts.jsonl"
    rows = [{"question": f"Question {i}?", "answer": str(i)} for i in range(6)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(**changes: Any) -> RLConfig:
        settings: dict[str, Any] = {
            "data": data,
            "run_dir": tmp_path / "run",
            "batch_size": 3,
            "group_size": 4,
            "max_tokens": 5,
            "num_epochs": 3,
            "learning_rate": 0.3,
            "eval_every": 2,
            "save_every": 2,
            "seed": 1,
        }
        return RLConfig(**(settings | changes))

    return make


def rows_of(result: RunResult) -> list[dict[str, float]]:
    return [
        {k: v for k, v in row.items() if not k.startswith(names.MEASURED_PREFIXES)}
        for row in read_metrics(result.run_dir / "metrics.jsonl")
    ]


def make_group(rewards: list[float], lengths: list[int] | None = None) -> Group:
    prompt = Prompt(({"role": "user", "content": "Hi"},), "x", "file", 1)
    rollouts = tuple(
        Rollout(
            tokens=np.arange(10, 10 + length),
            logprobs=np.linspace(-0.1, -0.9, length, dtype=np.float32),
            text="text",
            reward=reward,
            has_ended=True,
        )
        for reward, length in zip(rewards, lengths or [2] * len(rewards), strict=True)
    )
    return Group(prompt, (1, 2, 3), rollouts)


def test_a_step_samples_with_the_weights_that_the_steps_before_left(make_run: MakeRun) -> None:
    service = FakeService()
    rows = rows_of(run_rl(make_run(), reward=long_is_good, service=service))
    samplers = [call for call in service.calls if call.startswith("sampling client at")]
    assert samplers == [f"sampling client at {step}" for step in range(6)]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    for row in rows:
        # What sampled is what is trained, so the estimates say nothing but float32.
        assert abs(row[names.POLICY_KL_K1]) < 1e-6
        assert row[names.POLICY_KL_K3] < 1e-9
        assert row[names.ROLLOUT_NUM] == 12
        assert row[names.REWARD_MIN] <= row[names.REWARD_MEAN] <= row[names.REWARD_MAX]


@pytest.mark.parametrize("loss", ["importance_sampling", "ppo"])
def test_the_loss_on_logprobs_moves_the_model_as_the_services_own(
    make_run: MakeRun, tmp_path: Path, loss: str
) -> None:
    """A term without weight sends the step through forward_backward_custom."""
    settings: dict[str, Any] = {"loss": loss, "num_substeps": 2, "num_steps": 3}
    plain = run_rl(
        make_run(run_dir=tmp_path / "plain", **settings),
        reward=long_is_good,
        service=FakeService(),
    )
    composed = run_rl(
        make_run(regularizers=[{"kind": "l1", "weight": 0.0}], **settings),
        reward=long_is_good,
        service=FakeService(),
    )
    kept = [
        [{k: v for k, v in row.items() if not k.startswith("reg/")} for row in rows_of(result)]
        for result in (plain, composed)
    ]
    for ours, theirs in zip(*kept, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-9)
    assert "reg/base/value" in rows_of(composed)[0]


TERMS = [
    {"kind": "kl_estimate", "weight": 0.1, "state": {"kind": "dual_ascent", "target": 0.01}},
    {"kind": "sampled_entropy", "weight": 0.02, "schedule": {"kind": "linear", "over": 5}},
]


@pytest.mark.parametrize(
    "settings",
    [{}, {"regularizers": TERMS, "track_grad_norms": True, "loss": "ppo", "num_substeps": 2}],
    ids=["plain", "regularized"],
)
@pytest.mark.parametrize("die_at", ["sampling client at", "save_state 000004 at", "optim_step"])
def test_a_killed_run_resumes_to_the_metrics_of_an_undisturbed_one(
    make_run: MakeRun, tmp_path: Path, die_at: str, settings: dict[str, Any]
) -> None:
    whole = FakeService()
    undisturbed = run_rl(
        make_run(run_dir=tmp_path / "undisturbed", **settings), reward=long_is_good, service=whole
    )
    # The last such call of the fourth step or the fifth, whatever number it has.
    calls = [call for call in whole.calls if call.startswith(die_at)]
    service = FakeService(die_at=calls[-2] if len(calls) > 1 else calls[0])
    with pytest.raises(KilledError):
        run_rl(make_run(**settings), reward=long_is_good, service=service)
    again = FakeService(saved=service.saved)
    resumed = run_rl(make_run(if_exists="resume", **settings), reward=long_is_good, service=again)
    assert resumed.resumed_from_step in (2, 4)
    assert rows_of(resumed) == rows_of(undisturbed)


def test_seeds_differ_between_steps_groups_and_runs() -> None:
    seeds = {
        group_seed(seed, step, place) for seed in (0, 1) for step in range(9) for place in range(9)
    }
    assert len(seeds) == 2 * 9 * 9
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_a_datum_carries_the_advantage_on_sampled_tokens_alone() -> None:
    group = make_group([1.0, 0.0], [2, 3])
    datum = datum_of(group, group.rollouts[1], -0.25)
    inputs = {name: value.to_numpy().tolist() for name, value in datum.loss_fn_inputs.items()}
    assert datum.model_input.to_ints() == [1, 2, 3, 10, 11]
    assert inputs["target_tokens"] == [2, 3, 10, 11, 12]
    assert inputs["advantages"] == [0, 0, -0.25, -0.25, -0.25]
    assert inputs["logprobs"] == pytest.approx([0, 0, -0.1, -0.5, -0.9])
    assert inputs[MASK] == [0, 0, 1, 1, 1]


def test_only_groups_whose_rewards_differ_are_trained_on_and_never_none() -> None:
    mixed, equal, other = make_group([1, 0]), make_group([1, 1]), make_group([0, 2])
    assert trained_groups([equal, mixed, other], keep_constant=False) == [mixed, other]
    assert trained_groups([equal, equal], keep_constant=False) == [equal]
    assert trained_groups([equal, mixed], keep_constant=True) == [equal, mixed]
    metrics = rollout_metrics([equal, mixed])
    assert metrics[names.GROUP_MIXED_FRACTION] == 0.5
    assert metrics[names.REWARD_MEAN] == 0.75


@pytest.mark.parametrize(
    ("normalisation", "expected"),
    [
        # Advantages +0.5 and -0.5 of 1 and 3 tokens.
        ("token_mean", [0.5 / 4, -0.5 / 4]),
        ("example_mean", [0.5 / 2, -0.5 / 6]),
        ("sum", [0.5, -0.5]),
    ],
)
def test_advantages_carry_the_normalisation(
    make_run: MakeRun, normalisation: str, expected: list[float]
) -> None:
    config = make_run(loss_normalisation=normalisation)
    [update] = make_updates([make_group([1, 0], [1, 3])], config)
    found = [datum.loss_fn_inputs["advantages"].to_numpy()[-1] for datum in update]
    assert found == pytest.approx(expected, rel=1e-6)


def test_substeps_split_groups_and_there_are_no_more_than_groups(make_run: MakeRun) -> None:
    groups = [make_group([1, 0]) for _ in range(5)]
    sizes = [len(update) for update in make_updates(groups, make_run(num_substeps=3))]
    assert sum(sizes) == 10
    assert max(sizes) - min(sizes) <= 2
    assert len(make_updates(groups[:1], make_run(num_substeps=3))) == 1


def test_the_policy_loss_is_the_formula_and_counts_what_is_clipped(make_run: MakeRun) -> None:
    config = make_run(loss="ppo", clip_low=0.9, clip_high=1.1, loss_normalisation="sum")
    [update] = make_updates([make_group([1, 0], [2, 2])], config)
    logprobs = [
        torch.tensor([-0.3, -0.2, -0.0, -0.5]),  # ratio of the first sampled token: exp(0.1)
        torch.tensor([-0.3, -0.2, -0.1, -1.5]),  # of the last: exp(-0.6)
    ]
    loss, _ = PolicyLoss(config.loss, config.loss_config)(update, logprobs)
    expected = 0.0
    for datum, lp in zip(update, logprobs, strict=True):
        inputs = {name: value.to_numpy() for name, value in datum.loss_fn_inputs.items()}
        ratio = np.exp(lp.numpy() - inputs["logprobs"])
        clipped = np.clip(ratio, 0.9, 1.1)
        gains = np.minimum(ratio * inputs["advantages"], clipped * inputs["advantages"])
        expected -= gains[inputs[MASK] != 0].sum()
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "reward", "message"),
    [
        ({}, None, "reward: is missing"),
        ({"reward": "exact"}, long_is_good, "a function is given, too"),
        ({"reward": "exakt"}, None, "grader='exakt'"),
        ({"max_tokens": 100_000}, long_is_good, r"prompts.jsonl:1: .*max_tokens=100000"),
        ({"best_metric": "sample/score"}, long_is_good, "nothing is measured"),
        ({"regularizers": [{"kind": "kl", "weight": 1.0}]}, long_is_good, "several targets"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_made(
    make_run: MakeRun, changes: dict[str, Any], reward: Any, message: str
) -> None:
    service = FakeService()
    config = make_run(**changes)
    with pytest.raises((ConfigError, DataError, ValueError), match=message):
        run_rl(config, reward=reward, service=service)
    assert (service.calls, service.created) == ([], [])
    assert config.run_dir is not None
    assert not config.run_dir.exists()


def test_a_reward_that_is_no_finite_number_names_the_answer(make_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match=r"reward=nan: of the answer .*prompts.jsonl:\d"):
        run_rl(make_run(), reward=lambda text, answer: float("nan"), service=FakeService())


def test_clip_bounds_belong_to_ppo(make_run: MakeRun) -> None:
    with pytest.raises(ValueError, match="importance_sampling does not clip"):
        make_run(clip_high=1.3)


def test_the_transcript_shows_answers_with_their_rewards(make_run: MakeRun) -> None:
    result = run_rl(make_run(), reward=long_is_good, service=FakeService())
    page = (result.run_dir / "transcript.html").read_text()
    assert page.count("answers to the first prompt") == 4  # steps 1, 2, 4 and 6
    assert "reward " in page
    assert "expected" in page
