"""`ModelInput`: what a model reads, a sequence of chunks of text tokens, images or audio.

The engine that ships today reads text; the other chunks exist so that data written for the Tinker
SDK can be described and is refused by name, not by accident.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, Self, cast

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator
from pydantic.json_schema import WithJsonSchema

from tinsmith.core.errors import DataError
from tinsmith.types._arrays import to_token_array
from tinsmith.types._model import RequestModel, allowed

__all__ = [
    "DmelChunk",
    "EncodedTextChunk",
    "ImageAssetPointerChunk",
    "ImageChunk",
    "ModelInput",
    "ModelInputChunk",
]


def _token_list(value: object) -> list[int]:
    return to_token_array(value).tolist()


def _decoded(value: object) -> object:
    # Text is what JSON carries; bytes come from Python callers as they are.
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise DataError(f"not base64: {error}") from error
    return value


def _encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()


Tokens = Annotated[
    list[int],
    PlainValidator(_token_list),
    WithJsonSchema({"type": "array", "items": {"type": "integer", "minimum": 0}}),
]
Base64Bytes = Annotated[
    bytes,
    BeforeValidator(_decoded),
    PlainSerializer(_encoded, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]
NumTokens = Annotated[int | None, allowed(lambda n: n >= 0, "must be 0 or more")]


class EncodedTextChunk(RequestModel):
    """Tokens of text; takes lists, tuples and NumPy arrays of whole numbers."""

    tokens: Tokens
    type: Literal["encoded_text"] = "encoded_text"

    @classmethod
    def from_packed(cls, packed: bytes) -> EncodedTextChunk:
        """Take tokens as the wire carries them, little-endian int32.

        Raises:
            DataError: not a whole number of them, or a negative one.
        """
        if len(packed) % 4:
            raise DataError(f"{len(packed)} bytes, not a whole number of int32s", field="tokens")
        tokens = to_token_array(np.frombuffer(packed, "<i4")).tolist()
        # `packed` where cached_property looks for it
        return cls._of_checked({"tokens": tokens, "type": "encoded_text", "packed": packed})

    @classmethod
    def from_checked(cls, tokens: list[int]) -> EncodedTextChunk:
        """Take tokens that are known to be whole numbers from 0, without looking at them again."""
        return cls._of_checked({"tokens": tokens, "type": "encoded_text"})

    @cached_property
    def packed(self) -> bytes:
        """The tokens as the wire carries them, little-endian int32."""
        return np.asarray(self.tokens, "<i4").tobytes()

    @property
    def tokens_np(self) -> npt.NDArray[np.int32]:
        """The tokens as a read-only array."""
        return np.frombuffer(self.packed, "<i4")

    @property
    def length(self) -> int:
        return len(self.tokens)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy; other tokens are packed anew."""
        copied = super().model_copy(update=update, deep=deep)
        return type(self)._of_checked({"tokens": copied.tokens, "type": copied.type})

    def __reduce__(self) -> tuple[Any, ...]:  # Any: the protocol of pickle
        return EncodedTextChunk.from_packed, (self.packed,)


class ImageChunk(RequestModel):
    """An image file."""

    data: Base64Bytes
    format: Literal["png", "jpeg"]
    expected_tokens: NumTokens = None
    """What the caller reckons with; a service may refuse at once when it is wrong."""
    type: Literal["image"] = "image"

    @property
    def length(self) -> int:
        return _expected(self.expected_tokens, self.type)


class ImageAssetPointerChunk(RequestModel):
    """An image that the service fetches from a location. Cannot be trained on."""

    format: Literal["png", "jpeg"]
    location: str
    expected_tokens: NumTokens = None
    type: Literal["image_asset_pointer"] = "image_asset_pointer"

    @property
    def length(self) -> int:
        return _expected(self.expected_tokens, self.type)


class DmelChunk(RequestModel):
    """Audio as a serialized tensor: [marker 254] dtype ndim dim... values, sizes as varints."""

    dmel: Base64Bytes
    type: Literal["dmel"] = "dmel"

    @property
    def length(self) -> int:
        return _first_dimension(self.dmel)


ModelInputChunk = Annotated[
    EncodedTextChunk | ImageChunk | ImageAssetPointerChunk | DmelChunk,
    Field(discriminator="type"),
]


def _of_text(chunk: object) -> object:
    """Clients before release 0.24 leave out the type of text, the only kind that has tokens."""
    if isinstance(chunk, dict) and "tokens" in chunk and "type" not in chunk:
        return {**cast("dict[str, object]", chunk), "type": "encoded_text"}
    return cast("object", chunk)


class ModelInput(RequestModel):
    """What a model reads, as chunks; appending returns a new input.

    Example:
        >>> ModelInput.from_ints([1, 2]).append_int(3).to_ints()
        [1, 2, 3]
    """

    chunks: list[Annotated[ModelInputChunk, BeforeValidator(_of_text)]]

    @classmethod
    def from_ints(cls, tokens: Sequence[int] | npt.NDArray[np.integer[Any]]) -> ModelInput:
        """Make an input of text tokens alone."""
        return cls(chunks=[EncodedTextChunk(tokens=tokens)])  # type: ignore[arg-type]  # validated

    @classmethod
    def empty(cls) -> ModelInput:
        """Make an input without chunks."""
        return cls(chunks=[])

    def to_ints(self) -> list[int]:
        """Return the tokens.

        Raises:
            DataError: a chunk is not text.
        """
        tokens: list[int] = []
        for index, chunk in enumerate(self.chunks):
            if not isinstance(chunk, EncodedTextChunk):
                field = f"chunks.{index}"
                raise DataError(f"{field}: {chunk.type}, which has no token ids", field=field)
            tokens.extend(chunk.tokens)
        return tokens

    @property
    def length(self) -> int:
        """Tokens in all; images count what their sender expects."""
        return sum(chunk.length for chunk in self.chunks)

    @classmethod
    def from_chunks(cls, chunks: list[ModelInputChunk]) -> ModelInput:
        """Take chunks that are known to be chunks, without looking at them again."""
        return cls._of_checked({"chunks": chunks})

    def __reduce__(self) -> tuple[Any, ...]:  # Any: the protocol of pickle
        return ModelInput.from_chunks, (self.chunks,)

    def append(self, chunk: ModelInputChunk) -> ModelInput:
        """Return an input with one more chunk."""
        return ModelInput(chunks=[*self.chunks, chunk])

    def append_int(self, token: int) -> ModelInput:
        """Return an input with one more token, in a chunk of its own."""
        return self.append(EncodedTextChunk(tokens=[token]))

    def __repr__(self) -> str:
        shown = ", ".join(_short(chunk) for chunk in self.chunks[:4])
        return f"ModelInput([{shown}{', ...' if len(self.chunks) > 4 else ''}])"

    __str__ = __repr__


def _short(chunk: ModelInputChunk) -> str:
    if not isinstance(chunk, EncodedTextChunk):
        return chunk.type
    head = ", ".join(map(str, chunk.tokens[:6]))
    return f"{chunk.length} tokens: {head}{', ...' if chunk.length > 6 else ''}"


def _expected(num_tokens: int | None, kind: str) -> int:
    if num_tokens is None:
        raise DataError(
            f"expected_tokens=None: the length of a {kind} chunk is not known",
            field="expected_tokens",
            hint="set expected_tokens",
        )
    return num_tokens


def _first_dimension(container: bytes) -> int:
    position = 1 if container[:1] == b"\xfe" else 0
    if position >= len(container) or container[position] > 7:
        raise DataError("dmel: not a serialized tensor", field="dmel")
    num_dims, position = _varint(container, position + 1)
    if num_dims < 1:
        raise DataError("dmel: a tensor without dimensions", field="dmel")
    return _varint(container, position)[0]


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise DataError("dmel: the header is cut off", field="dmel")
