"""One term of a composed loss: what it sees, how it is called, and how it failed.

Main names: `Seen`, `seen_by`, `job_call`, `failure_of`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tinsmith.core.errors import TinsmithError
from tinsmith.regularizers.distributions import Distributions, Width
from tinsmith.regularizers.errors import RegularizerError, RegularizerTimeoutError
from tinsmith.regularizers.execution import Stop, TimedOut, call_and_wait
from tinsmith.regularizers.results import checked_result
from tinsmith.regularizers.specs import Regularizer
from tinsmith.types import Datum

if TYPE_CHECKING:
    import torch

__all__ = ["Seen", "failure_of", "job_call", "reason_of", "seen_by"]


class Seen(NamedTuple):
    """The arguments of a term."""

    data: list[Datum]
    logprobs: list[torch.Tensor]


def seen_by(
    terms: Sequence[Regularizer], chosen: Seen, distributions: Distributions | None
) -> list[Seen]:
    """What each term is called with: chosen tokens, or the distributions that it asked for.

    Terms of one width share the datums and tensors.
    """
    by_width: dict[Width | None, Seen] = {None: chosen}
    for term in terms:
        width = term.distribution
        if width not in by_width:
            assert width is not None
            assert distributions is not None, "whoever calls has asked for what the terms need"
            narrowed = distributions.narrowed(width)
            by_width[width] = Seen(narrowed.seen_in(chosen.data), list(narrowed.logprobs))
    return [by_width[term.distribution] for term in terms]


def job_call(term: Regularizer, seen: Seen) -> Any:
    """What a term's thread does; gives ((loss, metrics), datums left out)."""

    def whole(stop: Stop) -> Any:
        return _evaluated(term, seen, stop), ()

    def partial(stop: Stop) -> Any:
        try:
            return whole(stop)
        except Exception as error:  # noqa: BLE001 - the policy is to go on; raised if nothing works
            return _datum_by_datum(term, seen, (stop, error))

    return partial if term.on_error == "partial" else whole


def _evaluated(term: Regularizer, seen: Seen, stop: Stop) -> tuple[torch.Tensor, dict[str, float]]:
    import torch

    data, logprobs = seen

    if term.run_in == "process":
        from tinsmith.regularizers.processes import call_in_process

        return call_in_process(term.call, data, logprobs, stop)
    with torch.enable_grad():
        return checked_result(call_and_wait(lambda: term.call(data, list(logprobs)), stop))


def _datum_by_datum(term: Regularizer, seen: Seen, failed: tuple[Stop, Exception]) -> Any:
    """The term of each datum alone, combined as its reduction says; those that fail are left out.

    Raises:
        Exception: that of the whole batch, if no datum works.
    """
    stop, error = failed
    losses: list[tuple[int, torch.Tensor, dict[str, float]]] = []
    left_out: list[int] = []
    for index, (datum, tensor) in enumerate(zip(*seen, strict=True)):
        try:
            loss, custom = _evaluated(term, Seen([datum], [tensor]), stop)
        except Exception:  # noqa: BLE001 - a datum that fails is left out, and listed
            left_out.append(index)
        else:
            losses.append((tensor.numel(), loss, custom))
    if not losses:
        raise error
    count = sum(size for size, _, _ in losses)
    factors = [size / count if term.reduction == "mean" else 1.0 for size, _, _ in losses]
    summands = [factor * loss for factor, (_, loss, _) in zip(factors, losses, strict=True)]
    custom = {"num_datums": float(len(losses)), "num_datums_left_out": float(len(left_out))}
    return (sum(summands[1:], summands[0]), custom), tuple(left_out)


def failure_of(term: Regularizer, error: BaseException) -> RegularizerError:
    """The error of a term, under the term's name."""
    place = f"regularizers[{term.name!r}]"
    if isinstance(error, RegularizerError):
        return error
    if isinstance(error, TimedOut):
        return RegularizerTimeoutError(
            f"{place}: took longer than timeout_s={term.timeout_s:g}",
            name=term.name,
            hint="raise timeout_s, make it faster, or set on_error='skip'",
        )
    text = error.message if isinstance(error, TinsmithError) else reason_of(error)
    hint = error.hint if isinstance(error, TinsmithError) else None
    return RegularizerError(f"{place}: {text}", name=term.name, hint=hint)


def reason_of(error: BaseException) -> str:
    """What an event says of an error: our own message, or the kind and text of another's."""
    if isinstance(error, TinsmithError):
        return error.message
    return f"{type(error).__name__}: {error}"
