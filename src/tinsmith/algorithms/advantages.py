r"""Advantages of rollouts within the group that answers one prompt. NumPy, float64.

Source: Shao et al. 2024 (GRPO, arXiv:2402.03300), section 4.1.2; without the division by the
standard deviation, which weighs easy and hard prompts more: Liu et al. 2025 (arXiv:2503.20783).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["group_centred", "group_standardised"]


def group_centred(rewards: ArrayLike) -> NDArray[np.float64]:
    r"""$A_i = r_i - \bar r$: how much better a rollout did than its group on average.

    Args:
        rewards: (G,), of one group.

    Example:
        >>> group_centred([1.0, 0.0, 0.0, 1.0]).tolist()
        [0.5, -0.5, -0.5, 0.5]
    """
    values = np.asarray(rewards, dtype=np.float64)
    # Equal rewards have no advantage at all, whatever their mean rounds to.
    return values - values.mean() if np.ptp(values) > 0 else np.zeros_like(values)


def group_standardised(rewards: ArrayLike) -> NDArray[np.float64]:
    r"""$A_i = (r_i - \bar r) / \sigma_r$ with the population's $\sigma$; 0 where all are equal.

    Args:
        rewards: (G,), of one group.

    Example:
        >>> group_standardised([3.0, 1.0]).tolist()
        [1.0, -1.0]
    """
    centred = group_centred(rewards)
    spread = np.sqrt(np.mean(centred**2))
    return centred / spread if spread > 0 else centred
