"""The maths of the built-in terms: pure functions of torch tensors, returning a scalar.

`x` is any tensor; `l`, `p_log` and `q_log` are natural log-probabilities with a distribution along
the last axis. Formulas follow the library nx_penalties 0.1.2, where nothing else is said. Gradients
are exact, also where a guard is at work: a term that is left out has gradient 0, never NaN.
"""

from __future__ import annotations

import math
from typing import Literal

import torch

from tinsmith.core.errors import DataError

__all__ = [
    "cosine_distance",
    "elastic_net",
    "entropy",
    "js_divergence",
    "kl_divergence",
    "l1",
    "l2",
    "normalised_logprobs",
    "orthogonality",
    "output_magnitude",
    "reduce",
    "symmetric_kl",
]

Reduced = Literal["sum", "mean"]
OrthogonalityMode = Literal["soft", "hard", "spectral", "trace"]

MIN_LOGPROB = -50.0
"""A term `p * log p` with less than this is 0."""
MIN_PROB = 1e-10
MAX_LOG_RATIO = 100.0
MIN_NORM = 1e-8


def reduce(values: torch.Tensor, reduction: Reduced) -> torch.Tensor:
    """Sum or mean of all values."""
    return values.sum() if reduction == "sum" else values.mean()


def l1(x: torch.Tensor, reduction: Reduced = "sum") -> torch.Tensor:
    """`sum |x|`, or its mean."""
    return reduce(x.abs(), reduction)


def l2(
    x: torch.Tensor,
    reduction: Reduced = "sum",
    *,
    center: float | Literal["mean"] | None = None,
    clip: float | None = None,
) -> torch.Tensor:
    """`sum x^2`, or its mean, of x less its centre, clipped to `[-clip, clip]` after that."""
    if center is not None:
        x = x - (x.mean() if center == "mean" else center)
    if clip is not None:
        x = x.clamp(-clip, clip)
    return reduce(x.square(), reduction)


def elastic_net(x: torch.Tensor, l1_ratio: float, reduction: Reduced = "sum") -> torch.Tensor:
    """`a * L1 + (1 - a) * L2` with `a = l1_ratio`."""
    return l1_ratio * l1(x, reduction) + (1.0 - l1_ratio) * l2(x, reduction)


def output_magnitude(x: torch.Tensor, target: float, reduction: Reduced) -> torch.Tensor:
    """`(root(mean x^2) - target)^2`; with "sum" the root of the sum of squares."""
    scale = math.sqrt(x.numel()) if reduction == "mean" else 1.0
    return (torch.linalg.vector_norm(x) / scale - target).square()


def normalised_logprobs(l: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:  # noqa: E741
    """`l / temperature`, made to sum to probability 1 again."""
    return (l / temperature).log_softmax(-1)


def entropy(l: torch.Tensor) -> torch.Tensor:  # noqa: E741
    """`-sum_k p_k l_k` in nats, one value a distribution; at least one less than `l`'s axes."""
    is_in = l > MIN_LOGPROB
    inside = torch.where(is_in, l, 0.0)
    return -torch.where(is_in, inside.exp() * inside, 0.0).sum(-1)


def kl_divergence(p_log: torch.Tensor, q_log: torch.Tensor) -> torch.Tensor:
    """`sum_k p_k (log p_k - log q_k)` in nats, one value a distribution.

    A log ratio beyond 100 counts as 100; a `p_k` of 1e-10 or less counts as 0.
    """
    is_in = p_log > math.log(MIN_PROB)
    inside = torch.where(is_in, p_log, 0.0)
    ratio = (inside - q_log).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return torch.where(is_in, inside.exp() * torch.where(is_in, ratio, 0.0), 0.0).sum(-1)


def symmetric_kl(p_log: torch.Tensor, q_log: torch.Tensor) -> torch.Tensor:
    """Half of the sum of both directions."""
    return 0.5 * (kl_divergence(p_log, q_log) + kl_divergence(q_log, p_log))


def js_divergence(p_log: torch.Tensor, q_log: torch.Tensor) -> torch.Tensor:
    """Half of `KL(P, M) + KL(Q, M)` with `M = (P + Q) / 2`; between 0 and ln 2."""
    m_log = (0.5 * (p_log.exp() + q_log.exp())).clamp_min(MIN_PROB).log()
    return 0.5 * (kl_divergence(p_log, m_log) + kl_divergence(q_log, m_log))


def cosine_distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """`1 - cos(x, y)` of the flattened tensors; each norm counts as 1e-8 at least."""
    norms = (torch.linalg.vector_norm(v).clamp_min(MIN_NORM) for v in (x, y))
    return 1.0 - (x.flatten() @ y.flatten()) / math.prod(norms)


def orthogonality(
    rows: torch.Tensor, mode: OrthogonalityMode, *, normalise: bool = True
) -> torch.Tensor:
    """How far the rows of a matrix (n, d) are from orthogonal, by their Gram matrix `G = M M^T`.

    "soft": sum of the squares off the diagonal. "hard": `||G - I||_F^2`. "spectral": the spectral
    norm of `G - I`, its largest eigenvalue in size. "trace": `(trace G - n)^2` and the squares off
    the diagonal, which other libraries call spectral.

    Source of "spectral": Bansal, Chen and Wang, "Can We Gain More from Orthogonality",
    arXiv:1810.09102.
    """
    if rows.ndim != 2:
        raise DataError(f"rows: of shape {tuple(rows.shape)}, must be a matrix")
    if normalise:
        rows = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(MIN_NORM)
    gram = rows @ rows.T
    identity = torch.eye(len(gram), dtype=gram.dtype)
    if mode == "hard":
        return (gram - identity).square().sum()
    if mode == "spectral":
        return torch.linalg.eigvalsh(gram - identity).abs().max()
    off_diagonal = (gram * (1.0 - identity)).square().sum()
    if mode == "soft":
        return off_diagonal
    return (gram.trace() - len(gram)).square() + off_diagonal
