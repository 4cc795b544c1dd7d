"""Combines the outputs of the chunks of one forward_backward: pure functions.

A metric's name says how its chunks are reduced: `name:reduction`. Main names: `combine_outputs`,
`combine_metrics`, `REDUCTIONS`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

from tinsmith.core.errors import ServerError
from tinsmith.types import ForwardBackwardOutput

logger = logging.getLogger(__name__)

Reduction = Callable[[Sequence[float], Sequence[float]], float]
"""(a value of each chunk, the number of outputs of each chunk) -> the value of the whole."""


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    total = sum(weights)
    if not total:  # no outputs anywhere: the weights say nothing
        return sum(values) / len(values)
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / total


def _sum(values: Sequence[float], weights: Sequence[float]) -> float:
    return sum(values)


def _min(values: Sequence[float], weights: Sequence[float]) -> float:
    return min(values)


def _max(values: Sequence[float], weights: Sequence[float]) -> float:
    return max(values)


def _slack(values: Sequence[float], weights: Sequence[float]) -> float:
    return max(values) - _mean(values, weights)


def _hash2(values: Sequence[float], weights: Sequence[float]) -> float:
    mask = (1 << 64) - 1
    return sum(int(value) & mask for value in values) & mask


def _hash_unordered(values: Sequence[float], weights: Sequence[float]) -> float:
    """The same for any order of chunks, in any interpreter; 53 bits, so that a float holds it."""
    text = ",".join(str(value) for value in sorted(int(value) for value in values))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 11


REDUCTIONS: Mapping[str, Reduction] = {
    "mean": _mean,
    "sum": _sum,
    "min": _min,
    "max": _max,
    "slack": _slack,
    "hash2": _hash2,
    "hash_unordered": _hash_unordered,
}
"""Every reduction with one result; `unique` keeps all values and is handled apart."""

_KNOWN = ", ".join(sorted({*REDUCTIONS, "unique"}))


def combine_outputs(outputs: Sequence[ForwardBackwardOutput]) -> ForwardBackwardOutput:
    """One output for the whole call: datums in chunk order, metrics reduced by their names.

    Raises:
        ServerError: a metric's name does not say how to reduce it.
    """
    return ForwardBackwardOutput(
        loss_fn_output_type=outputs[0].loss_fn_output_type,
        loss_fn_outputs=list(chain.from_iterable(output.loss_fn_outputs for output in outputs)),
        metrics=combine_metrics(
            [output.metrics for output in outputs],
            [len(output.loss_fn_outputs) for output in outputs],
        ),
    )


def combine_metrics(
    metrics: Sequence[Mapping[str, float]], weights: Sequence[float]
) -> dict[str, float]:
    """Reduce the metrics of the chunks; applied to a single chunk too.

    The names are those of the first chunk; a metric that another chunk lacks has no value for the
    whole and is left out.

    Args:
        metrics: of each chunk.
        weights: number of outputs of each chunk, the weights of `mean` and `slack`.
    """
    combined: dict[str, float] = {}
    for name in metrics[0]:
        reduction = _reduction_of(name)
        if not all(name in chunk for chunk in metrics):
            logger.debug("metric=%s is missing from some chunks and was left out", name)
            continue
        values = [chunk[name] for chunk in metrics]
        if reduction is None:
            combined |= {f"{name}_{i}" if i else name: value for i, value in enumerate(values)}
        else:
            combined[name] = reduction(values, weights)
    return combined


def _reduction_of(name: str) -> Reduction | None:
    """The reduction a metric's name asks for; None for `unique`."""
    base, colon, suffix = name.partition(":")
    if not base or not colon or ":" in suffix:
        raise ServerError(
            f"metric={name!r}: the service sent a name that is not name:reduction, so the values "
            "of its chunks cannot be combined",
            hint=f"the reduction is one of {_KNOWN}",
        )
    if suffix == "unique":
        return None
    if suffix not in REDUCTIONS:
        raise ServerError(
            f"metric={name!r}: the service asks for the unknown reduction {suffix!r}",
            hint=f"known are {_KNOWN}; a newer client may know it",
        )
    return REDUCTIONS[suffix]
