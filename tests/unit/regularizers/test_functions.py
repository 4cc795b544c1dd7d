"""The maths of the terms: golden values computed by hand, NumPy as second implementation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.unit.regularizers.support import gradient
from tinsmith.core.errors import DataError
from tinsmith.regularizers import functions as f


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


HALF = vector(*np.log([0.5, 0.25, 0.25]))
UNIFORM = vector(*np.log([1 / 3] * 3))
X = vector(1, -2, 3)
Y, ONES = vector(1, 2, 3), vector(1, 1, 1)
ROWS = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("loss", "x", "value", "norm"),
    [
        (f.l1(X), X, 6, 1.7320508),
        (f.l1(X, "mean"), X, 2, 0.5773503),
        (f.l2(X), X, 14, 7.4833148),
        (f.l2(X, "mean"), X, 4.6666667, 2.4944383),
        (f.elastic_net(X, 0.5), X, 10, 4.5552168),
        (f.l2(X, center="mean"), X, 12.6666667, 7.1180522),
        (f.l2(X, clip=2), X, 9, 4.4721360),
        (f.entropy(HALF), HALF, 1.0397208, 0.2054083),
        (f.kl_divergence(HALF, UNIFORM), HALF, 0.0588915, 0.7464969),
    ],
)
def test_the_golden_values_and_gradient_norms(
    loss: torch.Tensor, x: torch.Tensor, value: float, norm: float
) -> None:
    assert float(loss.detach()) == pytest.approx(value, abs=1e-7)
    assert np.linalg.norm(gradient(loss, [x])) == pytest.approx(norm, abs=1e-7)


@pytest.mark.parametrize(
    ("loss", "value"),
    [
        (f.entropy(HALF) / math.log(3), 0.9463946),
        (f.entropy(f.normalised_logprobs(HALF, 2.0)), 1.0843917),
        (f.kl_divergence(UNIFORM, HALF), 0.0566330),
        (f.symmetric_kl(HALF, UNIFORM), 0.0577623),
        (f.js_divergence(HALF, UNIFORM), 0.0143626),
        (f.cosine_distance(Y, ONES), 0.0741799),
        (f.orthogonality(ROWS, "soft"), 1),
        (f.orthogonality(ROWS, "hard"), 1),
        (f.orthogonality(ROWS, "trace"), 1),
        (f.orthogonality(ROWS, "soft", normalise=False), 2),
        (f.orthogonality(ROWS, "hard", normalise=False), 3),
        (f.orthogonality(ROWS, "trace", normalise=False), 3),
        # Spectral norm of [[0, c], [c, 0]] with c = cos 45 degrees, and of [[0, 1], [1, 1]].
        (f.orthogonality(ROWS, "spectral"), math.sqrt(0.5)),
        (f.orthogonality(ROWS, "spectral", normalise=False), (1 + math.sqrt(5)) / 2),
        (f.output_magnitude(Y, 1.0, "mean"), (math.sqrt(14 / 3) - 1) ** 2),
        (f.output_magnitude(Y, 1.0, "sum"), (math.sqrt(14) - 1) ** 2),
    ],
)
def test_the_golden_values(loss: torch.Tensor, value: float) -> None:
    assert float(loss.detach()) == pytest.approx(value, abs=1e-7)


def test_orthogonality_is_of_a_matrix() -> None:
    with pytest.raises(DataError, match=r"rows: of shape \(3,\), must be a matrix"):
        f.orthogonality(X, "soft")


def test_impossible_tokens_have_no_entropy_no_divergence_and_no_gradient() -> None:
    l_K = vector(math.log(0.5), math.log(0.5), -math.inf)
    reference = vector(math.log(0.25), math.log(0.75), -math.inf)
    entropy, kl = f.entropy(l_K), f.kl_divergence(l_K, reference)
    assert float(entropy.detach()) == pytest.approx(math.log(2))
    assert float(kl.detach()) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert gradient(entropy, [l_K])[2] == 0
    assert gradient(kl, [l_K])[2] == 0
    assert np.isfinite(gradient(f.js_divergence(l_K, reference), [l_K])).all()


def test_a_log_ratio_beyond_a_hundred_counts_as_a_hundred() -> None:
    p, q = vector(0.0, -1e4), vector(-1e4, 0.0)
    assert float(f.kl_divergence(p, q).detach()) == pytest.approx(100.0)


finite = st.floats(-20, 20, allow_nan=False)
arrays = hnp.arrays(np.float64, st.integers(1, 12), elements=finite)
scale = st.floats(0.1, 10)


@st.composite
def pairs_of_distributions(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    width = draw(st.integers(2, 8))
    logits = hnp.arrays(np.float64, width, elements=st.floats(-6, 6))
    p, q = (torch.from_numpy(draw(logits)).log_softmax(-1) for _ in range(2))
    return p, q


@given(arrays, scale)
def test_norms_are_positive_zero_at_zero_and_scale(x: np.ndarray, by: float) -> None:
    t = torch.from_numpy(x)
    assert float(f.l1(t)) == pytest.approx(np.abs(x).sum())
    assert float(f.l1(by * t)) == pytest.approx(by * float(f.l1(t)))
    assert float(f.l2(by * t)) == pytest.approx(by**2 * float(f.l2(t)))
    assert float(f.l1(0 * t)) == float(f.l2(0 * t)) == 0
    assert float(f.l2(t, "mean")) == pytest.approx(np.mean(x**2))
    assert float(f.l2(t, center="mean")) == pytest.approx(len(x) * np.var(x), abs=1e-8)


@given(arrays, arrays)
def test_l1_obeys_the_triangle_inequality(x: np.ndarray, y: np.ndarray) -> None:
    size = min(len(x), len(y))
    a, b = torch.from_numpy(x[:size]), torch.from_numpy(y[:size])
    assert float(f.l1(a + b)) <= float(f.l1(a)) + float(f.l1(b)) + 1e-9


@given(arrays, st.floats(0, 1))
def test_the_elastic_net_lies_between_its_ends(x: np.ndarray, ratio: float) -> None:
    t = torch.from_numpy(x)
    ends = float(f.l1(t)), float(f.l2(t))
    assert float(f.elastic_net(t, 1.0)) == pytest.approx(ends[0])
    assert float(f.elastic_net(t, 0.0)) == pytest.approx(ends[1])
    assert min(ends) - 1e-9 <= float(f.elastic_net(t, ratio)) <= max(ends) + 1e-9


@given(pairs_of_distributions())
def test_divergences_are_positive_zero_on_identity_and_bounded(
    pair: tuple[torch.Tensor, torch.Tensor],
) -> None:
    p, q = pair
    kl = float(f.kl_divergence(p, q))
    assert kl == pytest.approx(float((p.exp() * (p - q)).sum()), abs=1e-8)
    assert kl >= -1e-12
    assert float(f.kl_divergence(p, p)) == 0
    js = float(f.js_divergence(p, q))
    assert js == pytest.approx(float(f.js_divergence(q, p)), abs=1e-12)
    assert -1e-12 <= js <= math.log(2) + 1e-12
    assert float(f.symmetric_kl(p, q)) == pytest.approx(float(f.symmetric_kl(q, p)))


def test_kl_is_not_symmetric() -> None:
    assert float(f.kl_divergence(HALF, UNIFORM).detach()) != pytest.approx(
        float(f.kl_divergence(UNIFORM, HALF).detach()), abs=1e-3
    )


@given(pairs_of_distributions())
def test_entropy_is_at_most_that_of_the_uniform(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    p, _ = pair
    uniform = torch.full_like(p, -math.log(len(p)))
    assert 0 <= float(f.entropy(p)) <= math.log(len(p)) + 1e-12
    assert float(f.entropy(uniform)) == pytest.approx(math.log(len(p)))


@given(arrays, scale)
def test_cosine_distance_forgets_length(x: np.ndarray, by: float) -> None:
    t = torch.from_numpy(x)
    distance = float(f.cosine_distance(t, t.roll(1)))
    assert -1e-9 <= distance <= 2 + 1e-9
    if np.linalg.norm(x) > 1e-3:
        assert float(f.cosine_distance(by * t, t.roll(1))) == pytest.approx(distance, abs=1e-9)
        assert float(f.cosine_distance(t, t)) == pytest.approx(0, abs=1e-9)


@given(st.integers(2, 5), st.integers(0, 1000))
def test_orthonormal_rows_cost_nothing(size: int, seed: int) -> None:
    matrix = np.random.default_rng(seed).normal(size=(size, size + 1))
    rows = torch.from_numpy(np.linalg.qr(matrix.T)[0].T.copy())
    for mode in ("soft", "hard", "spectral", "trace"):
        assert float(f.orthogonality(rows, mode)) == pytest.approx(0, abs=1e-12)
    other = torch.from_numpy(matrix)
    gram = matrix @ matrix.T
    assert float(f.orthogonality(other, "hard", normalise=False)) == pytest.approx(
        np.linalg.norm(gram - np.eye(size)) ** 2
    )
    assert float(f.orthogonality(other, "spectral", normalise=False)) == pytest.approx(
        np.linalg.norm(gram - np.eye(size), 2)
    )
