"""The composed loss: golden composite, algebra, gradients, policies, events, call counts."""

import asyncio
import json
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.regularizers.support import Returned, data_for, finite_differences, leaves
from tinsmith.core.errors import ConfigError, DataError, UserError
from tinsmith.regularizers import (
    L1,
    L2,
    BaseLossOutput,
    ComposedLoss,
    CustomLossOptions,
    CustomLossOutput,
    LossEvent,
    Regularizer,
    RegularizerError,
    RegularizerOutput,
    RegularizerTimeoutError,
    combine_custom_outputs,
    packed,
)

GOLDEN = (-0.5, -1.0, -1.5)


def mean_nll(data: Any, logprobs: list[torch.Tensor]) -> Returned:
    return -torch.cat(logprobs).mean(), {"mine": 2.0}


def squares(data: Any, logprobs: list[torch.Tensor]) -> Returned:
    return torch.cat(logprobs).square().sum(), {}


def constant(value: float) -> Callable[..., Any]:
    return lambda data, logprobs: (torch.tensor(value), {})


def broken(data: Any, logprobs: list[torch.Tensor]) -> Returned:
    raise LookupError("no such rule")


def not_finite(data: Any, logprobs: list[torch.Tensor]) -> Returned:
    return torch.cat(logprobs).sum() * math.nan, {}


def infinite_slope(data: Any, logprobs: list[torch.Tensor]) -> Returned:
    """The square root at 0: the value is finite, the gradient is not."""
    return (torch.cat(logprobs) + 0.5).clamp_min(0).sqrt().sum(), {}


def evaluate(
    base: Any, terms: list[Regularizer], *values: Any, **settings: Any
) -> tuple[CustomLossOutput, list[np.ndarray], dict[str, float]]:
    """The output, the gradient of each datum and the metrics."""
    logprobs = leaves(*values)
    loss = ComposedLoss(base, terms, **settings)
    total, metrics = loss(data_for(logprobs), logprobs)
    total.backward()
    assert float(total.detach()) == loss.output.loss_total
    return loss.output, [x.grad.numpy() for x in logprobs], metrics  # type: ignore[union-attr]


@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("execution", ["parallel", "sequential"])
def test_the_golden_composite(track: bool, execution: Any) -> None:
    output, gradients, metrics = evaluate(
        mean_nll,
        [Regularizer(L1(), 0.01)],
        GOLDEN,
        track_grad_norms=track,
        options=CustomLossOptions(execution=execution),
    )
    assert output.loss_total == pytest.approx(1.03)
    assert output.regularizer_total == pytest.approx(0.03)
    np.testing.assert_allclose(-gradients[0], 0.3433333, atol=1e-7)
    assert metrics["mine"] == 2.0
    assert metrics["reg/l1_sparsity/share"] == pytest.approx(0.03 / 1.03)
    norms = (
        output.base_loss and output.base_loss.grad_norm,
        output.total_grad_norm,
        output.regularizers["l1_sparsity"].grad_norm,
        output.regularizers["l1_sparsity"].grad_norm_weighted,
    )
    if track:
        assert norms == pytest.approx((0.5773503, 0.5946708, 1.7320508, 0.0173205), abs=1e-7)
        share = metrics["reg/l1_sparsity/grad_norm_share"]
        assert share == pytest.approx(0.0173205 / 0.5946708, abs=1e-6)
    else:
        assert norms == (None, None, None, None)
        assert not [name for name in metrics if "grad_norm" in name]


def test_base_and_two_terms_add_up() -> None:
    terms = [Regularizer(constant(10.0), 0.1, "a"), Regularizer(constant(20.0), 0.5, "b")]
    output, _, _ = evaluate(mean_nll, terms, (-1.0, -1.0), track_grad_norms=True)
    assert (output.loss_total, output.regularizer_total) == (12.0, 11.0)
    assert list(output.regularizers) == ["a", "b"]
    a = output.regularizers["a"]
    # A constant has no gradient, which is something else than a gradient of 0.
    assert (a.contribution, a.grad_norm, a.grad_norm_weighted) == (1.0, None, None)
    assert not a.is_differentiable
    assert output.total_grad_norm == pytest.approx(math.sqrt(2) / 2)


weights = st.lists(st.floats(0, 5), min_size=0, max_size=5)
tokens = st.lists(st.floats(-8, -0.01), min_size=1, max_size=6)


@given(weights, tokens, st.booleans())
def test_totals_and_gradients_are_sums_of_the_parts(
    weights: list[float], values: list[float], track: bool
) -> None:
    terms = [
        Regularizer(L2() if index % 2 else L1(), weight, f"t{index}")
        for index, weight in enumerate(weights)
    ]
    output, gradients, _ = evaluate(mean_nll, terms, values, track_grad_norms=track)
    x = np.array(values)
    contributions = [term.contribution for term in output.regularizers.values()]
    assert output.regularizer_total == pytest.approx(sum(contributions))
    assert output.base_loss is not None
    assert output.loss_total - output.regularizer_total == pytest.approx(
        output.base_loss.value, abs=1e-9
    )
    expected = -np.ones_like(x) / len(x)
    for index, weight in enumerate(weights):
        expected = expected + weight * (2 * x if index % 2 else np.sign(x))
    np.testing.assert_allclose(gradients[0], expected, atol=1e-9)
    if track:
        assert output.total_grad_norm == pytest.approx(np.linalg.norm(expected))


def test_the_order_of_terms_and_of_execution_changes_nothing() -> None:
    terms = [Regularizer(L1(), 0.3), Regularizer(L2(), 0.2), Regularizer(squares, 0.1)]
    outcomes = [
        evaluate(mean_nll, order, GOLDEN, track_grad_norms=True, options=options)
        for order in (terms, terms[::-1])
        for options in (
            CustomLossOptions(),
            CustomLossOptions(execution="sequential"),
            CustomLossOptions(max_workers=2),
        )
    ]
    for output, gradients, _ in outcomes:
        assert output.loss_total == pytest.approx(outcomes[0][0].loss_total, rel=1e-12)
        np.testing.assert_allclose(gradients[0], outcomes[0][1][0], rtol=1e-12)
    for output, gradients, metrics in outcomes[:3]:
        assert output == outcomes[0][0]
        assert gradients[0].tolist() == outcomes[0][1][0].tolist()
        assert metrics == outcomes[0][2]
    assert list(outcomes[0][0].regularizers) == ["l1_sparsity", "l2_outputs", "squares"]


@pytest.mark.parametrize("track", [True, False])
def test_every_function_is_called_once_and_differentiated_once(
    track: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def counted(name: str) -> Any:
        def fn(data: Any, logprobs: list[torch.Tensor]) -> Returned:
            calls.append(name)
            return squares(data, logprobs)

        return fn

    backwards: list[int] = []
    grad = torch.autograd.grad

    def counting_grad(*args: Any, **options: Any) -> Any:
        backwards.append(1)
        return grad(*args, **options)

    monkeypatch.setattr(torch.autograd, "grad", counting_grad)
    terms = [Regularizer(counted(name), 0.1, name) for name in ("a", "b", "c")]
    evaluate(counted("base"), terms, GOLDEN, track_grad_norms=track)
    assert sorted(calls) == ["a", "b", "base", "c"]
    assert len(backwards) == (4 if track else 1)  # one for the sum is all that is paid without


def test_terms_alone_are_a_loss() -> None:
    output, gradients, metrics = evaluate(None, [Regularizer(L1(), 2.0)], (-1.0,), (-2.0, -3.0))
    assert (output.base_loss, output.loss_total) == (None, 12.0)
    assert [g.tolist() for g in gradients] == [[-2], [-2, -2]]
    assert "reg/base/value" not in metrics


def test_a_base_loss_alone_has_its_norm_as_total() -> None:
    output, _, _ = evaluate(mean_nll, [], GOLDEN, track_grad_norms=True)
    assert output.base_loss is not None
    assert output.total_grad_norm == output.base_loss.grad_norm
    assert (output.regularizers, output.regularizer_total) == ({}, 0.0)


def test_weight_zero_computes_the_value_and_moves_nothing() -> None:
    output, gradients, metrics = evaluate(mean_nll, [Regularizer(L1(), 0)], GOLDEN)
    assert metrics["reg/l1_sparsity/value"] == 3.0
    assert (output.regularizer_total, output.loss_total) == (0.0, 1.0)
    np.testing.assert_allclose(gradients[0], -1 / 3)


def test_a_disabled_term_is_not_called() -> None:
    output, _, _ = evaluate(mean_nll, [Regularizer(broken, 1.0, enabled=False)], GOLDEN)
    assert (output.regularizers, output.loss_total) == ({}, 1.0)


def test_functions_may_be_coroutines_objects_numbers_or_packed() -> None:
    async def slow(data: Any, logprobs: list[torch.Tensor]) -> Returned:
        await asyncio.sleep(0)
        return torch.cat(logprobs).sum(), {}

    class Term:
        async def compute(self, data: Any, logprobs: list[torch.Tensor]) -> Returned:
            return 2 * logprobs[1].sum(), {}

    def by_datum(data: Any, logprobs: torch.Tensor, boundaries: list[int]) -> Returned:
        assert boundaries == [0, 1, 3]
        return logprobs[boundaries[1] : boundaries[2]].prod(), {}

    terms = [
        Regularizer(slow, 1.0),
        Regularizer(Term(), 1.0, "object"),
        Regularizer(lambda data, logprobs: (7, {}), 1.0, "number"),
        Regularizer(packed(by_datum), 1.0),
    ]
    base = packed(lambda data, logprobs: (logprobs[0] ** 2, {}))
    output, gradients, _ = evaluate(base, terms, (-1.0,), (-2.0, -3.0))
    values = {name: term.value for name, term in output.regularizers.items()}
    assert values == {"slow": -6, "object": -10, "number": 7, "by_datum": 6}
    assert output.loss_total == 1 - 3
    assert [g.tolist() for g in gradients] == [[-1], [0, 1]]


def test_a_loss_of_several_values_is_summed() -> None:
    output, gradients, _ = evaluate(
        None, [Regularizer(packed(lambda data, x: (x * 2, {})), 0.5, "doubled")], (-1.0, -2.0)
    )
    assert output.regularizers["doubled"].value == -6
    assert gradients[0].tolist() == [1, 1]


def test_the_gradient_of_a_composition_equals_finite_differences() -> None:
    logprobs = leaves(GOLDEN, (-0.2, -3.0))
    terms = [Regularizer(L2(center="mean"), 0.3), Regularizer(L1("probs"), 0.2)]

    def total(x: list[torch.Tensor]) -> torch.Tensor:
        return ComposedLoss(squares, terms)(data_for(x), x)[0]

    total(logprobs).backward()
    ours = torch.cat([x.grad for x in logprobs]).numpy()  # type: ignore[misc]
    np.testing.assert_allclose(ours, finite_differences(total, logprobs), rtol=1e-6, atol=1e-8)


# --------------------------------------------------------------------------- what goes wrong


def test_skip_leaves_the_term_out_and_lists_it() -> None:
    terms = [
        Regularizer(broken, 1.0, on_error="skip"),
        Regularizer(not_finite, 1.0, on_nan="skip"),
        Regularizer(infinite_slope, 1.0, on_nan="skip"),
        Regularizer(L1(), 0.01),
    ]
    for track in (True, False):
        output, gradients, metrics = evaluate(mean_nll, terms, GOLDEN, track_grad_norms=track)
        assert output.loss_total == pytest.approx(1.03)
        np.testing.assert_allclose(-gradients[0], 0.3433333, atol=1e-7)
        assert output.skipped == {
            "broken": "regularizers['broken']: LookupError: no such rule",
            "not_finite": "regularizers['not_finite']: its value is nan",
            "infinite_slope": "regularizers['infinite_slope']: its gradient is not finite",
        }
        assert metrics["reg/total/num_skipped"] == 3
        assert output.to_json()["skipped"] == output.skipped


def fails_on_long(data: list[Any], logprobs: list[torch.Tensor]) -> Returned:
    if any(len(x) > 1 for x in logprobs):
        raise ValueError("too long")
    return torch.cat(logprobs).square().mean(), {}


@pytest.mark.parametrize(("reduction", "value"), [("sum", 1 + 9), ("mean", (1 + 9) / 2)])
def test_partial_keeps_the_datums_that_work(reduction: Any, value: float) -> None:
    term = Regularizer(fails_on_long, 0.5, reduction=reduction, on_error="partial")
    output, gradients, _ = evaluate(mean_nll, [term], (-1.0,), (-2.0, -2.0), (-3.0,))
    part = output.regularizers["fails_on_long"]
    assert part.value == value
    assert part.custom == {"num_datums": 2, "num_datums_left_out": 1}
    assert output.partial == {"fails_on_long": (1,)}
    slope = 0.5 * 2 / (1 if reduction == "sum" else 2)
    np.testing.assert_allclose(gradients[0], [-1 / 4 - slope])
    np.testing.assert_allclose(gradients[1], [-1 / 4, -1 / 4])


def test_partial_of_a_term_that_works_is_the_whole() -> None:
    term = Regularizer(L1(), 1.0, on_error="partial")
    output, _, _ = evaluate(None, [term], GOLDEN)
    assert (output.regularizer_total, output.partial) == (3.0, {})


def raised_by(make: Callable[[], Any]) -> Exception:
    with pytest.raises(UserError) as refused:
        make()
    return refused.value


def test_a_term_that_fails_is_named(golden: Callable[[str, Any], None]) -> None:
    """Every way a term or a base loss can fail, with its message."""

    async def forever(data: Any, logprobs: Any) -> Any:
        await asyncio.sleep(60)

    def on(fn: Any, **settings: Any) -> Callable[[], Any]:
        return lambda: evaluate(mean_nll, [Regularizer(fn, 1.0, "term", **settings)], GOLDEN)

    def base(fn: Any) -> Callable[[], Any]:
        return lambda: evaluate(fn, [Regularizer(L1(), 1.0)], GOLDEN)

    def refuse(data: Any, logprobs: Any) -> Any:
        raise DataError("data[3]: no label", hint="label it")

    def two_widths(data: Any, logprobs: Any) -> Any:
        return packed(lambda data, x: (x.sum(), {}))(data, [logprobs[0], torch.zeros(2, 3)])

    failures = {
        "exception": on(broken),
        "our own error": on(refuse),
        "time-out": on(forever, timeout_s=0.05),
        "value is nan": on(not_finite),
        "gradient is not finite": on(infinite_slope),
        "no pair": on(lambda d, x: x[0].sum()),
        "no tensor": on(lambda d, x: ("0.5", {})),
        "integers": on(lambda d, x: (torch.tensor(3), {})),
        "metrics are no dict": on(lambda d, x: (x[0].sum(), [1])),
        "metric is text": on(lambda d, x: (x[0].sum(), {"kind": "mse"})),
        "packed of two widths": on(two_widths),
        "base returns no pair": base(lambda d, x: x[0].sum()),
        "base is nan": base(not_finite),
        "nothing depends on the logprobs": lambda: evaluate(
            constant(1.0), [Regularizer(constant(2.0), 1.0, "c")], GOLDEN
        ),
        "neither loss nor term": lambda: ComposedLoss(None, []),
        "only disabled terms": lambda: ComposedLoss(None, [Regularizer(L1(), 1.0, enabled=False)]),
        "asked too early": lambda: ComposedLoss(mean_nll).output,
    }
    errors = {name: raised_by(make) for name, make in failures.items()}
    assert isinstance(errors["time-out"], RegularizerTimeoutError)
    assert isinstance(errors["time-out"], TimeoutError)
    terms = [e for e in errors.values() if isinstance(e, RegularizerError)]
    assert {error.name for error in terms} <= {"term"}
    assert len(terms) == 11
    golden("regularizer_failures.json", {name: str(error) for name, error in errors.items()})


def test_partial_without_a_single_datum_that_works_skips_the_term() -> None:
    term = Regularizer(broken, 1.0, on_error="partial", reduction="sum")
    output, _, _ = evaluate(mean_nll, [term], GOLDEN)
    assert list(output.skipped) == ["broken"]


def test_a_base_loss_that_raises_is_raised_as_it_is() -> None:
    with pytest.raises(LookupError, match="no such rule"):
        evaluate(broken, [Regularizer(L1(), 1.0)], GOLDEN)


# ----------------------------------------------------------------------------------- events


def events_of(
    terms: list[Regularizer], error: type[Exception] | None = None, **settings: Any
) -> list[LossEvent]:
    seen: list[LossEvent] = []
    options = CustomLossOptions(observer=seen.append, **settings)
    if error is None:
        evaluate(mean_nll, terms, GOLDEN, track_grad_norms=True, options=options)
    else:
        with pytest.raises(error):
            evaluate(mean_nll, terms, GOLDEN, track_grad_norms=True, options=options)
    for event in seen:
        assert event.measurements.get("duration_s", 0.0) >= 0.0  # type: ignore[operator]
    return seen


def test_the_observer_sees_the_call_and_every_term() -> None:
    seen = events_of([Regularizer(L1(), 0.01), Regularizer(constant(2.0), 0.5, "c")])
    assert [event.name for event in seen] == [
        "custom_loss.start",
        "regularizer.start",
        "regularizer.start",
        "regularizer.stop",
        "regularizer.stop",
        "custom_loss.stop",
    ]
    assert seen[0].metadata == {"num_regularizers": 2, "num_datums": 1, "track_grad_norms": True}
    first, second, whole = seen[3:]
    assert first.metadata == {"name": "l1_sparsity", "weight": 0.01}
    assert first.measurements["value"] == 3.0
    assert first.measurements["contribution"] == pytest.approx(0.03)
    assert first.measurements["grad_norm"] == pytest.approx(math.sqrt(3))
    assert second.measurements["grad_norm"] is None
    assert whole.measurements["loss_total"] == pytest.approx(2.03)
    assert whole.measurements["regularizer_total"] == pytest.approx(1.03)


def test_a_failure_and_its_cancelled_siblings_are_told() -> None:
    cancelled = threading.Event()

    async def waits(data: Any, logprobs: Any) -> Any:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def too_slow(data: Any, logprobs: Any) -> Any:
        await asyncio.sleep(60)

    terms = [Regularizer(waits, 1.0), Regularizer(too_slow, 1.0, timeout_s=0.05)]
    seen = events_of(terms, RegularizerTimeoutError)
    assert cancelled.wait(10)
    reasons = [(e.name, e.metadata.get("name"), e.metadata.get("reason")) for e in seen[3:]]
    timed_out = "regularizers['too_slow']: took longer than timeout_s=0.05"
    assert reasons == [
        ("regularizer.exception", "waits", "cancelled: another regularizer failed"),
        ("regularizer.exception", "too_slow", timed_out),
        ("custom_loss.exception", None, timed_out),
    ]


def test_a_term_that_was_never_started_has_no_events() -> None:
    seen = events_of(
        [Regularizer(broken, 1.0), Regularizer(L1(), 1.0)],
        RegularizerError,
        execution="sequential",
    )
    assert [event.metadata.get("name") for event in seen] == [None, "broken", "broken", None]


def test_a_value_that_is_not_finite_is_an_exception_event() -> None:
    seen = events_of([Regularizer(not_finite, 1.0), Regularizer(L1(), 1.0)], RegularizerError)
    ends = {e.metadata.get("name"): e.name for e in seen if not e.name.endswith("start")}
    assert ends == {
        "not_finite": "regularizer.exception",
        "l1_sparsity": "regularizer.stop",
        None: "custom_loss.exception",
    }


def test_an_observer_that_fails_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fails(event: LossEvent) -> None:
        raise RuntimeError("disk full")

    output, _, _ = evaluate(
        mean_nll, [Regularizer(L1(), 0.01)], GOLDEN, options=CustomLossOptions(observer=fails)
    )
    assert output.loss_total == pytest.approx(1.03)
    assert "observer of regularizer.start failed" in caplog.text


# ---------------------------------------------------------------------------------- outputs


def test_the_json_is_the_documented_one() -> None:
    output = CustomLossOutput(
        loss_total=2.847,
        base_loss=BaseLossOutput(2.5, 3.14, {}),
        regularizers={
            "sparsity": RegularizerOutput("sparsity", 22.4, 0.01, 0.224, 7.48, 0.0748, {"n": 1.0}),
            "plain": RegularizerOutput("plain", 1.23, 0.1, 0.123),
        },
        regularizer_total=0.347,
        total_grad_norm=5.67,
    )
    assert json.loads(json.dumps(output.to_json())) == {
        "loss_total": 2.847,
        "base_loss": {"value": 2.5, "grad_norm": 3.14, "custom": {}},
        "regularizers": {
            "sparsity": {
                "value": 22.4,
                "weight": 0.01,
                "contribution": 0.224,
                "grad_norm": 7.48,
                "grad_norm_weighted": 0.0748,
                "custom": {"n": 1.0},
            },
            "plain": {
                "value": 1.23,
                "weight": 0.1,
                "contribution": 0.123,
                "grad_norm": None,
                "grad_norm_weighted": None,
                "custom": {},
            },
        },
        "regularizer_total": 0.347,
        "total_grad_norm": 5.67,
    }
    bare = CustomLossOutput(1.0, None, {}, 1.0)
    assert bare.to_json() == {
        "loss_total": 1.0,
        "base_loss": None,
        "regularizers": {},
        "regularizer_total": 1.0,
        "total_grad_norm": None,
    }
    with pytest.raises(UserError, match="not sent to a service"):
        _ = bare.metrics
    assert CustomLossOutput(0.0, None, {"a": output.regularizers["plain"]}, 0.0).flat_metrics() == {
        "reg/a/value": 1.23,  # and no share, which has no meaning of a loss of 0
        "reg/a/weight": 0.1,
        "reg/a/contribution": 0.123,
        "reg/total/loss": 0.0,
        "reg/total/regularizers": 0.0,
    }


@settings(max_examples=40)
@given(
    st.lists(tokens, min_size=2, max_size=5),
    st.floats(0.01, 2),
    st.sampled_from(["sum", "mean"]),
    st.booleans(),
)
def test_parts_of_a_batch_with_their_shares_equal_the_batch(
    batch: list[list[float]], weight: float, reduction: Any, track: bool
) -> None:
    """Accumulation over calls and division among workers: values, gradients and norms."""
    terms = [
        Regularizer(L1(reduction=reduction), weight),
        Regularizer(L2(reduction=reduction), 0.5),
    ]
    count = sum(map(len, batch))
    whole, gradients, _ = evaluate(mean_nll, terms, *batch, track_grad_norms=track)
    shares = [len(values) / count for values in batch]
    parts = [
        evaluate(
            mean_nll,
            terms,
            values,
            track_grad_norms=track,
            options=CustomLossOptions(share=share, base_reduction="mean"),
        )
        for values, share in zip(batch, shares, strict=True)
    ]
    for (_, found, _), expected in zip(parts, gradients, strict=True):
        np.testing.assert_allclose(found[0], expected, rtol=1e-9)
    joined = combine_custom_outputs([output for output, _, _ in parts], shares, terms)
    assert joined.loss_total == pytest.approx(whole.loss_total)
    assert joined.regularizer_total == pytest.approx(whole.regularizer_total)
    assert joined.total_grad_norm == (pytest.approx(whole.total_grad_norm) if track else None)
    for name, term in whole.regularizers.items():
        ours = joined.regularizers[name]
        assert ours.value == pytest.approx(term.value)
        assert ours.weight == pytest.approx(term.weight)
        assert ours.contribution == pytest.approx(term.contribution)
        if track:
            assert ours.grad_norm == pytest.approx(term.grad_norm)
            assert ours.grad_norm_weighted == pytest.approx(term.grad_norm_weighted)
    assert joined.base_loss is not None
    assert joined.base_loss.custom == {"mine": pytest.approx(2.0)}


def test_what_does_not_add_up_is_refused(golden: Callable[[str, Any], None]) -> None:
    whole_batch = Regularizer(squares, 1.0)
    half = CustomLossOptions(share=0.5)
    output, _, _ = evaluate(None, [whole_batch], GOLDEN)
    attempts: list[Callable[[], Any]] = [
        lambda: ComposedLoss(mean_nll, [whole_batch], options=half),
        lambda: ComposedLoss(mean_nll, [Regularizer(L1(), 1.0)], options=half),
        lambda: combine_custom_outputs([output, output], [0.5, 0.6], [whole_batch]),
        lambda: combine_custom_outputs([output, output], [0.5, 0.5], [whole_batch]),
        lambda: CustomLossOptions(share=0),
        lambda: CustomLossOptions(execution="fast"),  # type: ignore[arg-type]
        lambda: CustomLossOptions(max_workers=0),
        lambda: CustomLossOptions(base_reduction="max"),  # type: ignore[arg-type]
        lambda: CustomLossOptions(epoch=-1),
    ]
    messages = []
    for attempt in attempts:
        with pytest.raises(ConfigError) as refused:
            attempt()
        messages.append(str(refused.value))
    golden("regularizer_option_errors.json", messages)
