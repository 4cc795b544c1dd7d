"""Images: sizes read from the files' headers, tokens as the model's processor counts them."""

import ast
import base64
import importlib.util
import io
import math
import struct
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.renderers.families import standin
from tinsmith.renderers import Message, RendererError, get_renderer
from tinsmith.renderers.pictures import PatchGrid, load_picture
from tinsmith.types import EncodedTextChunk, ImageChunk


def png(width: int, height: int) -> bytes:
    """A valid PNG of one grey."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x80" * width) * height)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def jpeg(width: int, height: int) -> bytes:
    """The header of a JPEG: application data, a table, a progressive frame."""
    frame = b"\xff\xc2" + struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\x01\x11\x00"
    table = b"\xff\xc4\x00\x05abc"
    return b"\xff\xd8\xff\xe0\x00\x10JFIF\0" + b"\0" * 9 + table + b"\xff" + frame + b"\xff\xd9"


@pytest.mark.parametrize(("data", "kind"), [(png(40, 30), "png"), (jpeg(40, 30), "jpeg")])
def test_kind_and_size_are_in_the_header(data: bytes, kind: str) -> None:
    assert load_picture(data) == (data, kind, 30, 40)


@cache
def smart_resize() -> Any:
    """The function of transformers, without its module, which needs an image library."""
    found = importlib.util.find_spec("transformers")
    assert found is not None
    assert found.origin is not None
    models = Path(found.origin).parent / "models"
    module = ast.parse((models / "qwen2_vl" / "image_processing_qwen2_vl.py").read_text("utf-8"))
    [function] = [n for n in module.body if getattr(n, "name", "") == "smart_resize"]
    names: dict[str, Any] = {"math": math}
    exec(compile(ast.Module([function], []), "smart_resize", "exec"), names)
    return names["smart_resize"]


@given(height=st.integers(1, 5000), width=st.integers(1, 5000))
def test_tokens_are_those_of_the_models_own_processor(height: int, width: int) -> None:
    grid = PatchGrid()
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(RendererError, match="200 times"):
            grid.num_tokens(height, width)
        return
    rows, columns = smart_resize()(
        height, width, factor=32, min_pixels=grid.min_pixels, max_pixels=grid.max_pixels
    )
    assert grid.num_tokens(height, width) == rows * columns // 32**2


def test_an_image_may_come_as_bytes_path_address_or_pil_image(tmp_path: Path) -> None:
    class PilLike:
        def save(self, buffer: io.BytesIO, **options: str) -> None:
            assert options == {"format": "PNG"}
            buffer.write(png(3, 2))

    path = tmp_path / "a.png"
    path.write_bytes(png(3, 2))
    address = "data:image/png;base64," + base64.b64encode(png(3, 2)).decode()
    for image in (png(3, 2), path, str(path), address, PilLike()):
        assert load_picture(image).data == png(3, 2)


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (b"GIF89a", "neither a PNG nor a JPEG"),
        (b"\xff\xd8\xff", "neither a PNG nor a JPEG"),
        ("data:image/png;base64,!!", "not base64"),
        ("https://example.org/a.png", "address on the net"),
        ("/no/such/file.png", "No such file"),
        (12, "type int"),
    ],
)
def test_what_is_no_image_is_named(image: Any, problem: str) -> None:
    with pytest.raises(RendererError, match=problem) as caught:
        load_picture(image)
    assert caught.value.hint


QUESTION: list[Message] = [
    {
        "role": "user",
        "content": [
            {"type": "image", "image": png(640, 480)},
            {"type": "text", "text": "What is it?"},
        ],
    },
    {"role": "assistant", "content": "Grey."},
]


@pytest.mark.parametrize(
    ("name", "vocabulary"), [("qwen3_vl_instruct", "qwen2-qwen3"), ("qwen3_6", "qwen3_5")]
)
def test_an_image_is_a_chunk_between_its_marks(name: str, vocabulary: str) -> None:
    tokenizer = standin(vocabulary)
    renderer = get_renderer(name, tokenizer)
    example = renderer.build_supervised_example(QUESTION, "all_messages")
    before, image, after = example.model_input.chunks
    assert isinstance(before, EncodedTextChunk)
    assert isinstance(after, EncodedTextChunk)
    assert tokenizer.decode(before.tokens).endswith("user\n<|vision_start|>")
    assert tokenizer.decode(after.tokens).startswith("<|vision_end|>What is it?<|im_end|>")
    assert isinstance(image, ImageChunk)
    assert image.expected_tokens == (640 // 32) * (480 // 32)
    assert len(example.weights) == example.model_input.length
    start = len(before.tokens)
    assert not example.weights[start : start + image.expected_tokens].any()
    assert renderer.max_num_tokens(QUESTION) >= example.model_input.length


def test_images_in_openais_form_are_read() -> None:
    address = "data:image/png;base64," + base64.b64encode(png(64, 64)).decode()
    message: Any = {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": address}}],
    }
    renderer = get_renderer("qwen3_vl_instruct", standin("qwen2-qwen3"))
    prompt = renderer.build_generation_prompt([message])
    assert [chunk.type for chunk in prompt.chunks] == ["encoded_text", "image", "encoded_text"]


def test_a_format_without_images_says_so() -> None:
    renderer = get_renderer("qwen3", standin("qwen2-qwen3"))
    with pytest.raises(RendererError, match="content part type='image'"):
        renderer.build_supervised_example(QUESTION)
