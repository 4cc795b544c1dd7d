"""`ForwardBackwardOutput` and `SampleResponse` to and from protobuf."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError, Message

from tinsmith.core.errors import DataError, ServerError, UserError
from tinsmith.types._tensor_codec import (
    DTYPE_CODES,
    array_bytes,
    array_from_bytes,
    decode_tensor,
    encode_tensor,
    typed_array,
)
from tinsmith.types.proto import tinsmith_pb2 as pb
from tinsmith.types.sampled import (
    PromptAltTokens,
    SampledSequence,
    SampleResponse,
    StopReason,
    TopkLogprobs,
)
from tinsmith.types.tensor_data import TensorData
from tinsmith.types.training import ForwardBackwardOutput

__all__ = [
    "decode_forward_backward_output",
    "decode_sample_response",
    "encode_forward_backward_output",
    "encode_sample_response",
]

_OUTPUT_TYPE = "ArrayRecord"
_STOP_REASONS: dict[int, StopReason] = {
    pb.STOP_REASON_STOP: "stop",
    pb.STOP_REASON_LENGTH: "length",
}
_STOP_CODES: dict[StopReason, pb.StopReason] = {
    "stop": pb.STOP_REASON_STOP,
    "length": pb.STOP_REASON_LENGTH,
}


def encode_forward_backward_output(output: ForwardBackwardOutput) -> bytes:
    """Return the binary form of an output. Sparse tensors become dense, 0-d ones 1-D."""
    message = pb.ForwardBackwardOutput(loss_fn_output_type=output.loss_fn_output_type)
    for _, datums in groupby(output.loss_fn_outputs, key=_layout):
        _encode_record(message.loss_fn_outputs.add(), list(datums))
    for name, value in output.metrics.items():
        message.metrics[name] = value
    return message.SerializeToString()


def decode_forward_backward_output(content: bytes) -> ForwardBackwardOutput:
    """Read the binary form of an output.

    Raises:
        ServerError: the service sent something else, or arrays that contradict themselves.
    """
    with _reading("ForwardBackwardOutput"):
        message = pb.ForwardBackwardOutput.FromString(content)
        outputs: list[dict[str, TensorData]] = []
        for record in message.loss_fn_outputs:
            outputs.extend(_decode_record(record))
        return ForwardBackwardOutput(
            loss_fn_output_type=message.loss_fn_output_type.rpartition(":")[2] or _OUTPUT_TYPE,
            loss_fn_outputs=outputs,
            metrics=dict(message.metrics),
        )


def encode_sample_response(response: SampleResponse) -> bytes:
    """Return the binary form of a response; it has no place for the sequences' ids."""
    message = pb.SampleResponse(prompt_cache_hit_tokens=response.prompt_cache_hit_tokens)
    for sequence in response.sequences:
        written = message.sequences.add()
        written.stop_reason = _STOP_CODES[sequence.stop_reason]
        written.tokens = array_bytes(sequence.tokens_np, "<i4")
        if sequence.logprobs_np is not None:
            written.logprobs = array_bytes(sequence.logprobs_np, "<f4")
        if sequence.topk_logprobs_np is not None:
            _encode_topk(written.topk_sampled_logprobs, sequence.topk_logprobs_np)
    if response.prompt_logprobs_np is not None:
        message.prompt_logprobs = array_bytes(response.prompt_logprobs_np, "<f4")
    if response.topk_prompt_logprobs_np is not None:
        _encode_topk(message.topk_prompt_logprobs, response.topk_prompt_logprobs_np)
    if response.target_prompt_logprobs is not None:
        encode_tensor(message.target_prompt_logprobs, response.target_prompt_logprobs)
    if response.prompt_alt_tokens is not None:
        encode_tensor(message.prompt_alt_tokens.tokens, response.prompt_alt_tokens.tokens)
        encode_tensor(message.prompt_alt_tokens.logprobs, response.prompt_alt_tokens.logprobs)
    return message.SerializeToString()


def decode_sample_response(
    content: bytes, sequence_ids: Sequence[str] | None = None
) -> SampleResponse:
    """Read the binary form of a response.

    Args:
        content: the bytes.
        sequence_ids: names of the sequences, from the answer to the request.

    Raises:
        ServerError: the service sent something else, or arrays that contradict themselves.
    """
    with _reading("SampleResponse"):
        message = pb.SampleResponse.FromString(content)
        num_sequences = len(message.sequences)
        if sequence_ids is not None and len(sequence_ids) != num_sequences:
            raise DataError(
                f"sequences: {num_sequences} for {len(sequence_ids)} sequence ids",
                field="sequences",
            )
        ids = sequence_ids or [""] * num_sequences
        return SampleResponse(
            sequences=[
                _decode_sequence(sequence, index, ids[index])
                for index, sequence in enumerate(message.sequences)
            ],
            prompt_logprobs_np=_floats_or_none(message.prompt_logprobs, "prompt_logprobs"),
            topk_prompt_logprobs_np=_topk_of(message, "topk_prompt_logprobs"),
            target_prompt_logprobs=_tensor_of(message, "target_prompt_logprobs"),
            prompt_alt_tokens=_alt_tokens_of(message),
            prompt_cache_hit_tokens=message.prompt_cache_hit_tokens,
        )


@contextlib.contextmanager
def _reading(what: str) -> Generator[None]:
    """Turn what is wrong with a service's answer into the service's error."""
    try:
        yield
    except DecodeError as error:
        raise ServerError(f"the service's answer is not a {what} in protobuf") from error
    except UserError as error:
        raise ServerError(
            f"the service's {what} is wrong: {error.message}", field=error.field
        ) from error


# -------------------------------------------------------------------------- forward_backward


def _layout(output: Mapping[str, TensorData]) -> list[tuple[str, str, tuple[int, ...]]]:
    """Return what datums of one record have in common."""
    return sorted((name, tensor.dtype, tuple(tensor.shape[1:])) for name, tensor in output.items())


def _encode_record(record: pb.ArrayRecord, datums: list[dict[str, TensorData]]) -> None:
    record.num_datums = len(datums)
    for name, first in datums[0].items():
        value_dtype = "<i8" if first.dtype == "int64" else "<f4"
        parts = [array_bytes(_dense(datum[name]), value_dtype) for datum in datums]
        field = record.fields[name]
        field.data = b"".join(parts)
        field.offsets = array_bytes(np.cumsum([0, *map(len, parts)]), "<i8")
        field.dtype = DTYPE_CODES[first.dtype]
        field.trailing_shape.extend(first.shape[1:])


def _dense(tensor: TensorData) -> npt.NDArray[Any]:
    return tensor.to_numpy() if tensor.is_sparse else tensor.values


def _decode_record(record: pb.ArrayRecord) -> list[dict[str, TensorData]]:
    fields = {name: _decode_batched(field, name) for name, field in record.fields.items()}
    counts = [len(tensors) for tensors in fields.values()]
    num_datums = record.num_datums or (counts[0] if counts else 0)
    for name, tensors in fields.items():
        if len(tensors) != num_datums:
            raise DataError(f"{name}: {len(tensors)} arrays for {num_datums} datums", field=name)
    if not fields and not 0 <= num_datums <= _MAX_EMPTY_DATUMS:
        raise DataError(f"num_datums={num_datums}: without any array", field="num_datums")
    return [
        {name: tensors[index] for name, tensors in fields.items()} for index in range(num_datums)
    ]


_MAX_EMPTY_DATUMS = 2**20
"""A count alone costs no bytes; this keeps a wrong one from filling the memory."""


def _decode_batched(field: pb.BatchedTensor, name: str) -> list[TensorData]:
    offsets = array_from_bytes(field.offsets, "<i8", field=name)
    data = field.data
    if offsets.size == 0:
        if data:
            raise DataError(f"{name}: data without offsets", field=name)
        return []
    rising = bool(np.all(offsets[1:] >= offsets[:-1]))
    if offsets[0] != 0 or offsets[-1] != len(data) or not rising:
        raise DataError(f"{name}: offsets do not divide {len(data)} bytes of data", field=name)
    trailing = list(field.trailing_shape)
    if any(dim < 0 for dim in trailing):
        raise DataError(f"{name}: trailing_shape={trailing}: must not be negative", field=name)
    bounds = offsets.tolist()
    return [
        _decode_part(data[start:end], field.dtype, trailing, name)
        for start, end in pairwise(bounds)
    ]


def _decode_part(data: bytes, dtype_code: int, trailing: list[int], name: str) -> TensorData:
    values, dtype = typed_array(data, dtype_code, field=name)
    row = math.prod(trailing)
    if (row == 0 and values.size) or (row and values.size % row):
        raise DataError(
            f"{name}: {values.size} values do not fill rows of shape {trailing}", field=name
        )
    num_rows = values.size // row if row else 0
    try:
        return TensorData(values, dtype, [num_rows, *trailing])
    except DataError as error:
        raise DataError(f"{name}: {error.message}", field=name) from error


# ------------------------------------------------------------------------------------ sample


def _encode_topk(message: pb.TopkLogprobs, table: TopkLogprobs) -> None:
    message.length, message.k = table.token_ids.shape
    message.token_ids = array_bytes(table.token_ids, "<i4")
    message.logprobs = array_bytes(table.logprobs, "<f4")
    message.SetInParent()  # an empty table is still there


def _decode_topk(message: pb.TopkLogprobs, field: str) -> TopkLogprobs:
    shape = (message.length, message.k)
    token_ids = array_from_bytes(message.token_ids, "<i4", field=field)
    logprobs = array_from_bytes(message.logprobs, "<f4", field=field)
    if not token_ids.size == logprobs.size == math.prod(shape):
        raise DataError(
            f"{field}: {token_ids.size} tokens and {logprobs.size} logprobs for {shape} cells",
            field=field,
        )
    return TopkLogprobs(token_ids.reshape(shape), logprobs.reshape(shape))


def _decode_sequence(message: pb.SampledSequence, index: int, sequence_id: str) -> SampledSequence:
    field = f"sequences.{index}"
    reason = _STOP_REASONS.get(message.stop_reason)
    if reason is None:
        raise DataError(f"{field}: stop_reason code {message.stop_reason} is unknown", field=field)
    return SampledSequence(
        stop_reason=reason,
        sequence_id=sequence_id,
        tokens_np=array_from_bytes(message.tokens, "<i4", field=f"{field}.tokens"),
        logprobs_np=_floats_or_none(message.logprobs, f"{field}.logprobs"),
        topk_logprobs_np=_topk_of(message, "topk_sampled_logprobs"),
    )


def _floats_or_none(data: bytes, field: str) -> npt.NDArray[np.float32] | None:
    # Empty bytes read as absent, in the protocol.
    return array_from_bytes(data, "<f4", field=field) if data else None


def _topk_of(message: Message, name: str) -> TopkLogprobs | None:
    return _decode_topk(getattr(message, name), name) if message.HasField(name) else None


def _tensor_of(message: Message, name: str) -> TensorData | None:
    return decode_tensor(getattr(message, name), field=name) if message.HasField(name) else None


def _alt_tokens_of(message: pb.SampleResponse) -> PromptAltTokens | None:
    if not message.HasField("prompt_alt_tokens"):
        return None
    table = message.prompt_alt_tokens
    return PromptAltTokens(
        decode_tensor(table.tokens, field="prompt_alt_tokens.tokens"),
        decode_tensor(table.logprobs, field="prompt_alt_tokens.logprobs"),
    )
