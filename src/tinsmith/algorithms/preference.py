r"""Preference losses: functions of the log-probabilities of better and worse answers.

Direct preference optimization takes $\beta \log \pi(y|x) / \pi_\text{ref}(y|x)$ as the reward of an
answer and fits the Bradley-Terry model of a choice between two of them. Main names: `dpo`,
`answer_logprobs`.

Shapes: P pairs, N tokens of an example.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import logsigmoid

__all__ = ["DPO", "answer_logprobs", "dpo"]


class DPO(NamedTuple):
    """What `dpo` finds of every pair.

    Attributes:
        losses: (P,), in nats.
        chosen_rewards: (P,), of the better answers.
        rejected_rewards: (P,), of the worse ones.
    """

    losses: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor

    @property
    def margins(self) -> Tensor:
        """(P,), how much better the better answer does."""
        return self.chosen_rewards - self.rejected_rewards


def dpo(
    chosen_log_ratios: Tensor,
    rejected_log_ratios: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> DPO:
    r"""The DPO loss of every pair, from log-ratios of policy and reference.

    With margin $m = \beta (r_c - r_r)$ and smoothing $\epsilon$:
    $L = -(1 - \epsilon) \log \sigma(m) - \epsilon \log \sigma(-m)$.

    Args:
        chosen_log_ratios: (P,), log of policy by reference, of the better answers.
        rejected_log_ratios: (P,), the same of the worse ones.
        beta: How dear it is to leave the reference.
        label_smoothing: Probability that a label is wrong, below 0.5.

    Example:
        >>> import torch
        >>> same = torch.zeros(1, dtype=torch.float64)
        >>> round(dpo(same, same, beta=0.1).losses.item(), 6)  # log 2
        0.693147

    Source: Rafailov et al. 2023 (arXiv:2305.18290), eq. 7; smoothing: Mitchell, "A note on DPO with
    noisy preferences", 2023, as in Chowdhury et al. 2024 (arXiv:2403.00409), eq. 8.
    """
    chosen_rewards, rejected_rewards = beta * chosen_log_ratios, beta * rejected_log_ratios
    margins = chosen_rewards - rejected_rewards
    losses = -(1 - label_smoothing) * logsigmoid(margins) - label_smoothing * logsigmoid(-margins)
    return DPO(losses, chosen_rewards, rejected_rewards)


def answer_logprobs(
    logprobs: Tensor, weights: Tensor, *, is_length_normalised: bool = False
) -> Tensor:
    r"""Log-probability of an answer, a scalar in float64: the sum over its tokens, or their mean.

    The mean makes long answers weigh as much as short ones: length-normalised DPO, as in Tülu 3
    (Lambert et al. 2024, arXiv:2411.15124), eq. 6.

    Args:
        logprobs: (N,), of an example's targets.
        weights: (N,), not 0 where a target belongs to the answer.
        is_length_normalised: Whether to take the mean.
    """
    answer = logprobs.double()[weights != 0]
    return answer.mean() if is_length_normalised else answer.sum()
