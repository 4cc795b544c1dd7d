"""Built-in terms: values by NumPy, gradients by finite differences, references of every datum."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.regularizers.support import (
    Returned,
    data_for,
    datum,
    finite_differences,
    gradient,
    leaves,
)
from tinsmith.core.errors import ConfigError, DataError
from tinsmith.regularizers import (
    KL,
    L1,
    L2,
    Consistency,
    ElasticNet,
    Entropy,
    GradientPenalty,
    JensenShannon,
    KLEstimate,
    Orthogonality,
    OutputMagnitude,
    Regularizer,
    SampledEntropy,
)

RNG = np.random.default_rng(7)


def chosen(*lengths: int) -> list[np.ndarray]:
    return [-RNG.exponential(size=n) - 0.05 for n in lengths]


def full(*lengths: int, width: int = 4) -> list[np.ndarray]:
    logits = [RNG.normal(size=(n, width)) for n in lengths]
    return [x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in logits]


TOKENS, TOKEN_REFERENCES = chosen(3, 2), chosen(3, 2)
SAME_LENGTH = chosen(3, 3, 3)
FULL, FULL_REFERENCES = full(3, 2), full(3, 2)
SAME_FULL = full(3, 3)
MASKS = [[0, 1, 1], [1, 0]]
TWO_REDUCTIONS = ("sum", "mean")


def squares(data: Any, logprobs: list[torch.Tensor]) -> Returned:
    return sum(x.square().sum() for x in logprobs), {}  # type: ignore[return-value]


def cubes(data: Any, logprobs: list[torch.Tensor]) -> Returned:
    return torch.stack([x.pow(3).sum() for x in logprobs]).sum(), {}


def cases() -> list[Any]:
    terms: list[tuple[Any, list[np.ndarray]]] = []
    for reduction, mask in itertools.product(TWO_REDUCTIONS, (None, "mask")):
        shape: dict[str, Any] = {"reduction": reduction, "mask": mask}
        for target in ("logprobs", "probs"):
            terms += [
                (L1(target=target, **shape), TOKENS),
                (L2(target=target, **shape), TOKENS),
                (ElasticNet(0.3, target=target, **shape), TOKENS),
            ]
        terms += [
            (L2(center="mean", **shape), TOKENS),
            (L2(center=-0.7, clip=0.5, **shape), TOKENS),
            (OutputMagnitude(0.3, **shape), TOKENS),
            (L1(**shape), FULL),
            (Entropy(**shape), FULL),
            (Entropy(mode="penalty", normalise=True, **shape), FULL),
            (Entropy(temperature=1.7, **shape), FULL),
            (Entropy(renormalise=True, **shape), FULL),
            (JensenShannon(**shape), FULL),
            *((KL(direction=d, **shape), FULL) for d in ("forward", "reverse", "symmetric")),
            *(
                (KLEstimate(estimator=k, gradient="estimator", **shape), TOKENS)
                for k in ("k1", "k2", "k3")
            ),
            (KLEstimate(estimator="k2", **shape), TOKENS),  # its score function is its gradient
            *(
                (Consistency(metric=m, pair_field="reference_logprobs", **shape), TOKENS)
                for m in ("mse", "l1", "cosine")
            ),
            (Consistency(metric="kl", pair_field="reference_logprobs", **shape), FULL),
        ]
    for mode in ("bonus", "penalty"):
        terms.append((SampledEntropy(mode, gradient="estimator", mask="mask"), TOKENS))
    for mode in ("output", "interpolated"):
        terms.append((GradientPenalty(cubes, mode, seed=3), TOKENS))
    for mode, axis in itertools.product(
        ("soft", "hard", "spectral", "trace"), ("rows", "sequence", "vocabulary")
    ):
        terms.append((Orthogonality(mode, axis, normalise=axis == "rows"), SAME_FULL))
    terms.append((Orthogonality("hard", "rows"), SAME_LENGTH))
    return [pytest.param(term, x, id=f"{n}-{term.name}") for n, (term, x) in enumerate(terms)]


def inputs_for(values: list[np.ndarray]) -> dict[str, Any]:
    references = FULL_REFERENCES if values[0].ndim == 2 else TOKEN_REFERENCES
    if values is SAME_FULL or values is SAME_LENGTH:
        return {}
    return {"reference_logprobs": references, "mask": MASKS}


@pytest.mark.parametrize(("term", "values"), cases())
def test_gradients_equal_finite_differences(
    term: Callable[..., Returned], values: list[np.ndarray]
) -> None:
    logprobs = leaves(*values)
    data = data_for(logprobs, **inputs_for(values))
    loss, metrics = term(data, logprobs)
    assert loss.ndim == 0
    assert all(isinstance(value, float) for value in metrics.values())
    expected = finite_differences(lambda x: term(data, x)[0], logprobs)
    # Central differences with a step of 1e-6 are good to about 1e-9 here.
    np.testing.assert_allclose(gradient(loss, logprobs), expected, rtol=1e-6, atol=2e-8)


def value_of(term: Any, values: list[np.ndarray], **inputs: Any) -> float:
    logprobs = leaves(*values)
    return float(term(data_for(logprobs, **inputs), logprobs)[0].detach())


def test_values_equal_numpy() -> None:
    x, r = np.concatenate(TOKENS), np.concatenate(TOKEN_REFERENCES).astype(np.float32)
    p, q = np.concatenate(FULL), np.concatenate(FULL_REFERENCES).astype(np.float32)
    tokens, dists = (
        {"reference_logprobs": TOKEN_REFERENCES},
        {"reference_logprobs": FULL_REFERENCES},
    )
    d = x - r
    entropy = -(np.exp(p) * p).sum(-1)
    m = (np.exp(p) + np.exp(q)) / 2
    expected: list[tuple[Any, list[np.ndarray], dict[str, Any], float]] = [
        (L1(), TOKENS, {}, np.abs(x).sum()),
        (L1("probs", "mean"), TOKENS, {}, np.exp(x).mean()),
        (L2(center="mean", clip=0.3), TOKENS, {}, (np.clip(x - x.mean(), -0.3, 0.3) ** 2).sum()),
        (ElasticNet(0.25), TOKENS, {}, 0.25 * np.abs(x).sum() + 0.75 * (x**2).sum()),
        (OutputMagnitude(2.0), TOKENS, {}, (np.sqrt((x**2).mean()) - 2) ** 2),
        (Entropy(), FULL, {}, -entropy.mean()),
        (Entropy("penalty", reduction="sum"), FULL, {}, entropy.sum()),
        (SampledEntropy(), TOKENS, {}, x.mean()),
        (SampledEntropy("penalty"), TOKENS, {}, -x.mean()),
        (KL(), FULL, dists, (np.exp(p) * (p - q)).sum(-1).mean()),
        (KL(direction="reverse"), FULL, dists, (np.exp(q) * (q - p)).sum(-1).mean()),
        (
            JensenShannon(),
            FULL,
            dists,
            (np.exp(p) * (p - np.log(m)) + np.exp(q) * (q - np.log(m))).sum(-1).mean() / 2,
        ),
        (KLEstimate(estimator="k1"), TOKENS, tokens, d.mean()),
        (KLEstimate(estimator="k2", reduction="sum"), TOKENS, tokens, (d**2 / 2).sum()),
        (KLEstimate(), TOKENS, tokens, (np.exp(-d) - 1 + d).mean()),
        (Consistency("reference_logprobs"), TOKENS, tokens, (d**2).mean()),
        (Consistency("reference_logprobs", "l1", "sum"), TOKENS, tokens, np.abs(d).sum()),
        (
            Consistency("reference_logprobs", "kl"),
            FULL,
            dists,
            ((np.exp(p) * (p - q)).sum(-1) + (np.exp(q) * (q - p)).sum(-1)).mean() / 2,
        ),
        (
            Consistency("reference_logprobs", "cosine"),
            TOKENS,
            tokens,
            1 - x @ r / np.linalg.norm(x) / np.linalg.norm(r),
        ),
    ]
    for term, values, inputs, value in expected:
        assert value_of(term, values, **inputs) == pytest.approx(value, rel=1e-6), term


def test_golden_consistency_and_gradient_penalty() -> None:
    pair = {"original_logprobs": [[1.0, 1.0, 1.0]]}
    x = [np.array([1.0, 2.0, 3.0])]
    assert value_of(Consistency(), x, **pair) == pytest.approx(1.6666667)
    assert value_of(Consistency(metric="l1"), x, **pair) == pytest.approx(1)
    assert value_of(Consistency(metric="cosine"), x, **pair) == pytest.approx(0.0741799, abs=1e-7)
    assert value_of(GradientPenalty(squares), x) == pytest.approx(42.0333705)


def test_references_are_read_from_every_datum_and_are_constants() -> None:
    logprobs = leaves(*TOKENS)
    calls: list[int] = []

    def reference(data: Any) -> list[torch.Tensor]:
        calls.append(len(data))
        return [x * 1.0 for x in logprobs]  # with a graph of its own, which must not count

    loss, metrics = KLEstimate(reference, "k2")(data_for(logprobs), logprobs)
    assert float(loss.detach()) == 0
    assert calls == [2]
    assert metrics == {"k2_mean": 0, "k2_max": 0, "k2_min": 0}
    moved = [TOKENS[0], TOKENS[1] + 1.0]
    data = data_for(logprobs, reference_logprobs=moved)
    loss, _ = KLEstimate(estimator="k2", reduction="sum")(data, logprobs)
    assert float(loss.detach()) == pytest.approx(0.5 * 2, rel=1e-6)
    np.testing.assert_allclose(gradient(loss, logprobs), [0, 0, 0, -1, -1], atol=1e-6)


def test_a_mask_counts_only_what_it_marks() -> None:
    x = np.concatenate(TOKENS)[[1, 2, 3]]
    assert value_of(L1(mask="mask", reduction="mean"), TOKENS, mask=MASKS) == pytest.approx(
        np.abs(x).mean()
    )
    wide = [np.array([[0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]]), np.zeros((2, 4))]
    rows = np.concatenate([FULL[0][1:]])
    assert value_of(L1(mask="mask"), FULL, mask=wide) == pytest.approx(np.abs(rows).sum())


def all_samples(p: np.ndarray, count: int) -> list[tuple[float, list[int]]]:
    """Every sequence of so many tokens drawn from p, with its probability."""
    return [
        (float(np.prod(p[list(ids)])), list(ids))
        for ids in itertools.product(range(len(p)), repeat=count)
    ]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_score_function_gradient_of_sampled_entropy_is_unbiased(count: int) -> None:
    """Averaged over every sample of the model, it is the gradient of the exact entropy."""
    logits = torch.tensor([0.3, -1.1, 0.8], dtype=torch.float64, requires_grad=True)
    logprobs = logits.log_softmax(-1)
    exact = torch.autograd.grad(-(logprobs.exp() * logprobs).sum(), logits, retain_graph=True)[0]
    expected = torch.zeros(3, dtype=torch.float64)
    estimate = torch.zeros(3, dtype=torch.float64)
    for probability, ids in all_samples(logprobs.detach().exp().numpy(), count):
        x = [logprobs[ids]]
        loss, _ = SampledEntropy("penalty")(data_for(x), x)
        expected += probability * torch.autograd.grad(loss, logits, retain_graph=True)[0]
        plain, _ = SampledEntropy("penalty", gradient="estimator")(data_for(x), x)
        estimate += probability * torch.autograd.grad(plain, logits, retain_graph=True)[0]
    np.testing.assert_allclose(expected.numpy(), exact.numpy(), atol=1e-12)
    np.testing.assert_allclose(estimate.numpy(), 0, atol=1e-12)  # as its docstring says


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_the_score_function_gradient_of_every_kl_estimate_is_unbiased(estimator: Any) -> None:
    logits = torch.tensor([0.3, -1.1, 0.8], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-0.5, 0.2, 0.1], dtype=torch.float64).log_softmax(-1)
    logprobs = logits.log_softmax(-1)
    exact_kl = (logprobs.exp() * (logprobs - reference)).sum()
    exact = torch.autograd.grad(exact_kl, logits, retain_graph=True)[0]
    mean = torch.zeros(3, dtype=torch.float64)
    value = 0.0
    for probability, ids in all_samples(logprobs.detach().exp().numpy(), 2):
        x = [logprobs[ids]]
        term = KLEstimate(lambda data, ids=ids: [reference[ids]], estimator)
        loss, _ = term(data_for(x), x)
        value += probability * float(loss.detach())
        mean += probability * torch.autograd.grad(loss, logits, retain_graph=True)[0]
    np.testing.assert_allclose(mean.numpy(), exact.numpy(), atol=1e-12)
    if estimator != "k2":  # which is biased in value
        assert value == pytest.approx(float(exact_kl.detach()), abs=1e-12)


def test_the_interpolated_penalty_depends_on_seed_and_batch_alone() -> None:
    inputs = {"reference_logprobs": TOKEN_REFERENCES}
    term = GradientPenalty(cubes, "interpolated", seed=1)
    first = value_of(term, TOKENS, **inputs)
    assert value_of(term, TOKENS, **inputs) == first
    assert value_of(GradientPenalty(cubes, "interpolated", seed=2), TOKENS, **inputs) != first
    logprobs = leaves(*TOKENS)
    other = [
        datum(3, first=50, reference_logprobs=TOKEN_REFERENCES[0]),
        datum(2, reference_logprobs=TOKEN_REFERENCES[1]),
    ]
    assert float(term(other, logprobs)[0].detach()) != first


def test_the_penalty_of_a_linear_loss_is_a_constant() -> None:
    logprobs = leaves(TOKENS[0])
    loss, metrics = GradientPenalty(lambda d, x: (x[0].sum(), {}))(data_for(logprobs), logprobs)
    assert float(loss) == pytest.approx((np.sqrt(3) - 1) ** 2)
    assert not loss.requires_grad
    assert metrics["norm"] == pytest.approx(np.sqrt(3))


@pytest.mark.parametrize(
    ("term", "reduction"),
    [
        (L1(), "sum"),
        (L1(reduction="mean"), "mean"),
        (L2(center="mean"), "whole_batch"),
        (ElasticNet(), "sum"),
        (OutputMagnitude(), "whole_batch"),
        (Entropy(), "mean"),
        (SampledEntropy(), "whole_batch"),
        (SampledEntropy(gradient="estimator"), "mean"),
        (KL(reduction="sum"), "sum"),
        (KLEstimate(), "mean"),
        (JensenShannon(), "mean"),
        (Consistency(), "mean"),
        (Consistency(metric="cosine"), "whole_batch"),
        (GradientPenalty(squares), "whole_batch"),
        (Orthogonality(), "whole_batch"),
    ],
)
def test_terms_say_how_they_reduce_and_it_is_true(term: Any, reduction: str) -> None:
    """The two datums apart, put together as declared, make the batch."""
    assert Regularizer(term, 1.0).reduction == reduction
    if reduction == "whole_batch":
        return
    values = FULL if isinstance(term, (Entropy, KL, JensenShannon)) else TOKENS
    inputs = inputs_for(values) | {"original_logprobs": TOKEN_REFERENCES}
    parts = [
        value_of(term, [values[i]], **{name: [rows[i]] for name, rows in inputs.items()})
        for i in (0, 1)
    ]
    factors = (3 / 5, 2 / 5) if reduction == "mean" else (1, 1)
    whole = value_of(term, values, **inputs)
    assert factors[0] * parts[0] + factors[1] * parts[1] == pytest.approx(whole)


WRONG_SETTINGS: list[Callable[[], Any]] = [
    lambda: L1(target="logits"),  # type: ignore[arg-type]
    lambda: L1(reduction="none"),  # type: ignore[arg-type]
    lambda: L2(clip=0),
    lambda: L2(center="median"),  # type: ignore[arg-type]
    lambda: ElasticNet(1.5),
    lambda: OutputMagnitude(-1),
    lambda: Entropy("maximize"),  # type: ignore[arg-type]
    lambda: Entropy(temperature=0),
    lambda: SampledEntropy(gradient="exact"),  # type: ignore[arg-type]
    lambda: KL(direction="both"),  # type: ignore[arg-type]
    lambda: KLEstimate(estimator="k4"),  # type: ignore[arg-type]
    lambda: JensenShannon(reduction="max"),  # type: ignore[arg-type]
    lambda: Consistency(metric="l2"),  # type: ignore[arg-type]
    lambda: GradientPenalty(3),  # type: ignore[arg-type]
    lambda: GradientPenalty(squares, seed=-1),
    lambda: Orthogonality("strong"),  # type: ignore[arg-type]
    lambda: Orthogonality(axis="columns"),  # type: ignore[arg-type]
]
TWO = leaves(*TOKENS)
WIDE = leaves(*FULL)
WRONG_DATA: list[Callable[[], Any]] = [
    lambda: L1(mask="mask")(data_for(TWO), TWO),
    lambda: L1(mask="mask")(data_for(TWO, mask=[[1, 1], [1, 1]]), TWO),
    lambda: L1(mask="mask")(data_for(TWO, mask=[[0, 0, 0], [0, 0]]), TWO),
    lambda: Entropy()(data_for(TWO), TWO),
    lambda: KL()(data_for(WIDE), WIDE),
    lambda: KL()(data_for(WIDE, reference_logprobs=TOKENS), WIDE),
    lambda: KLEstimate(lambda data: [])(data_for(TWO), TWO),
    lambda: KLEstimate(lambda data: [[0.0], [0.0]])(data_for(TWO), TWO),
    lambda: GradientPenalty(lambda d, x: (1.0, {}))(data_for(TWO), TWO),
    lambda: Orthogonality()(data_for(TWO), TWO),
    lambda: Orthogonality()(data_for(TWO[:1]), TWO[:1]),
    lambda: Orthogonality(axis="vocabulary")(data_for(TWO), TWO),
]


def test_what_is_refused_says_what_is_allowed(golden: Callable[[str, Any], None]) -> None:
    messages: list[str] = []
    for make in WRONG_SETTINGS:
        with pytest.raises(ConfigError) as refused:
            make()
        messages.append(str(refused.value))
    for call in WRONG_DATA:
        with pytest.raises(DataError) as refused_data:
            call()
        messages.append(str(refused_data.value))
    golden("regularizer_term_errors.json", messages)
