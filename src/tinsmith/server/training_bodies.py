"""Bodies of forward and forward_backward: protobuf, or JSON as older clients send it."""

from __future__ import annotations

import hashlib
import json

from google.protobuf.message import DecodeError

from tinsmith.server.errors import RequestError
from tinsmith.server.http import parse_json
from tinsmith.types import Datum, EncodedTextChunk, ForwardBackwardRequest, RequestModel
from tinsmith.types.codec import PackedData, read_forward_backward_request
from tinsmith.types.proto import tinsmith_pb2

PROTOBUF_MEDIA_TYPES = ("application/x-protobuf", "application/protobuf")


class TrainingInput(RequestModel):
    """The part of a JSON body that says what to compute."""

    data: list[Datum]
    loss_fn: str
    loss_fn_config: dict[str, float | str] | None = None


class TrainingJsonRequest(RequestModel):
    """forward_backward or forward as JSON."""

    model_id: str
    seq_id: int
    forward_backward_input: TrainingInput | None = None
    forward_input: TrainingInput | None = None
    type: str | None = None


def read_training_body(
    raw: bytes, media_type: str, *, forward_only: bool
) -> ForwardBackwardRequest:
    """Decodes a body, all but the data of a binary one; `forward_only` is what its endpoint says.

    Raises:
        UserError: naming the field, and the datum where it is one's.
    """
    if media_type.startswith(PROTOBUF_MEDIA_TYPES):
        request = read_forward_backward_request(raw)
        return _forward_only(request) if forward_only else request
    if media_type.startswith("application/json"):
        return _from_json(raw, forward_only=forward_only)
    raise RequestError(
        f"Content-Type={media_type!r}: must be application/x-protobuf or application/json",
        field="Content-Type",
    )


def _from_json(raw: bytes, *, forward_only: bool) -> ForwardBackwardRequest:
    body = parse_json(TrainingJsonRequest, raw)
    name = "forward_input" if forward_only else "forward_backward_input"
    content: TrainingInput | None = getattr(body, name)
    if content is None:
        raise RequestError(f"{name}: missing", field=name)
    return ForwardBackwardRequest(
        body.model_id,
        body.seq_id,
        content.data,
        content.loss_fn,
        content.loss_fn_config or {},
        forward_only,
    )


def _forward_only(request: ForwardBackwardRequest) -> ForwardBackwardRequest:
    return ForwardBackwardRequest(
        request.model_id,
        request.seq_id,
        request.data,
        request.loss_fn,
        request.loss_fn_config,
        forward_only=True,
    )


def lane_position(raw: bytes, media_type: str) -> tuple[str, int] | None:
    """Model and sequence number of a body that is otherwise unreadable, if they can be told."""
    try:
        if media_type.startswith(PROTOBUF_MEDIA_TYPES):
            message = tinsmith_pb2.ForwardBackwardRequest.FromString(raw)
            found: tuple[object, object] = (message.model_id, message.seq_id)
        else:
            body = json.loads(raw)
            found = (body["model_id"], body["seq_id"])
    except (DecodeError, ValueError, KeyError, TypeError, RecursionError):
        return None
    model_id, seq_id = found
    if isinstance(model_id, str) and isinstance(seq_id, int):
        return model_id, seq_id
    return None


MODEL_ID_TAG, SEQ_ID_TAG = b"\x0a\x10"
"""What stands before the first two fields of a binary body, which clients write first."""


def lane_position_of_head(head: bytes, media_type: str) -> tuple[str, int] | None:
    """As `lane_position`, of the beginning of a binary body."""
    if not media_type.startswith(PROTOBUF_MEDIA_TYPES):
        return None
    end = 0
    try:
        while head[end] in (MODEL_ID_TAG, SEQ_ID_TAG):
            tag = head[end]
            value, end = _varint(head, end + 1)
            end += value if tag == MODEL_ID_TAG else 0
    except IndexError:
        return None  # it ends within them
    position = lane_position(head[:end], media_type)
    return position if position is not None and all(position) else None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of protobuf's, and where the next thing begins."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def body_digest(request: ForwardBackwardRequest) -> str:
    """Names the content, whatever order its maps were written in."""
    digest = hashlib.sha256()
    head = (request.loss_fn, sorted(request.loss_fn_config.items()), request.forward_only)
    digest.update(repr(head).encode())
    if isinstance(request.data, PackedData):
        digest.update(request.data.message.SerializeToString(deterministic=True))
        return digest.hexdigest()[:32]
    for datum in request.data:
        _hash_datum(digest, datum)
    return digest.hexdigest()[:32]


def _hash_datum(digest: hashlib._Hash, datum: Datum) -> None:
    for chunk in datum.model_input.chunks:
        is_text = isinstance(chunk, EncodedTextChunk)
        content = chunk.packed if is_text else repr(chunk).encode()
        digest.update(b"|%d|" % len(content) + content)
    for name, tensor in sorted(datum.loss_fn_inputs.items()):
        digest.update(f"|{name}{tensor.dtype}{tensor.shape}".encode())
        digest.update(tensor.values.tobytes())
        for indices in (tensor.sparse_crow_indices, tensor.sparse_col_indices):
            digest.update(b"|" if indices is None else indices.tobytes())
