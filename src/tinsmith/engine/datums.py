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

from tinsmith.algorithms.loss_graph import LossGraph, check_graph_inputs
from tinsmith.algorithms.loss_graph_run import graph_loss
from tinsmith.algorithms.loss_inputs import (
    check_loss_config,
    check_loss_inputs,
    dense_loss_inputs,
)
from tinsmith.algorithms.losses import LossSpec, find_loss
from tinsmith.core.errors import ConfigError, DataError
from tinsmith.engine.jobs import BaseModelInfo, ForwardBackwardJob
from tinsmith.types import Datum, EncodedTextChunk

__all__ = ["MAX_JOB_TARGETS", "CheckedDatum", "CheckedJob", "check_job"]

MAX_JOB_TARGETS = 2**26
"""Cells of all target_tokens of a job: sparse ones are few bytes on the wire and dense here."""


@dataclass(frozen=True)
class CheckedDatum:
    """One datum, ready to run."""

    tokens: Tensor
    """[N], int64."""
    targets: Tensor
    """[N, K], int64."""
    inputs: Mapping[str, Tensor]
    """Float32; each [N, K], or as it was sent where the loss reads whole datums."""
    shape: tuple[int, ...]
    """Of target_tokens as sent: (N,) or (N, K)."""
    num_loss_tokens: int | None
    """Positions that carry a signal: a weight or an advantage that is not 0. None where only the
    loss knows."""


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
    graph = _custom_loss(job)
    if graph is not None:
        spec, config = graph_loss(graph), {}
    else:
        spec = find_loss(job.loss_fn)
        config = check_loss_config(spec, job.loss_fn_config)
    if not job.data:
        raise DataError("data: must hold at least one datum", field="data")
    data: list[CheckedDatum] = []
    num_targets = 0
    for index, datum in enumerate(job.data):
        if graph is not None:
            data.append(_check_custom_datum(graph, datum, index, info))
        else:
            data.append(_check_datum(spec, datum, index, info))
        num_targets += data[-1].targets.numel()
        if num_targets > MAX_JOB_TARGETS:
            raise DataError(
                f"datum {index}: loss_fn_inputs.target_tokens: up to this datum the request has "
                f"{num_targets} targets, a request may have {MAX_JOB_TARGETS}",
                field="loss_fn_inputs.target_tokens",
                hint="send fewer datums at a time; gradients add up until the next step",
                datum_index=index,
            )
    return CheckedJob(spec, config, data)


def _check_datum(spec: LossSpec, datum: Datum, index: int, info: BaseModelInfo) -> CheckedDatum:
    tokens = _tokens(datum, index, info)
    arrays = check_loss_inputs(
        spec,
        dense_loss_inputs(datum.loss_fn_inputs, datum_index=index),
        num_tokens=len(tokens),
        vocab_size=info.vocab_size,
        datum_index=index,
    )
    shape = arrays["target_tokens"].shape
    targets = _column(arrays.pop("target_tokens"))
    columns = {key: _column(values) for key, values in arrays.items()}
    num_loss_tokens = int((columns[spec.signal] != 0).any(-1).sum())
    if not spec.separable:
        columns = {key: values.reshape(shape) for key, values in columns.items()}
    return CheckedDatum(torch.from_numpy(tokens), targets, columns, shape, num_loss_tokens)


def _custom_loss(job: ForwardBackwardJob) -> LossGraph | None:
    """The job's graph; its `loss_id` was looked up by whoever built the job."""
    if job.loss_fn != "custom" or job.custom_loss is None:
        return None
    for key in job.loss_fn_config:
        if key != "loss_id":
            raise ConfigError(
                f"loss_fn_config.{key}: custom takes no such setting (it takes: loss_id)",
                field=f"loss_fn_config.{key}",
            )
    return job.custom_loss


def _check_custom_datum(
    graph: LossGraph, datum: Datum, index: int, info: BaseModelInfo
) -> CheckedDatum:
    tokens = _tokens(datum, index, info)
    arrays = check_graph_inputs(
        graph,
        dense_loss_inputs(datum.loss_fn_inputs, datum_index=index),
        num_tokens=len(tokens),
        vocab_size=info.vocab_size,
        datum_index=index,
    )
    targets = arrays["target_tokens"]
    inputs = {key: torch.from_numpy(values) for key, values in arrays.items()}
    return CheckedDatum(
        torch.from_numpy(tokens), _column(targets), inputs, targets.shape, num_loss_tokens=None
    )


def _tokens(datum: Datum, index: int, info: BaseModelInfo) -> np.ndarray:
    """The tokens [N] of a text-only datum.

    Raises:
        DataError: empty, too long, not text, or a token outside the vocabulary.
    """
    pieces: list[np.ndarray] = []
    for chunk in datum.model_input.chunks:
        if not isinstance(chunk, EncodedTextChunk):
            problem = f"chunk of type {chunk.type!r} cannot be read by {info.name!r}, a text model"
            raise _bad_input(index, problem)
        pieces.append(chunk.tokens_np.astype(np.int64))
    tokens = np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)
    if tokens.size == 0:
        raise _bad_input(index, "holds no tokens")
    if tokens.size > info.max_context_length:
        raise _bad_input(
            index,
            f"length {tokens.size} exceeds the context of {info.max_context_length} tokens of "
            f"{info.name!r}",
        )
    outside = (tokens < 0) | (tokens >= info.vocab_size)
    if outside.any():
        position = int(outside.argmax())
        raise _bad_input(
            index,
            f"token {tokens[position]} at position {position} is outside the vocabulary of "
            f"{info.vocab_size}",
        )
    return tokens


def _bad_input(index: int, problem: str) -> DataError:
    return DataError(
        f"datum {index}: model_input: {problem}", field="model_input", datum_index=index
    )


def _column(values: np.ndarray) -> Tensor:
    """[N] or [N, K] as a tensor [N, K] of our own (arrays from the wire may be read-only)."""
    if not values.flags.writeable:
        values = values.copy()
    tensor = torch.from_numpy(values)
    return tensor[:, None] if tensor.ndim == 1 else tensor
