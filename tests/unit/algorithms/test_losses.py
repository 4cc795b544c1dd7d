"""Each loss against its closed form and gradient, token by token in plain Python floats."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.algorithms.loss_inputs import LOSS_INPUTS, check_loss_config, check_loss_inputs
from tinsmith.algorithms.losses import LOSSES, find_loss
from tinsmith.core.errors import ConfigError, DataError, UnknownNameError

# (lp, q, A, config) to (loss, dloss/dlp); for cross_entropy A stands for the weight.
Closed = Callable[[float, float, float, dict[str, float]], tuple[float, float]]


def _cross_entropy(lp: float, q: float, w: float, config: dict[str, float]) -> tuple[float, float]:
    return -w * lp, -w


def _importance(lp: float, q: float, a: float, config: dict[str, float]) -> tuple[float, float]:
    r = math.exp(lp - q)
    return -r * a, -r * a


def _ppo(lp: float, q: float, a: float, config: dict[str, float]) -> tuple[float, float]:
    r = math.exp(lp - q)
    low, high = config["clip_low_threshold"], config["clip_high_threshold"]
    if a > 0 and r > high:
        return -high * a, 0.0
    if a < 0 and r < low:
        return -low * a, 0.0
    return -r * a, -r * a


def _cispo(lp: float, q: float, a: float, config: dict[str, float]) -> tuple[float, float]:
    r = math.exp(lp - q)
    weight = min(max(r, config["clip_low_threshold"]), config["clip_high_threshold"])
    return -weight * lp * a, -weight * a


def _dro(lp: float, q: float, a: float, config: dict[str, float]) -> tuple[float, float]:
    beta = config["beta"]
    return -(lp * a - 0.5 * beta * (lp - q) ** 2), -(a - beta * (lp - q))


CLOSED_FORMS: dict[str, Closed] = {
    "cross_entropy": _cross_entropy,
    "importance_sampling": _importance,
    "ppo": _ppo,
    "cispo": _cispo,
    "dro": _dro,
}

TOKEN = st.tuples(
    st.floats(-8, -0.01), st.floats(-8, -0.01), st.sampled_from([0.0, -1.5, 0.3, 2.0])
)


@pytest.mark.parametrize("name", sorted(CLOSED_FORMS))
@given(tokens=st.lists(TOKEN, min_size=1, max_size=8), tight=st.booleans())
def test_loss_and_gradient_equal_the_closed_form(
    name: str, tokens: list[tuple[float, float, float]], tight: bool
) -> None:
    spec = find_loss(name)
    wanted = {"clip_low_threshold": 0.95, "clip_high_threshold": 1.05, "beta": 0.9}
    chosen = {key: wanted[key] for key in spec.config_defaults} if tight else {}
    config = check_loss_config(spec, chosen)
    lp = torch.tensor([t[0] for t in tokens], dtype=torch.float64, requires_grad=True)
    inputs = {
        "logprobs": torch.tensor([t[1] for t in tokens], dtype=torch.float64),
        "advantages": torch.tensor([t[2] for t in tokens], dtype=torch.float64),
    }
    if name == "cross_entropy":
        inputs = {"weights": inputs["advantages"]}
    loss, diagnostics = spec.fn(lp, inputs, config)
    loss.sum().backward()
    assert lp.grad is not None
    # float64 on both sides; ratios reach exp(8), so the scale is relative.
    for i, token in enumerate(tokens):
        expected_loss, expected_grad = CLOSED_FORMS[name](*token, config)
        assert loss[i].item() == pytest.approx(expected_loss, rel=1e-12, abs=1e-12)
        assert lp.grad[i].item() == pytest.approx(expected_grad, rel=1e-12, abs=1e-12)
    assert all(values.shape == lp.shape for values in diagnostics.values())
    assert not any(values.requires_grad for values in diagnostics.values())


def test_losses_without_a_closed_form_of_a_token_read_whole_datums() -> None:
    assert {name for name, spec in LOSSES.items() if not spec.separable} == {"gspo"}
    assert CLOSED_FORMS.keys() == {name for name, spec in LOSSES.items() if spec.separable}


MARKED_TOKEN = st.tuples(TOKEN, st.sampled_from([0.0, 1.0, 2.0]))


@given(tokens=st.lists(MARKED_TOKEN, min_size=1, max_size=8), tight=st.booleans())
def test_gspo_has_one_ratio_a_datum_and_each_token_its_own_gradient(
    tokens: list[tuple[tuple[float, float, float], float]], tight: bool
) -> None:
    if not any(mark for _, mark in tokens):
        tokens = [*tokens, ((-1.0, -1.1, 0.5), 1.0)]
    low, high = (0.95, 1.05) if tight else (0.9997, 1.0004)
    gaps = [lp - q for (lp, q, _), mark in tokens if mark]
    s = math.exp(sum(gaps) / len(gaps))
    spec = find_loss("gspo")
    chosen = {"clip_low_threshold": low, "clip_high_threshold": high} if tight else {}
    lp = torch.tensor([t[0][0] for t in tokens], dtype=torch.float64, requires_grad=True)
    inputs = {
        "logprobs": torch.tensor([t[0][1] for t in tokens], dtype=torch.float64),
        "advantages": torch.tensor([t[0][2] for t in tokens], dtype=torch.float64),
        "sequence_ratio_mask": torch.tensor([t[1] for t in tokens], dtype=torch.float64),
    }
    loss, diagnostics = spec.fn(lp, inputs, check_loss_config(spec, chosen))
    loss.sum().backward()
    assert lp.grad is not None
    for i, ((_, _, a), _) in enumerate(tokens):
        clipped = (a > 0 and s > high) or (a < 0 and s < low)
        value = -(min(max(s, low), high) if clipped else s) * a
        assert loss[i].item() == pytest.approx(value, rel=1e-12, abs=1e-12)
        grad = 0.0 if clipped else -s * a
        assert lp.grad[i].item() == pytest.approx(grad, rel=1e-12, abs=1e-12)
        assert diagnostics["clipped_tokens"][i].item() == clipped


def test_a_mean_over_no_token_is_refused_unless_nothing_is_learned() -> None:
    arrays = {
        "target_tokens": np.array([1, 2]),
        "logprobs": np.array([-1.0, -2.0]),
        "advantages": np.array([0.0, 1.0]),
        "sequence_ratio_mask": np.zeros(2),
    }
    spec = LOSS_INPUTS["gspo"]
    with pytest.raises(DataError, match=r"datum 3: .*sequence_ratio_mask: marks no token"):
        check_loss_inputs(spec, arrays, num_tokens=2, vocab_size=3, datum_index=3)
    arrays["advantages"] = np.zeros(2)
    checked = check_loss_inputs(spec, arrays, num_tokens=2, vocab_size=3, datum_index=3)
    lp = torch.tensor([-1.0, -2.0], requires_grad=True)
    inputs = {key: torch.from_numpy(values) for key, values in checked.items()}
    loss, _ = find_loss("gspo").fn(lp, inputs, check_loss_config(spec, {}))
    loss.sum().backward()
    assert loss.tolist() == [0.0, 0.0]
    assert lp.grad is not None
    assert lp.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("mark", [0.5, -1.0, 2.0])
def test_a_mark_is_0_or_1(mark: float) -> None:
    arrays = {
        "target_tokens": np.array([1, 2]),
        "logprobs": np.array([-1.0, -2.0]),
        "advantages": np.array([0.0, 1.0]),
        "sequence_ratio_mask": np.array([1.0, mark]),
    }
    message = rf"datum 3: .*sequence_ratio_mask: value {mark:g} at position 1 must be 0 or 1"
    with pytest.raises(DataError, match=message):
        check_loss_inputs(LOSS_INPUTS["gspo"], arrays, num_tokens=2, vocab_size=3, datum_index=3)


def test_a_loss_without_a_public_formula_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match=r"stable_reinforce.*formula is not public") as caught:
        find_loss("stable_reinforce")
    assert caught.value.field == "loss_fn"


def evaluate(name: str, lp: float, q: float, a: float) -> tuple[float, dict[str, float]]:
    spec = find_loss(name)
    loss, diagnostics = spec.fn(
        torch.tensor([lp]),
        {"logprobs": torch.tensor([q]), "advantages": torch.tensor([a])},
        check_loss_config(spec, {}),
    )
    return loss.item(), {key: values.item() for key, values in diagnostics.items()}


def test_thresholds_bound_the_ratio_itself() -> None:
    # r = e: above 1.2, so ppo's loss of a good token is -1.2 A; cispo's bound of 4 is not reached.
    assert evaluate("ppo", -1.0, -2.0, 1.0)[0] == pytest.approx(-1.2)
    assert evaluate("cispo", -1.0, -2.0, 1.0)[0] == pytest.approx(math.e)


def test_clipped_tokens_are_those_whose_gradient_is_changed() -> None:
    assert evaluate("ppo", -1.0, -2.0, 1.0)[1]["clipped_tokens"] == 1
    assert evaluate("ppo", -1.0, -2.0, -1.0)[1]["clipped_tokens"] == 0  # min keeps r * A
    assert evaluate("ppo", -2.0, -1.0, -1.0)[1]["clipped_tokens"] == 1
    assert evaluate("ppo", -2.0, -1.9, -1.0)[1]["clipped_tokens"] == 0
    assert evaluate("cispo", -1.0, -6.0, -1.0)[1]["clipped_tokens"] == 1
    assert evaluate("cispo", -1.0, -6.0, 0.0)[1]["clipped_tokens"] == 0


@pytest.mark.parametrize("name", ["importance_sampling", "ppo", "cispo", "dro"])
def test_kl_counts_tokens_with_an_advantage_only(name: str) -> None:
    assert evaluate(name, -2.0, -1.5, 1.0)[1]["kl_k1"] == pytest.approx(0.5)
    assert evaluate(name, -2.0, -1.5, 0.0)[1]["kl_k1"] == 0.0


@pytest.mark.parametrize("name", ["importance_sampling", "ppo", "cispo"])
def test_a_masked_token_cannot_overflow(name: str) -> None:
    # exp(lp - q) is infinite in float32, and infinity times 0 is not a number.
    spec = find_loss(name)
    lp = torch.tensor([-1.0], requires_grad=True)
    inputs = {"logprobs": torch.tensor([-1e4]), "advantages": torch.tensor([0.0])}
    loss, _ = spec.fn(lp, inputs, check_loss_config(spec, {}))
    loss.sum().backward()
    assert loss.item() == 0.0
    assert lp.grad is not None
    assert lp.grad.item() == 0.0


def test_every_accepted_loss_has_a_function() -> None:
    assert LOSSES.keys() == LOSS_INPUTS.keys()
    for name, spec in LOSSES.items():
        assert spec.name == name
        assert spec.config_defaults == LOSS_INPUTS[name].config_defaults


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("ppo", {"clip_high": 1.0}, "ppo takes no such setting .*clip_low_threshold"),
        ("cross_entropy", {"beta": 1.0}, r"cross_entropy takes no such setting .*none"),
        ("dro", {"beta": "high"}, "beta='high': must be a number from 0 to 3.4e\\+38"),
        ("dro", {"beta": -0.1}, "beta=-0.1: must be"),
        ("cispo", {"clip_high_threshold": math.inf}, "clip_high_threshold=inf"),
        ("ppo", {"clip_low_threshold": 1.3}, "clip_low_threshold=1.3: must not exceed"),
    ],
)
def test_bad_settings_are_refused(name: str, config: dict[str, float | str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check_loss_config(LOSS_INPUTS[name], config)
    assert caught.value.field is not None
    assert caught.value.field.startswith("loss_fn_config.")


def test_settings_default_as_documented() -> None:
    assert check_loss_config(LOSS_INPUTS["ppo"], None) == {
        "clip_low_threshold": 0.8,
        "clip_high_threshold": 1.2,
    }
    assert check_loss_config(LOSS_INPUTS["cispo"], {"clip_high_threshold": 5}) == {
        "clip_low_threshold": 0.0,
        "clip_high_threshold": 5.0,
    }
    assert check_loss_config(LOSS_INPUTS["gspo"], {}) == {
        "clip_low_threshold": 0.9997,
        "clip_high_threshold": 1.0004,
    }
    assert check_loss_config(LOSS_INPUTS["dro"], {}) == {"beta": 0.05}


def test_inputs_come_back_in_their_dtypes() -> None:
    arrays = {"target_tokens": np.array([1, 2], np.int32), "weights": np.array([1, 0], np.int64)}
    checked = check_loss_inputs(
        LOSS_INPUTS["cross_entropy"], arrays, num_tokens=2, vocab_size=3, datum_index=0
    )
    assert checked["target_tokens"].dtype == np.int64
    assert checked["weights"].dtype == np.float32


def test_unknown_losses_offer_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'importance_sampling'"):
        find_loss("importance_sampler")


@pytest.mark.parametrize("value", [1e39, -1e-9, math.inf, math.nan, "2"])
def test_a_setting_that_float32_cannot_hold_is_refused_by_name(value: float | str) -> None:
    with pytest.raises(ConfigError, match="clip_high_threshold"):
        check_loss_config(LOSS_INPUTS["ppo"], {"clip_high_threshold": value})
