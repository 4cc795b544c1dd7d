r"""Estimators of $\mathrm{KL}(p \| q)$ from tokens that were sampled from $p$. NumPy, float64.

With $d = \log p - \log q$ of each sampled token. All three are estimates: what they are of is the
divergence of the two models on what $p$ says, and none sees the tokens that were not drawn.

Source: Schulman, "Approximating KL divergence", 2020.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["kl_k1", "kl_k2", "kl_k3"]


def kl_k1(logprobs_p: ArrayLike, logprobs_q: ArrayLike) -> NDArray[np.float64]:
    """$d$: unbiased and noisy; may be negative.

    Args:
        logprobs_p: (N,), of the tokens under the model that they were sampled from.
        logprobs_q: (N,), under the other.
    """
    return np.asarray(logprobs_p, np.float64) - np.asarray(logprobs_q, np.float64)


def kl_k2(logprobs_p: ArrayLike, logprobs_q: ArrayLike) -> NDArray[np.float64]:
    """$d^2 / 2$: biased and calm; right where the models are near. Arguments as in `kl_k1`."""
    return 0.5 * kl_k1(logprobs_p, logprobs_q) ** 2


def kl_k3(logprobs_p: ArrayLike, logprobs_q: ArrayLike) -> NDArray[np.float64]:
    r"""$e^{-d} - 1 + d$: unbiased, calm and never negative. Arguments as in `kl_k1`.

    Example:
        >>> kl_k3([-1.0], [-1.0]).tolist()
        [0.0]
    """
    d = kl_k1(logprobs_p, logprobs_q)
    return np.expm1(-d) + d
