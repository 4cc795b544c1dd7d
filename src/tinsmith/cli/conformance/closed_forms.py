"""The losses of the protocol in float64, with their derivatives, from returned logprobs.

Written from the formulas of the protocol's documentation, and independent of the engine's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLOSED_FORMS", "ClosedForm", "Terms"]

Array = NDArray[np.float64]
Inputs = Mapping[str, Array]
Config = Mapping[str, float]


class Terms(NamedTuple):
    """What a loss is made of, one entry a token."""

    losses: Array
    weights: Array
    """-dloss/dlogprob: cross_entropy with these weights has the same gradient."""


ClosedForm = Callable[[Array, Inputs, Config], Terms]


def _cross_entropy(lp: Array, inputs: Inputs, config: Config) -> Terms:
    del config
    return Terms(-inputs["weights"] * lp, inputs["weights"])


def _importance_sampling(lp: Array, inputs: Inputs, config: Config) -> Terms:
    del config
    gain = np.exp(lp - inputs["logprobs"]) * inputs["advantages"]
    return Terms(-gain, gain)


def _ppo(lp: Array, inputs: Inputs, config: Config) -> Terms:
    return _clipped(np.exp(lp - inputs["logprobs"]), inputs["advantages"], config)


def _clipped(ratio: Array, advantages: Array, config: Config) -> Terms:
    bounded = np.clip(ratio, config["clip_low_threshold"], config["clip_high_threshold"])
    plain, clipped = ratio * advantages, bounded * advantages
    return Terms(-np.minimum(plain, clipped), np.where(plain <= clipped, plain, 0.0))


def _cispo(lp: Array, inputs: Inputs, config: Config) -> Terms:
    ratio = np.exp(lp - inputs["logprobs"])
    bounded = np.clip(ratio, config["clip_low_threshold"], config["clip_high_threshold"])
    weights = bounded * inputs["advantages"]
    return Terms(-weights * lp, weights)


def _dro(lp: Array, inputs: Inputs, config: Config) -> Terms:
    gap = lp - inputs["logprobs"]
    losses = -(lp * inputs["advantages"] - 0.5 * config["beta"] * gap**2)
    return Terms(losses, inputs["advantages"] - config["beta"] * gap)


def _gspo(lp: Array, inputs: Inputs, config: Config) -> Terms:
    marked = inputs["sequence_ratio_mask"] != 0
    ratio = np.full_like(lp, np.exp((lp - inputs["logprobs"])[marked].mean()))
    return _clipped(ratio, inputs["advantages"], config)


CLOSED_FORMS: dict[str, ClosedForm] = {
    "cross_entropy": _cross_entropy,
    "importance_sampling": _importance_sampling,
    "ppo": _ppo,
    "cispo": _cispo,
    "dro": _dro,
    "gspo": _gspo,
}
