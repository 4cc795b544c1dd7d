"""A loss that the caller computes from logprobs, turned into one that every service can compute.

The gradient of a loss C of the target tokens' logprobs is that of the cross-entropy
`-sum(w * logprobs)` with weights `w = -dC/dlogprobs`: so a forward pass gives the logprobs, the
caller's function and autograd give the weights, and a second pass adds the gradient. Main names:
`CustomLossFn`, `forward_data`, `surrogate_of`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from tinsmith.client.errors import APIResponseValidationError
from tinsmith.core.errors import DataError, UserError, missing_extra
from tinsmith.regularizers.distributions import Distributions
from tinsmith.types import Datum, ForwardBackwardOutput, LossFnOutput, TensorData

if TYPE_CHECKING:
    import torch

    CustomLossFn = Callable[
        [list[Datum], list[torch.Tensor]], tuple[torch.Tensor, Mapping[str, float]]
    ]
    """(data, logprobs of each datum's targets) -> (loss, metrics); sees the whole batch."""
else:
    CustomLossFn = Callable[..., Any]


@dataclasses.dataclass(frozen=True, slots=True)
class SurrogateLoss:
    """What the caller's loss comes down to."""

    data: list[Datum]
    """Cross-entropy datums with the same gradient."""
    loss: float
    metrics: dict[str, float]
    shapes: list[list[int]]
    """Of the targets that the caller named; `data` may have more, of distributions."""
    distributions: Distributions | None = None
    """What the loss saw besides."""

    def described(self, output: ForwardBackwardOutput) -> ForwardBackwardOutput:
        """The output of the backward pass with the metrics of the loss that was meant."""
        metrics = dict(output.metrics)
        if "loss:sum" in metrics:
            metrics["surrogate_loss:sum"] = metrics["loss:sum"]
        metrics |= self.metrics
        metrics["loss:sum"] = self.loss
        outputs = [
            _chosen(found, shape)
            for found, shape in zip(output.loss_fn_outputs, self.shapes, strict=True)
        ]
        return output.model_copy(update={"metrics": metrics, "loss_fn_outputs": outputs})


def require_torch() -> ModuleType:
    """The torch module.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import torch  # the only function of the SDK that needs it, and its caller uses it anyway
    except ImportError as error:
        raise missing_extra("torch", "engine") from error
    return torch


def forward_data(data: Sequence[Datum]) -> list[Datum]:
    """What the forward pass needs: inputs, targets and weights (0 where none are given).

    Raises:
        DataError: a datum has no targets.
    """
    return [
        Datum(
            model_input=datum.model_input,
            loss_fn_inputs={
                "target_tokens": _targets(datum, index),
                "weights": datum.loss_fn_inputs.get("weights") or _zeros(_targets(datum, index)),
            },
        )
        for index, datum in enumerate(data)
    ]


def surrogate_of(
    data: list[Datum],
    outputs: Sequence[LossFnOutput],
    loss_fn: CustomLossFn,
    *,
    with_distributions: bool = False,
) -> SurrogateLoss:
    """Call the caller's loss and differentiate it.

    Args:
        data: of the call, with all its loss inputs.
        outputs: of the forward pass.
        loss_fn: raises what it wants; that becomes the call's failure.
        with_distributions: whether it takes them as a third argument; the outputs have them.

    Raises:
        UserError: it does not return a loss that depends on the logprobs, and metrics.
    """
    torch = require_torch()
    wanted = ["logprobs", *(["distribution_logprobs"] if with_distributions else [])]
    if len(outputs) != len(data) or not all(name in o for name in wanted for o in outputs):
        raise APIResponseValidationError(
            f"forward: {' and '.join(wanted)} of {len(data)} datums were asked for and did not all "
            "come"
        )
    logprobs: list[torch.Tensor] = [
        output["logprobs"].to_torch().reshape(datum.loss_fn_inputs["target_tokens"].shape)
        for datum, output in zip(data, outputs, strict=True)
    ]
    distributions = _distributions(outputs) if with_distributions else None
    leaves = [*logprobs, *(distributions.logprobs if distributions else ())]
    for tensor in leaves:
        tensor.requires_grad_(True)
    with torch.enable_grad():
        call: Callable[..., object] = loss_fn
        third = [distributions] if with_distributions else []
        loss, metrics = _checked(call(data, list(logprobs), *third), torch)
        loss.sum().backward()  # pyright: ignore[reportUnknownMemberType] - torch's own gap
    if all(tensor.grad is None for tensor in leaves):
        raise UserError(
            "loss_fn: its loss does not depend on the logprobs",
            field="loss_fn",
            hint="compute it from the tensors that it is given, without detach() or item()",
        )
    weighted = surrogate_data(data, [tensor.grad for tensor in leaves], distributions)
    shapes = [_targets(datum, index).shape for index, datum in enumerate(data)]
    return SurrogateLoss(weighted, float(loss.detach().sum()), metrics, shapes, distributions)


def surrogate_data(
    data: Sequence[Datum],
    gradients: Sequence[torch.Tensor | None],
    distributions: Distributions | None = None,
) -> list[Datum]:
    """Cross-entropy datums with this gradient by the logprobs; None is zero.

    Args:
        data: with targets.
        gradients: by the logprobs of each datum's targets, and after those by each one's
            distribution where there are `distributions`.
        distributions: whose tokens become further targets of the datums that have a gradient there.

    Raises:
        DataError: a gradient is not finite.
    """
    weighted = [_weighted(datum, gradients[index], index) for index, datum in enumerate(data)]
    if distributions is None:
        return weighted
    return [
        _widened(datum, distributions.columns(index), gradients[len(data) + index], index)
        for index, datum in enumerate(weighted)
    ]


def _distributions(outputs: Sequence[LossFnOutput]) -> Distributions:
    """What a `retained_forward` told of each position beside the targets."""
    logprobs = [output["distribution_logprobs"].to_torch() for output in outputs]
    if "distribution_tokens" not in outputs[0]:
        return Distributions(logprobs)
    return Distributions(logprobs, [output["distribution_tokens"].to_torch() for output in outputs])


def _chosen(output: LossFnOutput, shape: Sequence[int]) -> LossFnOutput:
    """The output without the columns that `_widened` added."""
    logprobs = output.get("logprobs")
    if logprobs is None or logprobs.shape == list(shape):
        return output
    width = shape[1] if len(shape) == 2 else 1
    chosen = np.ascontiguousarray(logprobs.to_numpy()[:, :width]).reshape(shape)
    return {**output, "logprobs": TensorData.from_numpy(chosen)}


def _widened(
    datum: Datum, tokens: torch.Tensor, by_logprobs: torch.Tensor | None, index: int
) -> Datum:
    """The datum with further targets and their weights; the same where these are all 0."""
    if by_logprobs is None or not bool(by_logprobs.any()):
        return datum
    inputs = {name: tensor.to_numpy() for name, tensor in datum.loss_fn_inputs.items()}
    weights = -_finite(by_logprobs, index)
    columns = {"target_tokens": tokens.numpy(), "weights": weights}
    return Datum(
        model_input=datum.model_input,
        loss_fn_inputs={
            name: np.concatenate([inputs[name].reshape(len(tokens), -1), further], axis=1)
            for name, further in columns.items()
        },
    )


def _finite(by_logprobs: torch.Tensor, index: int) -> npt.NDArray[np.float32]:
    gradient = by_logprobs.to(device="cpu").numpy()
    if not np.isfinite(gradient).all():
        raise DataError(
            f"loss_fn: data[{index}]: its gradient is not finite",
            field="loss_fn",
            datum_index=index,
            hint="look for log(0), 0/0 or an overflow in exp",
        )
    return gradient


def _checked(returned: object, torch: ModuleType) -> tuple[torch.Tensor, dict[str, float]]:
    hint = "return loss, {'name': value}; the metrics may be {}"
    if not isinstance(returned, tuple) or len(cast("tuple[object, ...]", returned)) != 2:
        raise UserError("loss_fn: must return a loss and metrics", field="loss_fn", hint=hint)
    loss, metrics = cast("tuple[Any, Any]", returned)  # Any: checked here
    if not isinstance(loss, torch.Tensor) or not loss.requires_grad:
        raise UserError(
            "loss_fn: its loss does not depend on the logprobs",
            field="loss_fn",
            hint="compute it from the tensors that it is given, without detach() or item()",
        )
    if not isinstance(metrics, Mapping):
        raise UserError("loss_fn: must return a loss and metrics", field="loss_fn", hint=hint)
    named = cast("Mapping[str, Any]", metrics)  # Any: numbers, or tensors of one element
    values: dict[str, float] = {}
    for name, value in named.items():
        try:
            values[str(name)] = float(value.detach() if isinstance(value, torch.Tensor) else value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"loss_fn: its metric {name!r} is not a number: {error}", field="loss_fn", hint=hint
            ) from error
    return cast("torch.Tensor", loss), values


def _weighted(datum: Datum, by_logprobs: torch.Tensor | None, index: int) -> Datum:
    targets = _targets(datum, index)
    if by_logprobs is None:  # the loss leaves this datum out
        weights = _zeros(targets)
    else:
        make = TensorData.from_numpy_sparse if targets.is_sparse else TensorData.from_numpy
        weights = make(-_finite(by_logprobs, index))
    return Datum(
        model_input=datum.model_input,
        loss_fn_inputs={"target_tokens": targets, "weights": weights},
    )


def _targets(datum: Datum, index: int) -> TensorData:
    targets = datum.loss_fn_inputs.get("target_tokens")
    if targets is None:
        raise DataError(
            f"data[{index}].loss_fn_inputs: target_tokens is missing",
            field="target_tokens",
            datum_index=index,
            hint="a custom loss is computed from the logprobs of target_tokens",
        )
    return targets


def _zeros(targets: TensorData) -> TensorData:
    """Weights of 0, sparse where the targets are."""
    return TensorData(
        np.zeros(targets.values.shape, np.float32),
        "float32",
        targets.shape,
        targets.sparse_crow_indices,
        targets.sparse_col_indices,
    )
