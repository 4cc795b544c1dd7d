"""Regularizers in the supervised loop: configuration, metrics, references, exact resume."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from tests.unit.training.conftest import MakeConfig
from tests.unit.training.fakes import (
    FakePolicy,
    FakeService,
    FakeTrainingClient,
    KilledError,
    State,
)
from tinsmith.core.errors import ConfigError
from tinsmith.regularizers import RegularizerConfig
from tinsmith.telemetry import read_metrics
from tinsmith.training import RunResult, SupervisedConfig, names, run_supervised
from tinsmith.training.terms import open_policies

TERMS: list[dict[str, Any]] = [
    {
        "kind": "l1",
        "weight": 0.02,
        "reduction": "mean",
        "schedule": {"kind": "linear", "over": 8, "stop": 0.5},
        "state": {"kind": "ema", "decay": 0.9},
    },
    {
        "kind": "kl_estimate",
        "weight": 0.1,
        "state": {"kind": "dual_ascent", "target": 0.05, "rate": 0.3},
    },
    {
        "kind": "sampled_entropy",
        "weight": 0.01,
        "schedule": {"kind": "cosine", "over": 3, "by": "epoch"},
    },
]


def rows_of(result: RunResult) -> list[dict[str, float]]:
    return [
        {k: v for k, v in row.items() if not k.startswith(names.MEASURED_PREFIXES)}
        for row in read_metrics(result.run_dir / "metrics.jsonl")
    ]


@pytest.mark.parametrize("die_at", ["optim_step 5", "save_state 000006 at 6", "optim_step 9"])
def test_a_killed_run_resumes_with_its_schedules_and_adaptive_weights(
    make_config: MakeConfig, tmp_path: Path, die_at: str
) -> None:
    settings = {"regularizers": TERMS, "track_grad_norms": True}
    undisturbed = run_supervised(
        make_config(run_dir=tmp_path / "undisturbed", **settings), service=FakeService()
    )
    service = FakeService(die_at=die_at)
    with pytest.raises(KilledError):
        run_supervised(make_config(**settings), service=service)
    again = FakeService(saved=service.saved)
    resumed = run_supervised(make_config(if_exists="resume", **settings), service=again)
    assert rows_of(resumed) == rows_of(undisturbed)
    weights = [row["reg/kl_estimate/weight"] for row in rows_of(resumed) if "reg/total/loss" in row]
    assert len(set(weights)) == 9  # the rule moved at every step


def test_every_step_records_its_terms_and_the_service_sees_their_gradient(
    make_config: MakeConfig,
) -> None:
    service = FakeService()
    config = make_config(
        regularizers=[{"kind": "l1", "weight": 0.5}], track_grad_norms=True, max_steps=2
    )
    result = run_supervised(config, service=service)
    plain_service = FakeService()
    plain = run_supervised(
        make_config(run_dir=config.run_dir and config.run_dir / "plain", max_steps=2),
        service=plain_service,
    )
    first, expected = (next(row for row in rows_of(r) if row["step"] == 1) for r in (result, plain))
    assert first[names.TRAIN_NLL] == expected[names.TRAIN_NLL]
    count = first[names.TRAIN_NUM_LOSS_TOKENS]
    assert first["reg/base/value"] == pytest.approx(first[names.TRAIN_NLL])
    # L1 of logprobs, over tokens that carry weight, is the summed NLL.
    assert first["reg/l1_sparsity/value"] == pytest.approx(count * first[names.TRAIN_NLL])
    assert first["reg/l1_sparsity/grad_norm"] == pytest.approx(np.sqrt(count))
    assert first["reg/total/loss"] == pytest.approx((1 + 0.5 * count) * first[names.TRAIN_NLL])
    # What the service was sent: the loss's own weights, and 0.5 more where a token counts.
    step_one = slice(2, 6)  # after the two held-out datums of the first evaluation
    for ours, theirs in zip(
        service.seen_weights[step_one], plain_service.seen_weights[step_one], strict=True
    ):
        np.testing.assert_allclose(ours, theirs + 0.5 * (theirs != 0), rtol=1e-6)


def test_without_terms_the_service_computes_the_loss_alone(make_config: MakeConfig) -> None:
    service = FakeService()
    result = run_supervised(make_config(), service=service)
    assert not [key for row in rows_of(result) for key in row if key.startswith("reg/")]
    assert "forward at 1" not in service.calls


def test_a_term_may_refer_to_the_base_model_or_to_saved_weights(make_config: MakeConfig) -> None:
    service = FakeService()
    other = {"kind": "kl_estimate", "weight": 0.1, "name": "o", "reference_policy": "tinker://w"}
    config = make_config(regularizers=[TERMS[1], other], max_steps=1)
    run_supervised(config, service=service)
    assert {"base_model": config.model} in service.created
    assert {"model_path": "tinker://w"} in service.created


async def test_a_term_of_distributions_refers_to_models_that_nobody_trains() -> None:
    """A sampling client tells of chosen tokens only; each model is opened once."""
    entries: list[dict[str, Any]] = [
        {"kind": "kl", "weight": 0.1, "distribution": 8},
        {"kind": "kl_estimate", "weight": 0.1},
        {"kind": "jensen_shannon", "weight": 0.1, "distribution": "full"},
        {"kind": "entropy", "weight": 0.1, "distribution": "full"},
    ]
    terms = [RegularizerConfig.model_validate(entry).build() for entry in entries]
    service = FakeService()
    service.saved["tinker://run/weights/w"] = State(w=0.0)
    bound = await open_policies(service, "tinsmith/tiny", terms)  # type: ignore[arg-type]
    assert service.created == [
        {"base_model": "tinsmith/tiny", "rank": 1, "seed": 0},
        {"base_model": "tinsmith/tiny"},
    ]
    assert bound[0].fn.reference == bound[2].fn.reference
    assert isinstance(bound[0].fn.reference.policy, FakeTrainingClient)
    assert isinstance(bound[1].fn.reference.policy, FakePolicy)
    assert bound[3] is terms[3]
    saved = RegularizerConfig.model_validate(
        entries[0] | {"reference_policy": "tinker://run/weights/w"}
    )
    await open_policies(service, "tinsmith/tiny", [saved.build()])  # type: ignore[arg-type]
    assert "load tinker://run/weights/w" in service.calls


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"regularizers": [{"kind": "entropy", "weight": 1.0}]},
            r"regularizers\['entropy'\]: 'entropy' needs several targets a position",
        ),
        ({"regularizers": [TERMS[0], TERMS[0]]}, "two are named 'l1_sparsity'"),
        ({"track_grad_norms": True}, "there are no regularizers"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_made(
    make_config: MakeConfig, changes: dict[str, Any], message: str
) -> None:
    service = FakeService()
    config = make_config(**changes)
    with pytest.raises(ConfigError, match=message):
        run_supervised(config, service=service)
    assert (service.calls, service.created) == ([], [])
    assert config.run_dir is not None
    assert not config.run_dir.exists()


def test_a_bad_entry_is_refused_by_the_configuration(make_config: MakeConfig) -> None:
    with pytest.raises(ValidationError, match="kind='l3': unknown"):
        make_config(regularizers=[{"kind": "l3", "weight": 1.0}])


def test_files_and_flags_name_the_same_terms(tmp_path: Path) -> None:
    from tinsmith.cli.config_flags import parse_config, read_toml_files

    file = tmp_path / "run.toml"
    file.write_text('[[regularizers]]\nkind = "l1"\nweight = 0.01\nreduction = "mean"\n')
    flags = ["data.jsonl", "--regularizers", '{kind = "l1", weight = 0.01, reduction = "mean"}']

    def parse(words: list[str], files: list[Path]) -> SupervisedConfig:
        return parse_config(
            SupervisedConfig,
            words,
            settings=read_toml_files(files, SupervisedConfig),
            positional="data",
            prog="tinsmith train sft",
            description="",
        )

    from_file, from_flags = parse(flags[:1], [file]), parse(flags, [])
    assert from_file == from_flags
    assert from_flags.regularizers[0].weight == 0.01
    for word, message in [
        ('{kind = "l1"}', "regularizers.0.weight: Field required"),
        ("l1", "not a TOML table"),
    ]:
        with pytest.raises(ConfigError, match=message) as refused:
            parse(["data.jsonl", "--regularizers", word], [])
        assert "--regularizers.0" not in str(refused.value)
