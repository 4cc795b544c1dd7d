"""Terms by name: settings, texts of flags, packages that add kinds, models as reference."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests.unit.regularizers.support import datum
from tinsmith.core.errors import ConfigError, DataError, TinsmithError, UnknownNameError
from tinsmith.regularizers import (
    L1,
    DualAscent,
    KLEstimate,
    LinearWeight,
    PolicyReference,
    Regularizer,
    RegularizerConfig,
    bind_policies,
    list_regularizers,
    register_regularizer,
    registry,
    unregister_regularizer,
)
from tinsmith.regularizers.policies import unbound_policies
from tinsmith.types import Datum, ForwardBackwardOutput, ModelInput, TensorData


def make(**settings: Any) -> RegularizerConfig:
    return RegularizerConfig.model_validate(settings)


def test_a_configuration_becomes_a_regularizer() -> None:
    config = make(
        kind="l1",
        weight=0.1,
        name="sparse",
        reduction="mean",
        schedule={"kind": "linear", "over": 10},
        state={"kind": "dual_ascent", "target": 0.5},
        on_error="skip",
        timeout_s=5,
    )
    assert config.build() == Regularizer(
        L1(reduction="mean"),
        0.1,
        "sparse",
        schedule=LinearWeight(10),
        state=DualAscent(0.5),
        on_error="skip",
        timeout_s=5,
    )


@pytest.mark.parametrize("kind", list_regularizers())
def test_every_kind_can_be_built_from_its_name_alone(kind: str) -> None:
    term = make(kind=kind, weight=0.1).build()
    assert term.weight == 0.1
    assert make(kind=kind, weight=0.1, enabled=False).build().enabled is False


def test_defaults_of_a_loop_reach_the_kinds_that_have_them() -> None:
    assert make(kind="l1", weight=1).build(mask="weights").fn == L1(mask="weights")
    assert make(kind="l1", weight=1, mask="own").build(mask="weights").fn == L1(mask="own")
    make(kind="orthogonality", weight=1).build(mask="weights")  # which has no mask


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "l1", "weight": 0.25},
        {"kind": "l2", "weight": 1e-5, "clip": 2.0, "enabled": False},
        {
            "kind": "kl_estimate",
            "weight": 0.05,
            "estimator": "k2",
            "schedule": {"kind": "piecewise", "points": [[0, 1.0], [10, 0.5]]},
            "state": {"kind": "ema", "decay": 0.9},
        },
    ],
)
def test_the_text_of_a_configuration_reads_back(settings: dict[str, Any]) -> None:
    config = make(**settings)
    assert RegularizerConfig.model_validate(str(config)) == config


def test_packages_and_programs_add_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Point:
        name: str

        def load(self) -> Any:
            return L1

    class Points(list[Point]):
        names = {"theirs"}

    def entry_points(group: str, name: str | None = None) -> Points:
        assert group == "tinsmith.regularizers"
        return Points([Point("theirs")] if name in (None, "theirs") else [])

    monkeypatch.setattr(registry, "entry_points", entry_points)
    assert make(kind="theirs", weight=1.0, reduction="mean").build().fn == L1(reduction="mean")

    def factory(scale: float = 1.0) -> Any:
        return lambda data, logprobs: (scale * logprobs[0].sum(), {})

    register_regularizer("mine", factory)
    register_regularizer("l1", lambda **settings: settings["fn"])
    try:
        assert {"mine", "theirs", "l1"} <= set(list_regularizers())
        term = make(kind="mine", weight=1.0, scale=2.0).build()
        assert term.name == "mine"
        assert float(term.call([], [torch.ones(2)])[0]) == 4.0  # type: ignore[index]
        assert make(kind="l1", weight=1.0, fn=L1("probs")).build().fn == L1("probs")
    finally:
        unregister_regularizer("mine")
        unregister_regularizer("l1")
    assert "mine" not in list_regularizers()
    assert make(kind="l1", weight=1.0).build().fn == L1()


WRONG: list[Any] = [
    {"kind": "l3", "weight": 1.0},
    {"kind": "l1", "weight": -1.0},
    {"kind": "l1", "weight": 1.0, "reductio": "mean"},
    {"kind": "l1", "weight": 1.0, "reduction": "max"},
    {"kind": "l1", "weight": 1.0, "name": "two words"},
    {"kind": "l1", "weight": 1.0, "reference_policy": "base"},
    {"kind": "l1", "weight": 1.0, "schedule": {"over": 3}},
    {"kind": "l1", "weight": 1.0, "schedule": {"kind": "linear", "over": 0}},
    {"kind": "l1", "weight": 1.0, "state": {"kind": "pid"}},
    "l1:0.5",
]


def test_what_is_refused_says_what_is_allowed(golden: Callable[[str, Any], None]) -> None:
    messages = []
    for settings in WRONG:
        with pytest.raises((ValidationError, TinsmithError)) as refused:
            RegularizerConfig.model_validate(settings)
        error: Any = refused.value
        if isinstance(error, ValidationError):
            error = error.errors()[0]["ctx"]["error"]
        assert isinstance(error, (ConfigError, UnknownNameError))
        messages.append(str(error))
    golden("regularizer_config_errors.json", messages)


# ------------------------------------------------------------------------- models as reference


class Done:
    def __init__(self, value: Any) -> None:
        self._value = value

    def result(self) -> Any:
        return self._value


class Policy:
    """Logprob of a token: minus itself, a tenth."""

    def compute_logprobs(self, prompt: ModelInput) -> Any:
        return Done([None, *(-token / 10 for token in prompt.to_ints()[1:])])


def text(*tokens: int) -> Datum:
    """A datum whose targets are the next tokens."""
    inputs = {"target_tokens": list(tokens[1:])}
    return Datum(model_input=ModelInput.from_ints(list(tokens[:-1])), loss_fn_inputs=inputs)


def test_a_policy_gives_the_logprobs_of_each_datums_targets() -> None:
    given = PolicyReference(Policy())([text(1, 2, 3), text(4, 5)])
    assert [x.tolist() for x in given] == [pytest.approx([-0.2, -0.3]), [-0.5]]
    logprobs = [torch.tensor([-0.2, -0.3], requires_grad=True)]
    loss, _ = KLEstimate(PolicyReference(Policy()))([text(1, 2, 3)], logprobs)
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-7)


def test_a_configuration_names_a_policy_that_a_loop_opens() -> None:
    terms = [
        make(kind="kl_estimate", weight=1.0).build(),
        make(kind="kl_estimate", weight=1.0, name="other", reference_policy="tinker://x").build(),
        make(kind="kl_estimate", weight=1.0, name="field", reference="ref").build(),
        make(kind="kl_estimate", weight=1.0, name="off", enabled=False).build(),
        make(kind="l1", weight=1.0).build(),
    ]
    assert unbound_policies(terms) == ["base", "tinker://x"]
    opened: list[str] = []

    def policy_of(name: str) -> Policy:
        opened.append(name)
        return Policy()

    bound = bind_policies(terms, policy_of)
    assert opened == ["base", "tinker://x"]
    assert unbound_policies(bound) == []
    assert [term.name for term in bound] == [term.name for term in terms]
    assert isinstance(bound[0].fn.reference.policy, Policy)
    assert bound[2:] == terms[2:]


def test_a_policy_needs_a_text_and_to_be_opened() -> None:
    with pytest.raises(ConfigError, match="reference_policy='base': has not been opened"):
        PolicyReference("base")([text(1, 2)])
    with pytest.raises(DataError, match=r"data\[1\]: a reference model needs targets"):
        PolicyReference(Policy())([text(1, 2, 3), datum(3, first=5)])


class FrozenModel:
    """A training client: its logprob of a token is minus the token, in the shape of the targets."""

    def forward(self, data: Sequence[Datum], loss_fn: str) -> Any:
        assert loss_fn == "cross_entropy"
        assert all(set(datum.loss_fn_inputs) == {"target_tokens", "weights"} for datum in data)
        future: Future[ForwardBackwardOutput] = Future()
        outputs = [
            {
                "logprobs": TensorData.from_numpy(
                    -datum.loss_fn_inputs["target_tokens"].to_numpy().astype(np.float32)
                )
            }
            for datum in data
        ]
        future.set_result(
            ForwardBackwardOutput(
                loss_fn_output_type="ArrayRecord", loss_fn_outputs=outputs, metrics={}
            )
        )
        return future


def test_a_training_client_tells_the_logprobs_of_any_targets() -> None:
    data = [datum(2, 3, first=1, mask=[1, 1]), datum(2, first=7)]
    given = PolicyReference(FrozenModel())(data)
    assert [x.tolist() for x in given] == [[[-1, -2, -3], [-4, -5, -6]], [-7, -8]]


def test_a_configured_term_of_distributions_refers_to_the_base_model() -> None:
    term = make(kind="kl", weight=1.0, distribution=4).build()
    assert (term.distribution, term.fn.reference) == (4, PolicyReference("base"))
    assert make(kind="kl", weight=1.0, distribution=4, reference="mine").build().fn.reference == (
        "mine"
    )
    assert make(kind="kl", weight=1.0).build().fn.reference == "reference_logprobs"
    assert make(kind="entropy", weight=1.0, distribution="full").build().distribution == "full"
    assert str(make(kind="entropy", weight=1.0, distribution="full")) == (
        '{kind = "entropy", weight = 1.0, distribution = "full"}'
    )
