"""Optimizer families on the wire: told apart, checked, and carried when they are unknown."""

from typing import Any

import pytest

from tinsmith.core.errors import ConfigError
from tinsmith.types import (
    AdamOptimizerConfig,
    AdamParams,
    CreateModelRequest,
    DimuonOptimizerConfig,
    DimuonParams,
    OptimizerConfigBase,
    OptimParamsBase,
    OptimStepRequest,
    parse_request,
)

MODEL = {"session_id": "s", "model_seq_id": 0, "base_model": "b"}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"type": "adamw"}, AdamOptimizerConfig()),
        ({"type": "dimuon", "version": 1}, DimuonOptimizerConfig()),
        ({"type": "dimuon"}, DimuonOptimizerConfig()),
        ({"type": "lion", "speed": 9}, OptimizerConfigBase(type="lion", speed=9)),  # type: ignore[call-arg]
    ],
)
def test_the_family_of_a_model_goes_back_and_forth(
    config: dict[str, Any], expected: OptimizerConfigBase
) -> None:
    request = parse_request(CreateModelRequest, {**MODEL, "optimizer_config": config})
    assert request.optimizer_config == expected
    assert type(request.optimizer_config) is type(expected)
    sent = CreateModelRequest(**MODEL, optimizer_config=expected).model_dump(mode="json")  # type: ignore[arg-type]
    assert sent["optimizer_config"].items() >= config.items()


@pytest.mark.parametrize(
    ("params", "sent"),
    [
        (AdamParams(learning_rate=0.5), {"adam_params": {"learning_rate": 0.5, "beta2": 0.95}}),
        (
            DimuonParams(learning_rate=0.1),
            {
                "optimizer_params": {
                    "type": "dimuon",
                    "learning_rate": 0.1,
                    "grad_clip_norm": 0.0,
                    "beta1": 0.9,
                }
            },
        ),
        (
            OptimParamsBase(type="lion", speed=9),  # type: ignore[call-arg]
            {"optimizer_params": {"type": "lion", "speed": 9}},
        ),
    ],
)
def test_settings_of_a_step_are_named_by_their_family(
    params: AdamParams | OptimParamsBase, sent: dict[str, dict[str, Any]]
) -> None:
    request = OptimStepRequest(optim_params=params, model_id="m", seq_id=2)
    body = request.model_dump(mode="json", by_alias=True, exclude_none=True)
    ((name, values),) = sent.items()
    assert body[name].items() >= values.items()
    assert {**body, name: None} == {name: None, "model_id": "m", "seq_id": 2, "type": "optim_step"}
    assert parse_request(OptimStepRequest, body) == request


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "learning_rate: missing"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0: must be 0 or more"),
        ({"learning_rate": float("inf")}, "must be 0 or more, and finite"),
        ({"learning_rate": 1.0, "beta1": 1.0}, r"beta1=1.0: must be in \[0, 1\)"),
        ({"learning_rate": 1.0, "grad_clip_norm": float("nan")}, "grad_clip_norm=nan"),
        ({"learning_rate": 1.0, "beta2": 0.9}, "beta2: unknown field"),
    ],
)
def test_dimuon_settings_are_checked(settings: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        DimuonParams(**settings)  # type: ignore[arg-type]
    body = {"model_id": "m", "optimizer_params": {"type": "dimuon", **settings}}
    with pytest.raises(ConfigError, match=said):
        parse_request(OptimStepRequest, body)
