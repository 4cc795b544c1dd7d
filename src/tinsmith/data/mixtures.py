"""Mixtures: several sources drawn from by weight, in an order that a seed fixes.

`mixture_order` is `datasets.interleave_datasets` with probabilities, index for index; the sources
are split before they are mixed, so that no held-out row can come in through another source.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from tinsmith.core.errors import ConfigError

StopWhen = Literal["first_exhausted", "all_exhausted"]
_DRAWS_AT_ONCE = 1000


class Draw(NamedTuple):
    """One row of a mixture."""

    source: int
    row: int


def mixture_order(
    lengths: Sequence[int],
    weights: Sequence[float],
    seed: int,
    stop_when: StopWhen = "first_exhausted",
) -> list[Draw]:
    """Rows of a mixture in order; every source gives its rows in its own order.

    Args:
        lengths: Rows of each source.
        weights: How often each source is drawn from, in relation to the others.
        seed: Seed of the draws.
        stop_when: `first_exhausted` ends when any source has given its last row, so that no row
            comes twice; `all_exhausted` when every source has, and shorter ones start over.

    Raises:
        ConfigError: No source, an empty one, or a weight that is not above 0.
    """
    _check(lengths, weights)
    probabilities = np.asarray(weights, dtype=np.float64) / np.sum(weights, dtype=np.float64)
    rng = np.random.default_rng(seed)
    has_ended = [False] * len(lengths)
    next_row = [0] * len(lengths)
    is_over = any if stop_when == "first_exhausted" else all
    order: list[Draw] = []
    while True:
        for source in rng.choice(len(lengths), size=_DRAWS_AT_ONCE, p=probabilities).tolist():
            if is_over(has_ended):
                return order
            order.append(Draw(source, next_row[source]))
            next_row[source] += 1
            if next_row[source] == lengths[source]:
                has_ended[source], next_row[source] = True, 0


def _check(lengths: Sequence[int], weights: Sequence[float]) -> None:
    if not lengths or len(lengths) != len(weights):
        raise ConfigError(
            f"weights: {len(weights)} for {len(lengths)} sources; one a source is needed",
            field="weights",
        )
    for place, (length, weight) in enumerate(zip(lengths, weights, strict=True)):
        if length < 1:
            raise ConfigError(f"sources[{place}] is empty", field="sources", hint="leave it out")
        if not 0 < weight < float("inf"):
            raise ConfigError(
                f"sources[{place}].weight={weight}: must be above 0",
                field="weight",
                hint="leave a source out to give it no weight",
            )
