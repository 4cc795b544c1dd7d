"""`ForwardBackwardRequest` to and from protobuf."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, overload

from google.protobuf.message import DecodeError

from tinsmith.core.errors import ConfigError, DataError, UserError
from tinsmith.types._tensor_codec import decode_tensor, encode_tensor
from tinsmith.types.datum import (
    Datum,
    PromptProvenanceSpan,
    ProvenanceSpan,
    SampledProvenanceSpan,
)
from tinsmith.types.model_input import (
    DmelChunk,
    EncodedTextChunk,
    ImageChunk,
    ModelInput,
    ModelInputChunk,
)
from tinsmith.types.proto import tinsmith_pb2 as pb
from tinsmith.types.tensor_data import TensorData
from tinsmith.types.training import ForwardBackwardRequest

__all__ = [
    "PackedData",
    "datum_bytes",
    "decode_forward_backward_request",
    "encode_forward_backward_request",
    "read_forward_backward_request",
    "with_seq_id",
]

_MAX_SEQ_ID = 2**31 - 1


def encode_forward_backward_request(
    model_id: str,
    seq_id: int,
    data: Sequence[Datum],
    loss_fn: str,
    loss_fn_config: Mapping[str, float | str] | None = None,
    *,
    forward_only: bool = False,
) -> bytes:
    """Return the body of a forward_backward request.

    Args:
        model_id: whom it is for.
        seq_id: place among the model's requests; 0 leaves it to `with_seq_id`.
        data: at least one datum.
        loss_fn: name of the loss.
        loss_fn_config: its settings.
        forward_only: leave gradients alone.

    Raises:
        UserError: something that the protocol cannot carry; names field and datum index.
    """
    _check_seq_id(seq_id)
    message = pb.ForwardBackwardRequest(seq_id=seq_id, forward_only=forward_only)
    message.model_id = _text(model_id, "model_id")
    message.loss_fn = _text(loss_fn, "loss_fn")
    for name, value in (loss_fn_config or {}).items():
        _encode_setting(message, _text(name, "loss_fn_config"), value)
    for index, datum in enumerate(data):
        try:
            _encode_datum(message.data.add(), datum)
        except UserError as error:
            raise _in_datum(error, index) from error
    return message.SerializeToString()


def with_seq_id(body: bytes, seq_id: int) -> bytes:
    """Return the body of a request with its sequence number, without encoding its data again."""
    _check_seq_id(seq_id)
    # A message that follows another one is merged into it: the last value of a field counts.
    return body + pb.ForwardBackwardRequest(seq_id=seq_id).SerializeToString()


def _check_seq_id(seq_id: int) -> None:
    if not 0 <= seq_id <= _MAX_SEQ_ID:
        raise UserError(f"seq_id={seq_id}: must be 0..{_MAX_SEQ_ID}", field="seq_id")


class PackedData(Sequence[Datum]):
    """The datums of a request as they came; decoded when somebody looks at one.

    Pickled, it is the bytes of the request, and unpickled a list of datums.
    """

    def __init__(self, body: bytes, message: pb.ForwardBackwardRequest) -> None:
        self._body = body
        self.message = message
        """The request that they are of."""

    def __len__(self) -> int:
        return len(self.message.data)

    @overload
    def __getitem__(self, index: int) -> Datum: ...
    @overload
    def __getitem__(self, index: slice) -> list[Datum]: ...
    def __getitem__(self, index: int | slice) -> Datum | list[Datum]:
        """Decode, on first use all of them.

        Raises:
            DataError: arrays that contradict themselves; names field and datum index.
        """
        return self._datums[index]

    def __iter__(self) -> Iterator[Datum]:
        return iter(self._datums)

    @cached_property
    def _datums(self) -> list[Datum]:
        return [_decode_indexed(datum, index) for index, datum in enumerate(self.message.data)]

    def __reduce__(self) -> tuple[Any, ...]:  # Any: the protocol of pickle
        return _unpacked, (self._body,)


def _unpacked(body: bytes) -> list[Datum]:
    """Undo `PackedData.__reduce__`."""
    return list(PackedData(body, pb.ForwardBackwardRequest.FromString(body)))


def decode_forward_backward_request(body: bytes) -> ForwardBackwardRequest:
    """Read the body of a forward_backward request.

    Raises:
        UserError: not such a message, or arrays in it that contradict themselves; names field and
            datum index.
    """
    request = read_forward_backward_request(body)
    return replace(request, data=list(request.data))


def read_forward_backward_request(body: bytes) -> ForwardBackwardRequest:
    """Read the body of a forward_backward request, all but its data, which are `PackedData`.

    Raises:
        UserError: not such a message; names the field.
    """
    try:
        message = pb.ForwardBackwardRequest.FromString(body)
    except DecodeError as error:
        raise UserError(
            "body: not a ForwardBackwardRequest in protobuf", field="body", hint=str(error) or None
        ) from error
    return ForwardBackwardRequest(
        model_id=message.model_id,
        seq_id=message.seq_id,
        data=PackedData(body, message),
        loss_fn=message.loss_fn,
        loss_fn_config=_decode_settings(message),
        forward_only=message.forward_only,
    )


def datum_bytes(datum: Datum) -> int:
    """Estimate a datum's size in a request, by the rule that every client chunks by."""
    return sum(_chunk_bytes(chunk) for chunk in datum.model_input.chunks) + sum(
        tensor.num_bytes for tensor in datum.loss_fn_inputs.values()
    )


def _chunk_bytes(chunk: ModelInputChunk) -> int:
    if isinstance(chunk, EncodedTextChunk):
        return 4 * len(chunk.tokens)
    if isinstance(chunk, ImageChunk):
        return len(chunk.data)
    if isinstance(chunk, DmelChunk):
        return len(chunk.dmel)
    return len(chunk.location)


# ------------------------------------------------------------------------------------ encoding


def _encode_setting(message: pb.ForwardBackwardRequest, name: str, value: object) -> None:
    if isinstance(value, str):
        message.loss_fn_config_v2[name].text = _text(value, f"loss_fn_config.{name}")
        return
    try:
        number = float(value)  # type: ignore[arg-type]  # what is no number raises
    except (TypeError, ValueError, OverflowError) as error:
        field = f"loss_fn_config.{name}"
        raise ConfigError(f"{field}={value!r}: must be a number or a text", field=field) from error
    message.loss_fn_config[name] = number
    message.loss_fn_config_v2[name].number = number


def _encode_datum(message: pb.Datum, datum: Datum) -> None:
    for index, chunk in enumerate(datum.model_input.chunks):
        _encode_chunk(message.model_input.add(), chunk, f"model_input.chunks.{index}")
    for name, tensor in datum.loss_fn_inputs.items():
        encode_tensor(message.loss_fn_inputs[_text(name, "loss_fn_inputs")], tensor)
    for spans, target in (
        (datum.model_input_spans, message.model_input_spans),
        (datum.loss_fn_input_spans, message.loss_fn_input_spans),
    ):
        for span in spans or ():
            written = target.add()
            is_prompt = isinstance(span, PromptProvenanceSpan)
            place = written.prompt_tokens if is_prompt else written.sampled_tokens
            place.sequence_id = _text(span.sequence_id, "sequence_id")
            place.offset, place.length = span.offset, span.length


def _encode_chunk(message: pb.Chunk, chunk: ModelInputChunk, field: str) -> None:
    if isinstance(chunk, EncodedTextChunk):
        message.encoded_text.tokens = chunk.packed
        message.encoded_text.SetInParent()  # an empty chunk is still a chunk
    elif isinstance(chunk, ImageChunk):
        message.image.data = chunk.data
        message.image.format = chunk.format
        if chunk.expected_tokens is not None:
            if chunk.expected_tokens > _MAX_SEQ_ID:
                raise DataError(f"{field}.expected_tokens: too large", field=field)
            message.image.expected_tokens = chunk.expected_tokens
    elif isinstance(chunk, DmelChunk):
        message.dmel.dmel = chunk.dmel
        message.dmel.SetInParent()
    else:
        raise DataError(
            f"{field}: an {chunk.type} chunk cannot be trained on",
            field=field,
            hint="send the image itself, as an ImageChunk",
        )


def _text(value: str, field: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{field}={value!r}: not valid Unicode", field=field) from error
    return value


# ------------------------------------------------------------------------------------ decoding


def _decode_settings(message: pb.ForwardBackwardRequest) -> dict[str, float | str]:
    if not message.loss_fn_config_v2:
        return dict(message.loss_fn_config)
    settings: dict[str, float | str] = {}
    for name, value in message.loss_fn_config_v2.items():
        if value.WhichOneof("value") is None:
            field = f"loss_fn_config.{name}"
            raise ConfigError(f"{field}: has neither a number nor a text", field=field)
        settings[name] = value.text if value.WhichOneof("value") == "text" else value.number
    return settings


def _decode_indexed(message: pb.Datum, index: int) -> Datum:
    try:
        return _decode_datum(message)
    except UserError as error:
        raise _in_datum(error, index) from error


def _decode_datum(message: pb.Datum) -> Datum:
    chunks = [
        _decode_chunk(chunk, f"model_input.chunks.{index}")
        for index, chunk in enumerate(message.model_input)
    ]
    inputs = {name: _decode_input(name, tensor) for name, tensor in message.loss_fn_inputs.items()}
    spans = _decode_spans(message.model_input_spans, "model_input_spans")
    target_spans = _decode_spans(message.loss_fn_input_spans, "loss_fn_input_spans")
    return Datum(ModelInput.from_chunks(chunks), inputs, spans, target_spans)


def _decode_input(name: str, message: pb.Tensor) -> TensorData:
    try:
        return decode_tensor(message, field=f"loss_fn_inputs[{name!r}]")
    except DataError as error:
        raise DataError(error.message, field=name, hint=error.hint) from error


def _decode_chunk(message: pb.Chunk, field: str) -> ModelInputChunk:
    kind = message.WhichOneof("chunk")
    if kind == "encoded_text":
        return _text_chunk(message.encoded_text.tokens, f"{field}.tokens")
    if kind == "dmel":
        return DmelChunk(dmel=message.dmel.dmel)
    if kind == "image":
        image = message.image
        expected = image.expected_tokens if image.HasField("expected_tokens") else None
        if image.format not in ("png", "jpeg"):
            raise DataError(f"{field}.format={image.format!r}: must be png or jpeg", field=field)
        return ImageChunk(data=image.data, format=image.format, expected_tokens=expected)
    raise DataError(f"{field}: a chunk without content, or of an unknown kind", field=field)


def _text_chunk(packed: bytes, field: str) -> EncodedTextChunk:
    try:
        return EncodedTextChunk.from_packed(packed)
    except DataError as error:
        message = f"{field}: {error.message.removeprefix('tokens: ')}"
        raise DataError(message, field=field, hint=error.hint) from error


def _decode_spans(spans: Iterable[pb.ProvenanceSpan], field: str) -> list[ProvenanceSpan] | None:
    decoded: list[ProvenanceSpan] = []
    for span in spans:
        kind = span.WhichOneof("span")
        if kind is None:
            raise DataError(f"{field}: a span without content", field=field)
        place = span.prompt_tokens if kind == "prompt_tokens" else span.sampled_tokens
        made = PromptProvenanceSpan if kind == "prompt_tokens" else SampledProvenanceSpan
        decoded.append(
            made(sequence_id=place.sequence_id, offset=place.offset, length=place.length)
        )
    return decoded or None


def _in_datum(error: UserError, index: int) -> DataError:
    return DataError(
        f"data[{index}].{error.message}", field=error.field, hint=error.hint, datum_index=index
    )
