"""What a regularizer is: a function, a weight and a name, checked before any request is sent.

Main names: `Regularizer`, `checked_regularizers`, `ablations`.
"""

from __future__ import annotations

import inspect
import math
import pickle
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from tinsmith.core.errors import ConfigError
from tinsmith.regularizers.adaptive import AdaptiveWeight
from tinsmith.regularizers.schedules import WeightSchedule
from tinsmith.types import Datum

if TYPE_CHECKING:
    import torch

    LossAndMetrics = tuple[torch.Tensor, Mapping[str, float]]
    RegularizerFn = Callable[
        [list[Datum], list[torch.Tensor]], LossAndMetrics | Awaitable[LossAndMetrics]
    ]
    """(data, logprobs of each datum's targets) -> (loss, metrics); may be a coroutine function."""
else:
    LossAndMetrics = tuple
    RegularizerFn = Callable[..., Any]

__all__ = [
    "MAX_REGULARIZERS",
    "MAX_TIMEOUT_S",
    "LossAndMetrics",
    "Regularizer",
    "RegularizerFn",
    "ablations",
    "checked_regularizers",
]

Reduction = Literal["sum", "mean", "whole_batch"]
OnError = Literal["fail", "skip", "partial"]
OnNan = Literal["fail", "skip"]
RunIn = Literal["thread", "process"]

MAX_REGULARIZERS = 100
MAX_TIMEOUT_S = 300.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Regularizer:
    """A term of a loss: `weight * fn(data, logprobs)` is added to it.

    Attributes:
        fn: `(data, logprobs) -> (loss, metrics)` with one tensor of logprobs for each datum, in the
            shape of its targets: a function, a coroutine function, or an object with such a method
            `compute`. For one tensor of all datums see `packed`.
        weight: Finite, 0 or more. At 0 the value and its metrics are still computed.
        name: Of its metrics and output; letters, digits, `_`, `.`, `-`. Built-in terms have one,
            functions their own.
        schedule: Factor of the weight by step or epoch.
        state: Rule that adapts the weight, once an optimizer step.
        enabled: False leaves the term out and keeps its state.
        reduction: How its values over parts of a batch make that of the batch: "sum", "mean"
            (weighted by targets), or "whole_batch" if they do not. Built-in terms know; a function
            of your own is taken to need the whole batch unless you say so.
        on_error: If it raises or takes too long: "fail" the call; "skip" the term and list it in
            the output; "partial": try each datum alone and leave out those that fail.
        on_nan: If its value or gradient is not finite: "fail" or "skip".
        timeout_s: Longest time, up to 300 s.
        run_in: "thread", or "process" for functions in pure Python that would hold up the others;
            such a function must be importable, and one process is kept for it between calls.
        distribution: "full" or a number K: it sees the logprobs of the whole vocabulary, (N, V), or
            of the K likeliest tokens of each position, (N, K), as if these were the targets; needs
            a service with the extension `retained_forward`. None: those of the targets.

    Raises:
        ConfigError: a field is not allowed.

    Example:
        >>> Regularizer(lambda data, logprobs: (logprobs[0].abs().sum(), {}), 0.01, "l1").reduction
        'whole_batch'
    """

    fn: Any
    weight: float
    name: str = ""
    schedule: WeightSchedule | None = None
    state: AdaptiveWeight | None = None
    enabled: bool = True
    reduction: Reduction | None = None
    on_error: OnError = "fail"
    on_nan: OnNan = "fail"
    timeout_s: float = 30.0
    run_in: RunIn = "thread"
    distribution: int | Literal["full"] | None = None

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", _own_name(self.fn))
        _check_name(self.name)
        _check_fn(self)
        _check_numbers(self)
        if self.reduction is None:
            object.__setattr__(
                self, "reduction", getattr(self.fn, "batch_reduction", "whole_batch")
            )
        if self.distribution is None:
            object.__setattr__(self, "distribution", getattr(self.fn, "distribution", None))
        _check_choices(self)
        _check_distribution(self)
        if self.run_in == "process":
            _check_importable(self)

    @property
    def call(self) -> RegularizerFn:
        """The function itself."""
        return getattr(self.fn, "compute", self.fn)


def checked_regularizers(regularizers: Iterable[object] | None) -> tuple[Regularizer, ...]:
    """The terms of one call, in order.

    Raises:
        ConfigError: one is no `Regularizer`, two have one name, or there are too many.
    """
    terms = tuple(regularizers or ())
    for index, term in enumerate(terms):
        if not isinstance(term, Regularizer):
            raise ConfigError(
                f"regularizers[{index}]: a {type(term).__name__}, must be a Regularizer",
                field=f"regularizers[{index}]",
                hint="wrap the function: Regularizer(fn, weight=0.01, name='l1')",
            )
    checked = cast("tuple[Regularizer, ...]", terms)
    if len(checked) > MAX_REGULARIZERS:
        raise ConfigError(
            f"regularizers: {len(checked)} of them, at most {MAX_REGULARIZERS} are allowed",
            field="regularizers",
        )
    seen: set[str] = set()
    for term in checked:
        if term.name in seen:
            raise ConfigError(
                f"regularizers: two are named {term.name!r}",
                field="regularizers",
                hint="give each a name of its own",
            )
        seen.add(term.name)
    return checked


def ablations(regularizers: Sequence[Regularizer]) -> dict[str, list[Regularizer]]:
    """The same terms with each enabled one switched off in turn, by the name of the one missing.

    The key "" holds them as they are, to compare with.

    Example:
        >>> fn = lambda data, logprobs: (logprobs[0].sum(), {})
        >>> terms = [Regularizer(fn, 1.0, "a"), Regularizer(fn, 1.0, "b")]
        >>> {off: [t.enabled for t in kept] for off, kept in ablations(terms).items()}
        {'': [True, True], 'a': [False, True], 'b': [True, False]}
    """
    return {"": list(regularizers)} | {
        off.name: [replace(term, enabled=term.enabled and term is not off) for term in regularizers]
        for off in regularizers
        if off.enabled
    }


def accepts(fn: Callable[..., object], num_arguments: int) -> bool:
    """Whether a function can be called with so many positional arguments."""
    try:
        inspect.signature(fn).bind(*[None] * num_arguments)
    except TypeError:
        return False
    except ValueError:  # a function in C that does not tell
        return True
    return True


def _own_name(fn: object) -> str:
    name = getattr(fn, "name", None) or getattr(fn, "__name__", "")
    return name if isinstance(name, str) and name != "<lambda>" else ""


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"name={name!r}: must be letters, digits, '_', '.' and '-'",
            field="name",
            hint="it names the term in metrics, as in reg/l1_sparsity/value",
        )


def _check_fn(term: Regularizer) -> None:
    fn = getattr(term.fn, "compute", term.fn)
    if not callable(fn):
        raise _refused(
            term, "fn", f"a {type(term.fn).__name__}", "a function, or an object with compute()"
        )
    if not accepts(fn, 2):
        raise _refused(
            term, "fn", str(inspect.signature(fn)), "a function of two arguments (data, logprobs)"
        )


def _check_numbers(term: Regularizer) -> None:
    if not _is_number(term.weight) or not (math.isfinite(term.weight) and term.weight >= 0):
        raise _refused(term, "weight", repr(term.weight), "a finite number, 0 or more")
    if not _is_number(term.timeout_s) or not 0 < term.timeout_s <= MAX_TIMEOUT_S:
        raise _refused(
            term, "timeout_s", repr(term.timeout_s), f"above 0 and at most {MAX_TIMEOUT_S:g}"
        )


def _check_choices(term: Regularizer) -> None:
    choices = {
        "enabled": (True, False),
        "reduction": ("sum", "mean", "whole_batch"),
        "on_error": ("fail", "skip", "partial"),
        "on_nan": ("fail", "skip"),
        "run_in": ("thread", "process"),
    }
    for field, allowed in choices.items():
        if getattr(term, field) not in allowed:
            raise _refused(term, field, repr(getattr(term, field)), " or ".join(map(repr, allowed)))
    if term.schedule is not None and not callable(term.schedule):
        raise _refused(term, "schedule", repr(term.schedule), "called with a step or epoch")
    if term.state is not None and not hasattr(term.state, "update"):
        raise _refused(term, "state", repr(term.state), "a rule such as DualAscent(target=0.1)")
    if term.on_error == "partial" and term.reduction == "whole_batch":
        raise ConfigError(
            f"regularizers[{term.name!r}]: on_error='partial' needs a reduction, and this term "
            "needs the whole batch",
            field="on_error",
            hint="say reduction='sum' or 'mean' if that is true of it, or on_error='skip'",
        )


def _check_distribution(term: Regularizer) -> None:
    width = term.distribution
    if width is None:
        return
    is_count = isinstance(width, int) and not isinstance(width, bool) and width >= 1
    if width != "full" and not is_count:
        raise _refused(term, "distribution", repr(width), "'full', or a number of tokens from 1")
    if getattr(term.fn, "is_estimate", False):
        raise ConfigError(
            f"regularizers[{term.name!r}]: distribution={width!r}: this term is an estimate from "
            "chosen tokens",
            field="distribution",
            hint="leave distribution out, or use the exact term: Entropy, KL",
        )


def _check_importable(term: Regularizer) -> None:
    hint = "define the function in a module, or use run_in='thread'"
    module = getattr(term.fn, "__module__", None) or type(term.fn).__module__
    try:
        if module == "__main__":
            raise pickle.PicklingError("the other process cannot import this script")
        pickle.dumps(term.fn)
    except Exception as error:  # pickle raises whatever the object does
        raise ConfigError(
            f"regularizers[{term.name!r}]: run_in='process': its function cannot be sent: {error}",
            field="run_in",
            hint=hint,
        ) from error


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _refused(term: Regularizer, field: str, value: str, allowed: str) -> ConfigError:
    return ConfigError(
        f"regularizers[{term.name!r}]: {field}={value}: must be {allowed}", field=field
    )
