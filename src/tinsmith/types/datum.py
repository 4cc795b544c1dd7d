"""`Datum`: one training example, a model input and the arrays that its loss needs.

Arrays may be given as `TensorData`, NumPy arrays, torch tensors or lists. Known names have a fixed
dtype, so that `weights=[0, 1, 1]` means what it says.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import numpy as np
import numpy.typing as npt
from pydantic import Field

from tinsmith.core.errors import DataError
from tinsmith.types._arrays import numpy_from_torch
from tinsmith.types._model import RequestModel, allowed
from tinsmith.types.model_input import ModelInput
from tinsmith.types.tensor_data import TensorData, TensorDtype

if TYPE_CHECKING:
    import torch

    LossFnInput = TensorData | npt.NDArray[Any] | torch.Tensor | Sequence[Any]

__all__ = [
    "Datum",
    "PromptProvenanceSpan",
    "ProvenanceSpan",
    "ProvenanceSpans",
    "SampledProvenanceSpan",
]

_DTYPES: dict[str, TensorDtype] = {
    "target_tokens": "int64",
    "weights": "float32",
    "advantages": "float32",
    "logprobs": "float32",
    "clip_low_threshold": "float32",
    "clip_high_threshold": "float32",
    "sequence_ratio_mask": "float32",
}
_SPARSE_NAMES = frozenset({"target_tokens", "weights"})

_NotNegative = Annotated[int, allowed(lambda n: 0 <= n < 2**63, "must be 0 or more")]


class _Span(RequestModel):
    sequence_id: Annotated[str, allowed(bool, "must not be empty")]
    length: _NotNegative
    offset: _NotNegative = 0


class PromptProvenanceSpan(_Span):
    """Tokens that came from the prompt of a sampled sequence."""

    type: Literal["prompt"] = "prompt"


class SampledProvenanceSpan(_Span):
    """Tokens that were sampled as part of a sequence."""

    type: Literal["sampled"] = "sampled"


ProvenanceSpan = Annotated[
    PromptProvenanceSpan | SampledProvenanceSpan, Field(discriminator="type")
]
ProvenanceSpans = list[ProvenanceSpan]
"""Spans that cover a field of a datum without gaps."""


@dataclass(frozen=True)
class Datum:
    """One training example; frozen, compared by value.

    Attributes:
        model_input: what the model reads, N tokens.
        loss_fn_inputs: arrays that the loss reads, by name; position i belongs to the prediction
            made after token i.
        model_input_spans: where the input's tokens came from; both lists of spans or neither.
        loss_fn_input_spans: where the targets came from.

    Raises:
        DataError: naming the array that is not one, or not of its dtype.
    """

    model_input: ModelInput
    loss_fn_inputs: dict[str, TensorData] = field(default_factory=dict[str, TensorData])
    model_input_spans: list[ProvenanceSpan] | None = None
    loss_fn_input_spans: list[ProvenanceSpan] | None = None

    if TYPE_CHECKING:  # what may be given is wider than what is kept

        def __init__(
            self,
            model_input: ModelInput,
            loss_fn_inputs: Mapping[str, LossFnInput] = ...,
            model_input_spans: Sequence[ProvenanceSpan] | None = None,
            loss_fn_input_spans: Sequence[ProvenanceSpan] | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        if not isinstance(self.model_input, ModelInput):  # type: ignore[redundant-expr]
            raise DataError(
                f"model_input: a {type(self.model_input).__name__}, must be a ModelInput",
                field="model_input",
                hint="for a list of tokens: ModelInput.from_ints(tokens)",
            )
        inputs = {
            name: _as_tensor(name, value)
            for name, value in cast("Mapping[str, object]", self.loss_fn_inputs).items()
        }
        object.__setattr__(self, "loss_fn_inputs", inputs)
        _check_spans(self)

    def with_provenance(
        self, model_input: Sequence[ProvenanceSpan], loss_fn_inputs: Sequence[ProvenanceSpan]
    ) -> Datum:
        """Return a copy that says which sampled sequences its tokens came from."""
        return replace(
            self,
            model_input_spans=list(model_input),
            loss_fn_input_spans=list(loss_fn_inputs),
        )


def _as_tensor(name: str, value: object) -> TensorData:
    try:
        return _convert(name, value)
    except DataError as error:
        message = f"loss_fn_inputs[{name!r}]: {error.message}"
        raise DataError(message, field=name, hint=error.hint) from error


def _convert(name: str, value: object) -> TensorData:
    if isinstance(value, TensorData):
        return value
    array, sparse = _as_array(name, value)
    dtype = _DTYPES.get(name)
    if dtype is not None and array.dtype.kind in "fiu":
        # An int array of weights, or whole-numbered float targets: the name says what is meant.
        array = TensorData(array, dtype).values
    if sparse and array.ndim == 2 and name in _SPARSE_NAMES:
        return TensorData.from_numpy_sparse(array)
    return TensorData.from_numpy(array)


def _as_array(name: str, value: object) -> tuple[npt.NDArray[Any], bool]:
    """Return the values, and whether they may travel sparse, as torch tensors do."""
    if isinstance(value, np.ndarray):
        return cast("npt.NDArray[Any]", value), False
    torch = sys.modules.get("torch")  # a tensor exists only where torch is imported already
    if torch is not None and isinstance(value, torch.Tensor):
        return numpy_from_torch(value), True
    if isinstance(value, (list, tuple)):
        return _array_from_list(name, cast("Sequence[object]", value)), False
    raise DataError(
        f"a {type(value).__name__}; must be a list, NumPy array, torch tensor or TensorData"
    )


def _array_from_list(name: str, value: Sequence[object]) -> npt.NDArray[Any]:
    dtype = _DTYPES.get(name)
    if dtype is None:
        raise DataError(
            "a list under a name without a known dtype",
            hint=f"give a NumPy array, or use one of {', '.join(_DTYPES)}",
        )
    try:
        return TensorData(cast("npt.ArrayLike", value), dtype).values
    except DataError as error:
        raise DataError(error.message.removeprefix("data: "), hint=error.hint) from error


def _check_spans(datum: Datum) -> None:
    of_input, of_targets = datum.model_input_spans, datum.loss_fn_input_spans
    if (of_input is None) != (of_targets is None):
        missing = "model_input_spans" if of_input is None else "loss_fn_input_spans"
        raise DataError(f"{missing}: missing; give both lists of spans or neither", field=missing)
    for name, num_tokens in _spanned_lengths(datum):
        spans = cast("list[ProvenanceSpan]", getattr(datum, name))
        covered = sum(span.length for span in spans)
        if covered != num_tokens:
            raise DataError(f"{name}: cover {covered} tokens of {num_tokens}", field=name)


def _spanned_lengths(datum: Datum) -> Iterator[tuple[str, int]]:
    if datum.model_input_spans is not None:
        yield "model_input_spans", datum.model_input.length
    targets = datum.loss_fn_inputs.get("target_tokens")
    if datum.loss_fn_input_spans is not None and targets is not None and len(targets.shape) == 1:
        yield "loss_fn_input_spans", targets.shape[0]
