"""One look at a whole training request: is everything in it plainly good?

Nearly every request is. Its datums are then never made into objects here: their bytes are checked
all together, and go on to the engine as they came. What is not plainly good is not refused: the
checks of `validation`, datum by datum, find out whether it is good after all, or say what is wrong.

Main name: `count_plain_tokens`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tinsmith.algorithms.loss_inputs import LossInputs
from tinsmith.types.codec import PackedData
from tinsmith.types.proto import tinsmith_pb2 as pb

__all__ = ["count_plain_tokens"]

TOKEN_BYTES, TARGET_BYTES, FLOAT_BYTES = 4, 8, 4


@dataclass(slots=True)
class _Columns:
    """The arrays of all datums, still as bytes."""

    tokens: list[bytes] = field(default_factory=list[bytes])
    targets: list[bytes] = field(default_factory=list[bytes])
    floats: list[bytes] = field(default_factory=list[bytes])


def count_plain_tokens(
    data: PackedData, spec: LossInputs, *, vocab_size: int, max_context_length: int | None
) -> int | None:
    """The number of tokens of a request that is plainly good, or None: look closer.

    Plain are: text alone, without spans; flat dense arrays of the input's length, in their own
    dtypes, and no others than the loss requires; tokens of the vocabulary; finite numbers.
    """
    if spec.averaged_over is not None:
        return None
    columns = _Columns()
    num_tokens = 0
    for datum in data.message.data:
        length = _gather(datum, spec, columns)
        if length is None or (max_context_length is not None and length > max_context_length):
            return None
        num_tokens += length
    # Read as unsigned, a negative id is a huge one: one comparison is enough.
    if not num_tokens or _largest(columns.tokens, "<u4") >= min(vocab_size, 2**31):
        return None
    if _largest(columns.targets, "<u8") >= vocab_size:
        return None
    floats = np.frombuffer(b"".join(columns.floats), "<f4")
    return num_tokens if np.isfinite(floats).all() else None


def _gather(datum: pb.Datum, spec: LossInputs, columns: _Columns) -> int | None:
    """Adds a datum's arrays to the columns; its length, or None if anything is unusual."""
    if datum.model_input_spans or datum.loss_fn_input_spans:
        return None
    num_bytes = 0
    for chunk in datum.model_input:
        content = chunk.encoded_text.tokens  # empty where the chunk is something else
        if not content or len(content) % TOKEN_BYTES:
            return None
        columns.tokens.append(content)
        num_bytes += len(content)
    length = num_bytes // TOKEN_BYTES
    inputs = datum.loss_fn_inputs
    if not length or len(inputs) != 1 + len(spec.required_inputs):
        return None
    for name, tensor in inputs.items():
        content = tensor.dense  # empty where the tensor is sparse
        if len(tensor.shape) != 1 or tensor.shape[0] != length:
            return None
        if name == "target_tokens":
            is_good = tensor.dtype == pb.DTYPE_INT64 and len(content) == length * TARGET_BYTES
            columns.targets.append(content)
        else:
            is_float = tensor.dtype == pb.DTYPE_FLOAT32 and name in spec.required_inputs
            is_good = is_float and len(content) == length * FLOAT_BYTES
            columns.floats.append(content)
        if not is_good:
            return None
    return length


def _largest(parts: list[bytes], dtype: str) -> int:
    return int(np.frombuffer(b"".join(parts), dtype).max())
