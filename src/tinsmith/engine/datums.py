"""From a job's datums to checked tensors.

`check_job` does every check that a forward_backward can fail on before anything runs, so that a
bad job is refused alone and early, with the field and the datum that are wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tinsmith.algorithms.losses import (
    LossSpec,
    check_loss_config,
    check_loss_inputs,
    find_loss,
)
from tinsmith.core.errors import DataError
from tinsmith.engine.jobs import BaseModelInfo, ForwardBackwardJob
from tinsmith.types import Datum, EncodedTextChunk, ModelInput

__all__ = ["CheckedDatum", "CheckedJob", "check_job", "model_input_tokens"]


@dataclass(frozen=True)
class CheckedDatum:
    """One datum, ready to run."""

    tokens: Tensor
    """[N], int64."""
    targets: Tensor
    """[N, K], int64."""
    inputs: Mapping[str, Tensor]
    """Each [N, K], float32."""
    shape: tuple[int, ...]
    """Of target_tokens as sent: (N,) or (N, K)."""


@dataclass(frozen=True)
class CheckedJob:
    """One job, ready to run."""

    spec: LossSpec
    config: Mapping[str, float]
    data: list[CheckedDatum]


def check_job(job: ForwardBackwardJob, info: BaseModelInfo) -> CheckedJob:
    """Check a job's loss, settings and datums.

    Raises:
        UnknownNameError: no such loss.
        ConfigError: a setting that the loss does not take.
        DataError: names the datum and the field.
    """
    spec = find_loss(job.loss_fn)
    config = check_loss_config(spec, job.loss_fn_config)
    if not job.data:
        raise DataError("data: must hold at least one datum", field="data")
    data = [_check_datum(spec, datum, index, info) for index, datum in enumerate(job.data)]
    return CheckedJob(spec, config, data)


def _check_datum(spec: LossSpec, datum: Datum, index: int, info: BaseModelInfo) -> CheckedDatum:
    tokens = model_input_tokens(datum.model_input, info, datum_index=index)
    arrays = check_loss_inputs(
        spec,
        {key: value.to_numpy() for key, value in datum.loss_fn_inputs.items()},
        num_tokens=len(tokens),
        vocab_size=info.vocab_size,
        datum_index=index,
    )
    shape = arrays["target_tokens"].shape
    columns = {key: _column(values) for key, values in arrays.items()}
    targets = columns.pop("target_tokens")
    return CheckedDatum(torch.from_numpy(tokens), targets, columns, shape)


def model_input_tokens(
    model_input: ModelInput, info: BaseModelInfo, *, datum_index: int | None = None
) -> np.ndarray:
    """The tokens [N] of a text-only model input.

    Raises:
        DataError: empty, too long, not text, or a token outside the vocabulary.
    """
    pieces: list[np.ndarray] = []
    for chunk in model_input.chunks:
        if not isinstance(chunk, EncodedTextChunk):
            raise DataError(
                f"model_input: chunk of type {chunk.type!r} cannot be read by {info.name!r}, "
                "which takes text only",
                field="model_input",
                datum_index=datum_index,
            )
        pieces.append(np.asarray(chunk.tokens, dtype=np.int64))
    tokens = np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)
    problem = None
    if tokens.size == 0:
        problem = "holds no tokens"
    elif tokens.size > info.max_context_length:
        problem = (
            f"length {tokens.size} exceeds the context of {info.max_context_length} tokens of "
            f"{info.name!r}"
        )
    else:
        outside = (tokens < 0) | (tokens >= info.vocab_size)
        if outside.any():
            position = int(outside.argmax())
            problem = (
                f"token {tokens[position]} at position {position} is outside the vocabulary of "
                f"{info.vocab_size}"
            )
    if problem is not None:
        raise DataError(f"model_input: {problem}", field="model_input", datum_index=datum_index)
    return tokens


def _column(values: np.ndarray) -> Tensor:
    """[N] or [N, K] as a tensor [N, K] of our own (arrays from the wire may be read-only)."""
    if not values.flags.writeable:
        values = values.copy()
    tensor = torch.from_numpy(values)
    return tensor[:, None] if tensor.ndim == 1 else tensor
