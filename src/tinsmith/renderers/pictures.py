"""Images in a conversation: from what users give to the chunk that a service reads.

`load_picture` takes bytes, a path, a `data:` address or a PIL image; `PatchGrid` (Qwen) and
`PaddedGrid` (Kimi) know how many tokens a vision model makes of it. Sizes are read from the file's
own header: no image library.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tinsmith.renderers.messages import RendererError
from tinsmith.types import ImageChunk


class LoadedPicture(NamedTuple):
    """An image file and its size in pixels."""

    data: bytes
    format: Literal["png", "jpeg"]
    height: int
    width: int


@dataclass(frozen=True)
class PatchGrid:
    """How a vision model cuts an image into tokens.

    The image is scaled to sides that are multiples of `patch_size * merge_size`, with at least
    `min_pixels` and at most `max_pixels`; every such square is a token.
    Source: `smart_resize` of Qwen2-VL's image processor in transformers.
    """

    patch_size: int = 16
    merge_size: int = 2
    min_pixels: int = 65_536
    max_pixels: int = 16_777_216

    def num_tokens(self, height: int, width: int) -> int:
        """Tokens of an image.

        Raises:
            RendererError: It is more than 200 times as long as it is wide.
        """
        if max(height, width) > 200 * min(height, width):
            raise RendererError(
                f"image of {width} x {height} pixels: one side is more than 200 times the other",
                field="content",
                hint="crop it",
            )
        side = self.patch_size * self.merge_size
        rows, columns = (max(1, round(length / side)) for length in (height, width))
        if rows * columns * side * side > self.max_pixels:
            shrink = math.sqrt(height * width / self.max_pixels)
            rows, columns = (
                max(1, math.floor(length / shrink / side)) for length in (height, width)
            )
        elif rows * columns * side * side < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (height * width))
            rows, columns = (math.ceil(length * grow / side) for length in (height, width))
        return rows * columns

    def chunk(self, image: Any) -> ImageChunk:
        """The chunk that carries an image, with the tokens to reckon with."""
        data, kind, height, width = load_picture(image)
        return ImageChunk(data=data, format=kind, expected_tokens=self.num_tokens(height, width))


@dataclass(frozen=True)
class PaddedGrid:
    """How Kimi's vision model cuts an image into tokens: shrunk if need be, then padded.

    An image keeps its size unless it has more than `max_patches` patches in all, or more than
    `max_patches_a_side` along a side; it is padded to whole squares of
    `patch_size * merge_size`, and every square is a token.
    Source: `navit_resize_image` beside the processor of moonshotai/Kimi-K2.5.
    """

    patch_size: int = 14
    merge_size: int = 2
    max_patches: int = 16_384
    max_patches_a_side: int = 512

    def num_tokens(self, height: int, width: int) -> int:
        """Tokens of an image."""
        longest = self.max_patches_a_side * self.patch_size
        patches = max(1, width // self.patch_size) * max(1, height // self.patch_size)
        scale = min(1.0, math.sqrt(self.max_patches / patches), longest / width, longest / height)
        side = self.patch_size * self.merge_size
        rows, columns = (
            math.ceil(min(max(1, int(length * scale)), longest) / side)
            for length in (height, width)
        )
        return rows * columns

    def chunk(self, image: Any) -> ImageChunk:
        """The chunk that carries an image, with the tokens to reckon with."""
        data, kind, height, width = load_picture(image)
        return ImageChunk(data=data, format=kind, expected_tokens=self.num_tokens(height, width))


def load_picture(image: Any) -> LoadedPicture:
    """Read an image.

    Args:
        image: Bytes of a PNG or JPEG file, a path, a `data:` address, or a PIL image.

    Raises:
        RendererError: It cannot be read, or is neither PNG nor JPEG.
    """
    data = _bytes_of(image)
    size = _png_size(data) or _jpeg_size(data)
    if size is None:
        raise _unreadable("it is neither a PNG nor a JPEG file", "convert it")
    kind: Literal["png", "jpeg"] = "png" if data.startswith(_PNG) else "jpeg"
    return LoadedPicture(data, kind, *size)


def _bytes_of(image: Any) -> bytes:
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str) and image.startswith("data:"):
        _, _, encoded = image.partition(",")
        try:
            return base64.b64decode(encoded, validate=True)
        except binascii.Error as error:
            raise _unreadable(f"its data: address is not base64 ({error})", "encode it") from error
    if isinstance(image, str) and image.startswith(("http://", "https://")):
        raise _unreadable("it is an address on the net", "download it, and give path or bytes")
    if isinstance(image, str | Path):
        try:
            return Path(image).expanduser().read_bytes()
        except OSError as error:
            raise _unreadable(f"{image}: {error.strerror}", "check the path") from error
    if hasattr(image, "save"):  # a PIL image; PIL itself is not needed here
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        return buffer.getvalue()
    raise _unreadable(f"it has type {type(image).__name__}", "give bytes, a path or a PIL image")


def _unreadable(what: str, cure: str) -> RendererError:
    return RendererError(f"an image cannot be read: {what}", field="content", hint=cure)


_PNG = b"\x89PNG\r\n\x1a\n"


def _png_size(data: bytes) -> tuple[int, int] | None:
    """Height and width, from the header chunk that comes first."""
    if not data.startswith(_PNG) or data[12:16] != b"IHDR" or len(data) < 24:
        return None
    width, height = struct.unpack(">II", data[16:24])
    return (height, width) if height and width else None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Height and width, from the first start-of-frame segment."""
    if not data.startswith(b"\xff\xd8"):
        return None
    place = 2
    while place + 9 <= len(data):
        if data[place] != 0xFF:
            return None
        marker = data[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[place + 5 : place + 9])
            return (height, width) if height and width else None
        place += 2 + struct.unpack(">H", data[place + 2 : place + 4])[0]
    return None
