"""The preference loop on the service in NumPy: its loss, its reference, exact resume."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.training.fakes import FakeService, KilledError, State, logprobs_of
from tinsmith.core.errors import ConfigError, DataError
from tinsmith.data import read_comparisons
from tinsmith.telemetry import read_metrics
from tinsmith.training import PreferenceConfig, RunResult, names, run_preference
from tinsmith.training.checkpoints import read_records
from tinsmith.training.preference import prepare

MakeRun = Callable[..., PreferenceConfig]


@pytest.fixture
def make_run(tmp_path: Path, tiny_dir: object) -> MakeRun:
    """Configuration of a run of 6 steps over 8 comparisons, 2 held out."""
    data = tmp_path / "pairs.jsonl"
    rows = [
        {
            "prompt": f"Question {i}?",
            "chosen": "yes " * (1 + i % 3) + str(i),
            "rejected": "no " * (1 + i % 4) + str(i),
        }
        for i in range(10)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(**changes: Any) -> PreferenceConfig:
        settings: dict[str, Any] = {
            "data": data,
            "run_dir": tmp_path / "run",
            "test_size": 2,
            "batch_size": 3,
            "num_epochs": 2,
            "learning_rate": 0.5,
            "beta": 0.5,
            "eval_every": 2,
            "save_every": 2,
            "seed": 1,
        }
        return PreferenceConfig(**(settings | changes))

    return make


def rows_of(result: RunResult) -> list[dict[str, float]]:
    return [
        {k: v for k, v in row.items() if not k.startswith(names.MEASURED_PREFIXES)}
        for row in read_metrics(result.run_dir / "metrics.jsonl")
    ]


def test_the_first_step_knows_no_better_and_later_ones_do(make_run: MakeRun) -> None:
    service = FakeService()
    rows = rows_of(run_preference(make_run(), service=service))
    first = next(row for row in rows if row["step"] == 1)
    assert first[names.TRAIN_LOSS] == pytest.approx(np.log(2), abs=1e-6)
    assert first[names.TRAIN_MARGIN] == pytest.approx(0, abs=1e-6)
    assert first[names.TRAIN_NUM_PAIRS] == 3
    assert first[names.TRAIN_NUM_SEQUENCES] == 6
    evaluated = [row for row in rows if names.EVAL_LOSS in row]
    assert [row["step"] for row in evaluated] == [0, 2, 4, 6]
    assert evaluated[0][names.EVAL_NUM_PAIRS] == 2
    assert abs(evaluated[-1][names.EVAL_MARGIN]) > 0.01  # the weights have left the reference


@pytest.mark.parametrize(
    "changes",
    [{}, {"length_normalised": True, "beta": 3.0}, {"label_smoothing": 0.2}],
    ids=["plain", "length_normalised", "label_smoothing"],
)
def test_a_steps_metrics_and_weights_are_those_of_the_formula(
    make_run: MakeRun, changes: dict[str, Any]
) -> None:
    """A second implementation, in NumPy, over the fake's model of one number."""
    config = make_run(max_steps=2, eval_every=0, test_size=0, **changes)
    service = FakeService()
    rows = [row for row in rows_of(run_preference(config, service=service)) if row["step"] > 0]
    steps = [row for row in rows if names.TRAIN_LOSS in row]
    w_before = steps[0]["optim/weight"]  # after step 1, so before step 2
    start = float(config.seed)
    job = prepare(config)
    comparisons = read_comparisons(config.data)
    margins, losses = [], []
    for index in job.plan.indices(1):
        ratios = []
        for answer in ("chosen", "rejected"):
            row = comparisons[index]
            messages = [*row.prompt, *getattr(row, answer)]
            example = job.renderer.build_supervised_example(messages, "last_assistant_message")
            tokens = np.array(example.model_input.to_ints())[example.weights != 0]
            ratio = logprobs_of(tokens, w_before) - logprobs_of(tokens, start)
            ratios.append(ratio.mean() if config.length_normalised else ratio.sum())
        margin = config.beta * (ratios[0] - ratios[1])
        margins.append(margin)
        smoothing = config.label_smoothing
        losses.append(
            (1 - smoothing) * np.logaddexp(0, -margin) + smoothing * np.logaddexp(0, margin)
        )
    # The fake answers in float32.
    assert steps[1][names.TRAIN_MARGIN] == pytest.approx(np.mean(margins), rel=1e-4, abs=1e-5)
    assert steps[1][names.TRAIN_LOSS] == pytest.approx(np.mean(losses), rel=1e-5)
    assert steps[1][names.TRAIN_PAIR_ACCURACY] == np.mean(np.array(margins) > 0)


TERMS = [
    {"kind": "kl_estimate", "weight": 0.1, "state": {"kind": "dual_ascent", "target": 0.01}},
    {"kind": "l1", "weight": 0.02, "schedule": {"kind": "linear", "over": 5, "stop": 0.5}},
]


@pytest.mark.parametrize("terms", [[], TERMS], ids=["plain", "regularized"])
@pytest.mark.parametrize("die_at", ["optim_step 3", "save_state 000004 at 4", "optim_step 6"])
def test_a_killed_run_resumes_to_the_metrics_of_an_undisturbed_one(
    make_run: MakeRun, tmp_path: Path, die_at: str, terms: list[Any]
) -> None:
    settings: dict[str, Any] = {"regularizers": terms, "track_grad_norms": bool(terms)}
    undisturbed = run_preference(
        make_run(run_dir=tmp_path / "undisturbed", **settings), service=FakeService()
    )
    service = FakeService(die_at=die_at)
    with pytest.raises(KilledError):
        run_preference(make_run(**settings), service=service)
    again = FakeService(saved=service.saved, policies=service.policies)
    resumed = run_preference(make_run(if_exists="resume", **settings), service=again)
    assert resumed.resumed_from_step == 2 * ((int(die_at.split()[1][-2:]) - 1) // 2)
    assert rows_of(resumed) == rows_of(undisturbed)
    # The reference is where the run began, not where it went on.
    paths = {
        r.state["reference"]["sampler_path"]
        for r in read_records(tmp_path / "run/checkpoints.jsonl")
    }
    assert paths == {"tinker://run/sampler_weights/reference"}


def test_a_kl_term_takes_the_reference_of_the_run_and_asks_no_other_model(
    make_run: MakeRun,
) -> None:
    service = FakeService()
    config = make_run(regularizers=TERMS[:1], test_size=0)
    rows = rows_of(run_preference(config, service=service))
    steps = [row for row in rows if "reg/kl_estimate/value" in row]
    assert steps[0]["reg/kl_estimate/value"] == pytest.approx(0, abs=1e-9)
    assert steps[-1]["reg/kl_estimate/value"] > 1e-6
    assert steps[0]["reg/base/value"] == pytest.approx(np.log(2), abs=1e-6)
    assert [made for made in service.created if "base_model" in made and "rank" not in made] == []


def test_a_run_that_starts_from_another_has_its_weights_as_reference(make_run: MakeRun) -> None:
    service = FakeService(saved={"tinker://other/weights/final": State(w=3.5, momentum=9.0)})
    config = make_run(start_from="tinker://other/weights/final", max_steps=1)
    rows = rows_of(run_preference(config, service=service))
    assert service.policies["tinker://run/sampler_weights/reference"] == 3.5
    assert rows[0][names.EVAL_LOSS] == pytest.approx(np.log(2), abs=1e-6)
    assert [made for made in service.created if "rank" in made] == []


def test_weights_of_another_base_model_are_no_start(make_run: MakeRun) -> None:
    path = "tinker://other/weights/final"
    service = FakeService(saved={path: State(w=3.5)}, model_name="lab/other")
    config = make_run(start_from=path)
    with pytest.raises(ConfigError, match="an adapter of 'lab/other', and model='tinsmith/tiny'"):
        run_preference(config, service=service)
    assert config.run_dir is not None
    assert not config.run_dir.exists()


def test_results_do_not_depend_on_how_far_ahead_steps_are_sent(
    make_run: MakeRun, tmp_path: Path
) -> None:
    results = [
        run_preference(
            make_run(run_dir=tmp_path / f"ahead{n}", submit_ahead=n), service=FakeService()
        )
        for n in (0, 2)
    ]
    assert rows_of(results[0]) == rows_of(results[1])


def test_the_transcript_shows_both_answers(make_run: MakeRun) -> None:
    result = run_preference(make_run(), service=FakeService())
    page = (result.run_dir / "transcript.html").read_text()
    assert "pairs.jsonl:1, chosen" in page or ", chosen" in page
    assert ", rejected" in page
    assert "<mark>" in page
    assert (
        json.loads((result.run_dir / "config.json").read_text())["data"]["train"]["num_used"] == 8
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_length": 4}, r"pairs.jsonl:\d+: the conversation has \d+ tokens"),
        ({"max_length": 4, "on_too_long": "skip"}, "none of 8 comparisons can be trained on"),
        ({"test_size": 10}, "has 10 comparisons, so none would be left"),
        ({"best_metric": "eval/margin", "test_size": 0}, "nothing is measured"),
        ({"track_grad_norms": True}, "there are no regularizers"),
        ({"regularizers": [{"kind": "kl", "weight": 1.0}]}, "needs several targets a position"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_made(
    make_run: MakeRun, changes: dict[str, Any], message: str
) -> None:
    service = FakeService()
    config = make_run(**changes)
    with pytest.raises((ConfigError, DataError), match=message):
        run_preference(config, service=service)
    assert (service.calls, service.created) == ([], [])
    assert config.run_dir is not None
    assert not config.run_dir.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"beta": 0},
        {"label_smoothing": 0.5},
        {"gamma": 1},
        {"start_from": "tinker://run/weights/final", "lora_rank": 8},
    ],
)
def test_settings_outside_their_range_are_refused(
    make_run: MakeRun, changes: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=list(changes)[-1]):
        make_run(**changes)
