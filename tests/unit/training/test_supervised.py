"""The supervised loop against a service of one number: order of calls, metrics, resume."""

import json
import logging
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.training.conftest import MakeConfig
from tests.unit.training.fakes import FakeService, KilledError
from tinsmith.core.errors import ConfigError, DataError, MissingExtraError
from tinsmith.telemetry import read_metrics
from tinsmith.training import RunResult, TrainingDivergedError, names, run_supervised
from tinsmith.training.checkpoints import read_records


def work(calls: list[str]) -> list[str]:
    """What was asked of the service, without the reading of results."""
    return [call for call in calls if not call.startswith("read ")]


def comparable(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    return [
        {k: v for k, v in row.items() if not k.startswith(names.MEASURED_PREFIXES)} for row in rows
    ]


def test_the_next_step_is_sent_before_the_last_one_is_read(
    make_config: MakeConfig, service: FakeService
) -> None:
    run_supervised(make_config(test_size=0, save_every=0), service=service)
    sent = {call: place for place, call in enumerate(service.calls)}
    for step in range(1, 8):
        assert sent[f"optim_step {step + 1}"] < sent[f"read optim_step {step}"]
        assert sent[f"read optim_step {step}"] < sent[f"optim_step {step + 2}"]


def test_submit_ahead_zero_waits_for_every_step(
    make_config: MakeConfig, service: FakeService
) -> None:
    run_supervised(make_config(test_size=0, save_every=0, submit_ahead=0), service=service)
    sent = {call: place for place, call in enumerate(service.calls)}
    for step in range(1, 8):
        assert sent[f"read optim_step {step}"] < sent[f"optim_step {step + 1}"]


@pytest.mark.parametrize("submit_ahead", [0, 1, 3])
def test_evaluations_and_checkpoints_see_the_state_that_their_label_says(
    make_config: MakeConfig, service: FakeService, submit_ahead: int
) -> None:
    result = run_supervised(make_config(submit_ahead=submit_ahead), service=service)
    evaluated = [int(c.split()[-1]) for c in work(service.calls) if c.startswith("forward at")]
    assert evaluated == [0, 3, 6, 9]
    assert [c for c in service.calls if c.startswith("save_")] == [
        "save_state 000002 at 2",
        "save_state 000004 at 4",
        "save_state 000006 at 6",
        "save_state 000008 at 8",
        "save_state final at 9",
        "save_weights_for_sampler final at 9",
    ]
    assert all(
        service.saved[str(record.state_path)].num_steps == record.step
        for record in read_records(result.run_dir / "checkpoints.jsonl")
    )


def test_checkpoint_records_say_where_the_data_goes_on(
    make_config: MakeConfig, service: FakeService
) -> None:
    result = run_supervised(make_config(), service=service)
    records = read_records(result.run_dir / "checkpoints.jsonl")
    assert [(r.name, r.step, r.epoch, r.batch) for r in records] == [
        ("000002", 2, 0, 2),
        ("000004", 4, 1, 1),
        ("000006", 6, 2, 0),
        ("000008", 8, 2, 2),
        ("final", 9, 3, 0),
    ]
    assert [r.sampler_path for r in records[:-1]] == [None] * 4
    assert records[-1].sampler_path == result.sampler_path == "tinker://run/sampler_weights/final"


@pytest.mark.parametrize("submit_ahead", [0, 2, 5])
def test_results_do_not_depend_on_how_far_ahead_steps_are_sent(
    make_config: MakeConfig, tmp_path: Path, submit_ahead: int
) -> None:
    def rows(ahead: int) -> list[dict[str, float]]:
        config = make_config(run_dir=tmp_path / f"ahead{ahead}", submit_ahead=ahead)
        result = run_supervised(config, service=FakeService())
        return comparable(read_metrics(result.run_dir / "metrics.jsonl"))

    assert rows(submit_ahead) == rows(1)


def test_evaluation_leaves_training_untouched(make_config: MakeConfig, tmp_path: Path) -> None:
    def train_rows(eval_every: int) -> list[dict[str, float]]:
        config = make_config(run_dir=tmp_path / f"every{eval_every}", eval_every=eval_every)
        result = run_supervised(config, service=FakeService())
        rows = comparable(read_metrics(result.run_dir / "metrics.jsonl"))
        return [row for row in rows if names.TRAIN_NLL in row]

    assert train_rows(1) == train_rows(0)


KILLS = [
    "forward_backward at 0",
    "optim_step 2",
    "save_state 000002 at 2",
    "forward_backward at 2",
    "optim_step 5",
    "forward at 6",
    "save_state 000006 at 6",
    "optim_step 9",
    "forward at 9",
    "save_weights_for_sampler final at 9",
]


@pytest.mark.parametrize("die_at", KILLS)
def test_a_killed_run_resumes_to_the_same_metrics_as_an_undisturbed_one(
    make_config: MakeConfig, tmp_path: Path, die_at: str
) -> None:
    undisturbed = run_supervised(
        make_config(run_dir=tmp_path / "undisturbed"), service=FakeService()
    )
    service = FakeService(die_at=die_at)
    with pytest.raises(KilledError):
        run_supervised(make_config(), service=service)
    again = FakeService(saved=service.saved)
    resumed = run_supervised(make_config(if_exists="resume"), service=again)
    assert all_rows(resumed) == all_rows(undisturbed)
    assert resumed.eval_nll_after == undisturbed.eval_nll_after
    records = read_records(resumed.run_dir / "checkpoints.jsonl")
    assert [r.step for r in records] == [2, 4, 6, 8, 9]


def all_rows(result: RunResult) -> list[dict[str, float]]:
    return comparable(read_metrics(result.run_dir / "metrics.jsonl"))


def test_resuming_starts_from_the_newest_checkpoint_and_repeats_nothing_before_it(
    make_config: MakeConfig,
) -> None:
    service = FakeService(die_at="optim_step 6")
    with pytest.raises(KilledError):
        run_supervised(make_config(), service=service)
    again = FakeService(saved=service.saved)
    result = run_supervised(make_config(if_exists="resume"), service=again)
    assert work(again.calls)[:2] == ["load tinker://run/weights/000004", "forward_backward at 4"]
    assert result.resumed_from_step == 4


def test_a_half_written_metrics_line_does_not_survive_a_resume(make_config: MakeConfig) -> None:
    service = FakeService(die_at="optim_step 4")
    with pytest.raises(KilledError):
        run_supervised(make_config(), service=service)
    run_dir = make_config().run_dir
    assert run_dir is not None
    for name in ("metrics.jsonl", "checkpoints.jsonl"):
        with (run_dir / name).open("a") as file:
            file.write('{"step": 4, "na')
    run_supervised(make_config(if_exists="resume"), service=FakeService(saved=service.saved))
    for name in ("metrics.jsonl", "checkpoints.jsonl"):
        for line in (run_dir / name).read_text().splitlines():
            json.loads(line)


def test_resuming_a_complete_run_trains_nothing(make_config: MakeConfig) -> None:
    first = run_supervised(make_config(), service=FakeService())
    service = FakeService()
    second = run_supervised(make_config(if_exists="resume"), service=service)
    assert service.calls == []
    assert second.metrics == first.metrics
    assert second.sampler_path == first.sampler_path


def test_resuming_with_other_settings_is_refused(make_config: MakeConfig) -> None:
    run_supervised(make_config(), service=FakeService())
    with pytest.raises(ConfigError, match=r"learning_rate=0\.2: the run to resume has 0\.1"):
        run_supervised(make_config(if_exists="resume", learning_rate=0.2), service=FakeService())


def test_a_run_is_not_overwritten_unless_asked(make_config: MakeConfig) -> None:
    run_supervised(make_config(), service=FakeService())
    with pytest.raises(ConfigError, match="holds a run; set if_exists to resume or delete"):
        run_supervised(make_config(), service=FakeService())
    service = FakeService()
    result = run_supervised(make_config(if_exists="delete"), service=service)
    assert [row["step"] for row in read_metrics(result.run_dir / "metrics.jsonl")][0] == 0
    assert len(read_records(result.run_dir / "checkpoints.jsonl")) == 5


def test_deleting_a_run_leaves_other_files_alone(make_config: MakeConfig) -> None:
    result = run_supervised(make_config(), service=FakeService())
    notes = result.run_dir / "notes.txt"
    notes.write_text("mine")
    run_supervised(make_config(if_exists="delete"), service=FakeService())
    assert notes.read_text() == "mine"


def test_a_step_reports_what_it_should(make_config: MakeConfig, service: FakeService) -> None:
    result = run_supervised(make_config(), service=service)
    rows = read_metrics(result.run_dir / "metrics.jsonl")
    train = [row for row in rows if names.TRAIN_NLL in row]
    assert [row["step"] for row in train] == list(range(1, 10))
    assert set(train[0]) == {
        "step",
        "train/nll",
        "train/num_sequences",
        "train/num_tokens",
        "train/num_loss_tokens",
        "optim/grad_norm",
        "optim/weight",
        "optim/learning_rate",
        "progress/epoch",
        "progress/fraction",
        "progress/num_tokens",
        "time/step_s",
        "throughput/tokens_per_s",
    }
    assert [row[names.PROGRESS_EPOCH] for row in train] == pytest.approx(
        [step / 3 for step in range(1, 10)]
    )
    assert train[-1][names.PROGRESS_FRACTION] == 1.0
    assert [row[names.TRAIN_NUM_SEQUENCES] for row in train] == [4, 4, 2] * 3
    evaluations = [row for row in rows if names.EVAL_NLL in row]
    assert [row["step"] for row in evaluations] == [0, 3, 6, 9]
    assert result.eval_nll_before == evaluations[0][names.EVAL_NLL]
    assert result.eval_nll_after == evaluations[-1][names.EVAL_NLL]
    assert result.eval_nll_after < result.eval_nll_before


def test_the_reported_loss_is_the_mean_over_trained_tokens(
    make_config: MakeConfig, service: FakeService
) -> None:
    result = run_supervised(make_config(max_steps=1, test_size=0), service=service)
    [row] = read_metrics(result.run_dir / "metrics.jsonl")
    weights = service.seen_weights[:4]
    num_trained = sum(int((w != 0).sum()) for w in weights)
    assert row[names.TRAIN_NUM_LOSS_TOKENS] == num_trained
    assert (
        0 < row[names.TRAIN_NLL] < math.log1p(math.exp(-1))
    )  # one token's loss at w = 1, not a sum


@pytest.mark.parametrize("normalisation", ["token_mean", "example_mean", "sum"])
def test_weights_are_normalised_as_the_configuration_says(
    make_config: MakeConfig, service: FakeService, normalisation: str
) -> None:
    config = make_config(max_steps=1, test_size=0, loss_normalisation=normalisation)
    run_supervised(config, service=service)
    weights = service.seen_weights[:4]
    counts = [int((w != 0).sum()) for w in weights]
    assert len(set(counts)) > 1
    total = {"token_mean": 1.0, "example_mean": 1.0, "sum": float(sum(counts))}[normalisation]
    assert sum(float(w.sum()) for w in weights) == pytest.approx(total, rel=1e-6)
    shares = [float(w.sum()) for w in weights]
    if normalisation == "example_mean":
        assert shares == pytest.approx([0.25] * 4)
    else:
        assert shares == pytest.approx([total * count / sum(counts) for count in counts])
    assert all(w.dtype == np.float32 for w in weights)


def test_the_learning_rate_follows_schedule_and_warm_up(
    make_config: MakeConfig, service: FakeService
) -> None:
    run_supervised(make_config(warmup_steps=1, max_steps=5, lr_schedule="linear"), service=service)
    assert service.learning_rates == pytest.approx([0.05, 0.1, 0.075, 0.05, 0.025])


def test_lora_and_adam_settings_reach_the_service(
    make_config: MakeConfig, service: FakeService
) -> None:
    config = make_config(lora_rank=3, lora_seed=9, train_unembed=False, weight_decay=0.2)
    run_supervised(config, service=service)
    assert service.created == [
        {
            "base_model": "tinsmith/tiny",
            "rank": 3,
            "seed": 9,
            "train_attn": True,
            "train_mlp": True,
            "train_unembed": False,
        }
    ]
    params = config.adam_params(0.5)
    assert (params.learning_rate, params.weight_decay, params.beta2) == (0.05, 0.2, 0.95)


def test_a_loss_that_is_not_finite_stops_the_run_and_is_on_record(
    make_config: MakeConfig,
) -> None:
    service = FakeService(offset=math.nan)
    with pytest.raises(TrainingDivergedError, match="train/nll=nan at step 1"):
        run_supervised(make_config(test_size=0), service=service)
    run_dir = make_config().run_dir
    assert run_dir is not None
    assert math.isnan(read_metrics(run_dir / "metrics.jsonl")[0][names.TRAIN_NLL])
    assert read_records(run_dir / "checkpoints.jsonl") == []


def test_bad_data_leaves_no_run_behind(make_config: MakeConfig, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"messages": []}\n')
    with pytest.raises(DataError, match=r"bad\.jsonl:1: messages is empty"):
        run_supervised(make_config(data=bad, test_size=0), service=FakeService())
    run_dir = make_config().run_dir
    assert run_dir is not None
    assert not run_dir.exists()


def test_a_warm_up_longer_than_the_run_is_refused(make_config: MakeConfig) -> None:
    with pytest.raises(
        ConfigError, match=r"warmup_steps=9: must be 0 or more and below .* 9 steps"
    ):
        run_supervised(make_config(warmup_steps=9), service=FakeService())


def test_config_json_says_what_ran(make_config: MakeConfig, service: FakeService) -> None:
    result = run_supervised(make_config(), service=service)
    document = json.loads((result.run_dir / "config.json").read_text())
    assert document["config"]["learning_rate"] == 0.1
    assert document["config"]["seed"] == 1
    assert document["data"]["renderer"] == "chatml"
    assert document["data"]["train"]["num_used"] == 10
    assert document["data"]["test"][""]["num_used"] == 2
    assert document["command_line"]
    assert document["versions"]["python"]
    assert "git" in document
    assert "diff" not in document


def test_a_recorder_of_ones_own_sees_every_row(
    make_config: MakeConfig, service: FakeService
) -> None:
    class Keeps:
        def __init__(self) -> None:
            self.rows: list[dict[str, Any]] = []

        def log(self, step: int, metrics: Any) -> None:
            self.rows.append({"step": step, **metrics})

        def close(self) -> None: ...

    recorder = Keeps()
    result = run_supervised(make_config(), service=service, recorder=recorder)
    assert recorder.rows == read_metrics(result.run_dir / "metrics.jsonl")


def test_evaluators_of_ones_own_run_with_the_held_out_loss(
    make_config: MakeConfig, service: FakeService
) -> None:
    async def weight(client: Any) -> dict[str, float]:
        return {"eval/weight": client.state.w}

    result = run_supervised(make_config(test_size=0), service=service, evaluators=[weight])
    rows = read_metrics(result.run_dir / "metrics.jsonl")
    assert [row["step"] for row in rows if "eval/weight" in row] == [0, 3, 6, 9]


async def test_the_synchronous_face_works_inside_a_running_loop(
    make_config: MakeConfig, service: FakeService
) -> None:
    assert run_supervised(make_config(), service=service).num_steps == 9


def test_nothing_is_written_to_a_stderr_that_is_no_terminal(
    make_config: MakeConfig, service: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    with logging_disabled():
        run_supervised(make_config(), service=service)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


class logging_disabled:
    def __enter__(self) -> None:
        logging.disable()

    def __exit__(self, *_: object) -> None:
        logging.disable(logging.NOTSET)


def test_the_summary_is_json(make_config: MakeConfig, service: FakeService) -> None:
    result = run_supervised(make_config(), service=service)
    summary = json.loads(json.dumps(result.summary()))
    assert summary["run_dir"] == str(result.run_dir)
    assert summary["adapter_dir"] is None
    assert summary["eval_nll_after"] == result.eval_nll_after


def test_a_max_length_that_the_model_cannot_read_is_refused_before_anything_is_made(
    make_config: MakeConfig,
) -> None:
    config = make_config(max_length=4096)
    with pytest.raises(ConfigError, match=r"max_length=4096: tinsmith/tiny reads at most 2048"):
        run_supervised(config)
    assert not Path(config.run_dir or "").exists()


def test_steps_may_be_asked_for_instead_of_epochs(
    make_config: MakeConfig, service: FakeService
) -> None:
    result = run_supervised(make_config(num_steps=7, num_epochs=1), service=service)
    assert result.num_steps == 7
    assert result.metrics["progress/epoch"] == 2 + 1 / 3


def test_a_batch_may_be_counted_in_tokens(make_config: MakeConfig, service: FakeService) -> None:
    result = run_supervised(make_config(batch_tokens=60, num_epochs=2), service=service)
    rows = [r for r in read_metrics(result.run_dir / "metrics.jsonl") if names.TRAIN_NLL in r]
    assert all(row["train/num_tokens"] <= 60 for row in rows)
    assert sum(row["train/num_sequences"] for row in rows) == 20
    assert result.metrics["progress/epoch"] == 2


def test_infrequent_evaluators_run_first_last_and_at_their_own_pace(
    make_config: MakeConfig, service: FakeService
) -> None:
    async def weight(client: Any) -> dict[str, float]:
        return {"eval/weight": client.state.w}

    config = make_config(infrequent_eval_every=4)
    result = run_supervised(config, service=service, infrequent_evaluators=[weight])
    rows = read_metrics(result.run_dir / "metrics.jsonl")
    assert [row["step"] for row in rows if "eval/weight" in row] == [0, 4, 8, 9]
    assert [row["step"] for row in rows if "eval/nll" in row] == [0, 3, 6, 9]


def test_further_sets_have_metrics_of_their_own_and_the_total_is_over_all(
    make_config: MakeConfig, service: FakeService, tmp_path: Path
) -> None:
    for name, word in (("first", "alpha"), ("second", "beta")):
        row = {
            "messages": [
                {"role": "user", "content": "Say it."},
                {"role": "assistant", "content": word},
            ]
        }
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    sets = tuple(str(tmp_path / f"{name}.jsonl") for name in ("first", "second"))
    result = run_supervised(make_config(test_size=0, test_data=sets), service=service)
    found = result.metrics
    counts = [found[f"eval/{name}/num_loss_tokens"] for name in ("first", "second")]
    losses = [found[f"eval/{name}/nll"] for name in ("first", "second")]
    assert found["eval/num_loss_tokens"] == sum(counts)
    mean = sum(n * nll for n, nll in zip(counts, losses, strict=True)) / sum(counts)
    assert found["eval/nll"] == pytest.approx(mean)


def test_warm_up_may_be_a_part_of_the_run_and_decay_may_end_above_zero(
    make_config: MakeConfig, service: FakeService
) -> None:
    config = make_config(warmup_fraction=0.25, final_lr_fraction=0.5, learning_rate=1.0)
    run_supervised(config, service=service)
    assert service.learning_rates[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert service.learning_rates[-1] == pytest.approx(0.5 + 0.5 / 7)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"warmup_fraction": 0.1, "warmup_steps": 1}, "warmup_fraction: warmup_steps is set, too"),
        ({"test_size": 0, "eval_accuracy": True}, "eval_accuracy=True: there is no held-out data"),
        ({"test_size": 0, "best_metric": "eval/nll"}, "best_metric='eval/nll': there is no held"),
        ({"test_size": 0, "best_metric": "mine"}, "best_metric='mine': nothing is measured"),
        ({"evaluators": ("mine",)}, "evaluator='mine': unknown"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_before_anything_is_made(
    make_config: MakeConfig, changes: dict[str, Any], what: str
) -> None:
    config = make_config(**changes)
    with pytest.raises(ValueError, match=what):
        run_supervised(config, service=FakeService())
    assert not Path(config.run_dir or "").exists()


def test_the_transcript_shows_what_is_trained_and_what_was_measured(
    make_config: MakeConfig, service: FakeService
) -> None:
    result = run_supervised(make_config(), service=service)
    page = (result.run_dir / "transcript.html").read_text()
    assert "<mark>word" in page
    assert "Step 9" in page
    assert "eval/nll" in page
    again = run_supervised(make_config(if_exists="delete", transcript=False), service=FakeService())
    assert not (again.run_dir / "transcript.html").exists()


def test_the_trace_holds_every_step_evaluation_and_save(
    make_config: MakeConfig, service: FakeService
) -> None:
    result = run_supervised(make_config(trace=True), service=service)
    text = (result.run_dir / "trace.json").read_text()
    events = json.loads(text.rstrip().rstrip(",") + "]")
    count = {name: sum(e["name"] == name for e in events) for name in ("step", "evaluate", "save")}
    assert count == {"step": 9, "evaluate": 4, "save": 4}
    # Steps that overlap are in different lanes.
    by_lane: dict[int, list[Any]] = {}
    for event in events:
        if event["name"] == "step":
            by_lane.setdefault(event["tid"], []).append(event)
    assert len(by_lane) == 2


def test_the_console_may_show_a_line_a_step(
    make_config: MakeConfig, service: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    run_supervised(make_config(console=True), service=service)
    lines = [line.split() for line in capsys.readouterr().err.splitlines()]
    assert [line[0] for line in lines if line[1] != "-"][:3] == ["step", "1", "2"]


def test_a_best_metric_that_nothing_gives_is_refused_before_the_first_step(
    make_config: MakeConfig, service: FakeService
) -> None:
    with pytest.raises(ValueError, match=r"best_metric='eval/nnl': unknown; .* 'eval/nll'"):
        run_supervised(make_config(best_metric="eval/nnl"), service=service)
    assert not service.learning_rates


def test_wandb_without_the_package_leaves_no_run_behind(
    make_config: MakeConfig, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = make_config(wandb=True)
    with pytest.raises(MissingExtraError, match="wandb"):
        run_supervised(config, service=service)
    assert not Path(config.run_dir or "").exists()
