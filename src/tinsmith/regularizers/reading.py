"""What the built-in terms read: the targets' logprobs under a mask, distributions, references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tinsmith.core.errors import ConfigError, DataError
from tinsmith.regularizers.distributions import CHOSEN_TOKENS
from tinsmith.types import Datum

if TYPE_CHECKING:
    import torch

__all__ = [
    "Reference",
    "check_choice",
    "check_number",
    "distributions",
    "field_of",
    "positions",
    "reference_logprobs",
]

Reference = str | Callable[[list[Datum]], Sequence[Any]]
"""Name of a loss input with the reference logprobs of each datum, or a function of the datums."""


@dataclass(frozen=True)
class _Masked:
    """Selects the positions that a mask marks, of tensors of one shape a datum."""

    masks: list[Any] | None  # of bool tensors

    def __call__(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        import torch

        if self.masks is None:
            return torch.cat(list(tensors))
        return torch.cat([tensor[mask] for tensor, mask in zip(tensors, self.masks, strict=True)])


def positions(data: Sequence[Datum], logprobs: Sequence[torch.Tensor], mask: str | None) -> _Masked:
    """How to take the positions that count: all, or those where the loss input `mask` is not 0.

    The mask has one number a position, or one a target of which any counts.

    Raises:
        DataError: a datum has no such input or of another length, or nothing is marked.
    """
    if mask is None:
        return _Masked(None)
    masks = []
    for index, tensor in enumerate(logprobs):
        values = _input(data[index], mask, index)
        if values.ndim > 1:
            values = values.flatten(1).ne(0).any(1)
        if len(values) != len(tensor):
            raise DataError(
                f"data[{index}].loss_fn_inputs[{mask!r}]: of length {len(values)}, and there are "
                f"{len(tensor)} targets",
                field=mask,
                datum_index=index,
            )
        masks.append(values.ne(0))
    if not any(bool(m.any()) for m in masks):
        raise DataError(
            f"loss_fn_inputs[{mask!r}]: marks no target of the batch",
            field=mask,
            hint="leave out mask to count every target",
        )
    return _Masked(masks)


def distributions(logprobs: Sequence[torch.Tensor], term: str) -> None:
    """Refuse logprobs of chosen tokens alone, whose axis is time and no vocabulary.

    Raises:
        DataError: a datum has one target a position.
    """
    for index, tensor in enumerate(logprobs):
        if tensor.ndim != 2:
            raise DataError(
                f"data[{index}]: {term} needs a distribution at each position, targets of shape "
                f"(N, K), and has {tuple(tensor.shape)}",
                field="target_tokens",
                datum_index=index,
                hint='say Regularizer(..., distribution="full") or the number of likeliest tokens, '
                "give several targets a position, or use an estimator from chosen tokens: "
                "SampledEntropy, KLEstimate",
            )


def field_of(
    data: Sequence[Datum], logprobs: Sequence[torch.Tensor], name: str
) -> list[torch.Tensor]:
    """A loss input of every datum as constants in the shape and dtype of its logprobs.

    For the likeliest K tokens of each position it has to hold the vocabulary, of which these are
    taken: which they are changes with the model.

    Raises:
        DataError: a datum has no such input, or of another shape.
    """
    return [
        _shaped(_of_tokens(_input(datum, name, index), datum, place), tensor, place)
        for index, (datum, tensor) in enumerate(zip(data, logprobs, strict=True))
        for place in [(index, f"loss_fn_inputs[{name!r}]")]
    ]


def reference_logprobs(
    reference: Reference, data: list[Datum], logprobs: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """The reference of every datum as constants in the shape of its logprobs.

    What a function gives for the likeliest K tokens may be of these, or of the vocabulary.

    Raises:
        DataError: one is missing or has another shape.
    """
    import torch

    if isinstance(reference, str):
        return field_of(data, logprobs, reference)
    given = list(reference(data))
    if len(given) != len(data):
        raise DataError(
            f"reference: gave {len(given)} tensors for {len(data)} datums", field="reference"
        )
    found: list[torch.Tensor] = []
    for index, (value, tensor) in enumerate(zip(given, logprobs, strict=True)):
        constant, place = torch.as_tensor(value).detach(), (index, "reference")
        if constant.shape != tensor.shape:
            constant = _of_tokens(constant, data[index], place)
        found.append(_shaped(constant, tensor, place))
    return found


def check_choice(name: str, value: object, allowed: Sequence[object]) -> None:
    """Refuse a setting outside a known set.

    Raises:
        ConfigError: saying what is allowed.
    """
    if value not in allowed:
        shown = ", ".join(map(repr, allowed))
        raise ConfigError(f"{name}={value!r}: must be one of {shown}", field=name)


def check_number(
    name: str, value: Any, *, low: float, high: float = float("inf"), is_open: bool = False
) -> None:
    """Refuse a setting that is no number in `[low, high]`, or not above `low` where open.

    Raises:
        ConfigError: saying what is allowed.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (is_number and low <= value <= high) or (is_open and value == low):
        least = f"above {low:g}" if is_open else f"{low:g} or more"
        most = "" if high == float("inf") else f" and at most {high:g}"
        raise ConfigError(f"{name}={value!r}: must be {least}{most}", field=name)


Reduced = Literal["sum", "mean"]


def _input(datum: Datum, name: str, index: int) -> torch.Tensor:
    if name not in datum.loss_fn_inputs:
        raise DataError(
            f"data[{index}].loss_fn_inputs: {name} is missing",
            field=name,
            datum_index=index,
            hint="every datum needs it; it has one value for each target",
        )
    return datum.loss_fn_inputs[name].to_torch()


def _of_tokens(values: torch.Tensor, datum: Datum, place: tuple[int, str]) -> torch.Tensor:
    """Of logprobs of the vocabulary (N, V) those of the tokens of a distribution (N, K).

    A datum of chosen tokens has its own targets, whose logprobs they already are.

    Raises:
        DataError: it cannot be told whose logprobs they are.
    """
    if CHOSEN_TOKENS not in datum.loss_fn_inputs:
        return values
    index, name = place
    tokens = datum.loss_fn_inputs["target_tokens"].to_torch()
    width = values.shape[1] if values.ndim == 2 and len(values) == len(tokens) else 0
    # As many as there are tokens, but not of the first tokens of the vocabulary: of which, then?
    if width <= int(tokens.max()):
        raise DataError(
            f"data[{index}]: {name}: of shape {tuple(values.shape)}, must hold the logprobs of the "
            f"whole vocabulary at {len(tokens)} positions",
            field=name,
            datum_index=index,
            hint=f"the likeliest {tokens.shape[1]} tokens change with the model",
        )
    return values.gather(1, tokens)


def _shaped(values: torch.Tensor, like: torch.Tensor, place: tuple[int, str]) -> torch.Tensor:
    index, name = place
    if values.shape != like.shape:
        raise DataError(
            f"data[{index}]: {name}: of shape {tuple(values.shape)}, and its targets are of "
            f"shape {tuple(like.shape)}",
            field=name,
            datum_index=index,
        )
    return values.to(like.dtype)
