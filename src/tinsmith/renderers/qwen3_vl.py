"""Qwen3-VL-Instruct: Qwen3 without thinking, with images.

An image stands where it is put, between `<|vision_start|>` and `<|vision_end|>`. The template
writes one `<|image_pad|>` there, which the model's processor repeats for every token of the image;
here an `ImageChunk` that says how many tokens it will be takes its place.

Source: chat template of Qwen/Qwen3-VL-4B-Instruct. Deviations: what the template drops is refused:
developer messages, a system message that is not the first, images in a system message, and
thinking.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from tinsmith.renderers.base import Renderer, RendererFactory
from tinsmith.renderers.chatml import IM_END, IM_START, close_turn, open_turn
from tinsmith.renderers.chats import Chat, Feature, Picture, Turn
from tinsmith.renderers.messages import RendererError
from tinsmith.renderers.pictures import PatchGrid
from tinsmith.renderers.qwen3 import JSON_CALLS, write_json_calls, write_system
from tinsmith.renderers.replies import ReplyReader
from tinsmith.renderers.scripts import Part, Script
from tinsmith.renderers.tokenizers import Tokenizer

VISION_START = "<|vision_start|>"
VISION_END = "<|vision_end|>"
IMAGE_PAD = "<|image_pad|>"
CONTROL_TOKENS = (IM_START, IM_END, VISION_START, VISION_END, IMAGE_PAD)


class Qwen3VLRenderer(Renderer):
    """Qwen3-VL-Instruct.

    Args:
        tokenizer: A Qwen3 tokenizer.
        grid: How images become tokens.
        number_pictures: Write `Picture 1: ` and so on before the images.
        name: Registered name.
        special_text: See `Renderer`.
    """

    name = "qwen3_vl_instruct"
    roles: ClassVar[tuple[str, ...]] = ("system", "user", "assistant", "tool")
    features = frozenset({Feature.TOOLS, Feature.IMAGES})
    control_tokens: ClassVar[tuple[str, ...]] = CONTROL_TOKENS
    stop_tokens: ClassVar[tuple[str, ...]] = (IM_END,)

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        grid: PatchGrid | None = None,
        number_pictures: bool = False,
        name: str | None = None,
        special_text: Literal["text", "control"] = "text",
    ) -> None:
        super().__init__(tokenizer, name=name, special_text=special_text)
        self.grid = grid or PatchGrid()
        self.number_pictures = number_pictures

    def write(self, chat: Chat, script: Script) -> None:
        if chat.turns and chat.turns[0].role == "system":
            refuse_pictures(chat.turns[0], self.name)
        write_system(chat, script)
        num_pictures = 0
        for turn in chat.turns:
            script.message = turn.index
            first_number = num_pictures + 1 if self.number_pictures else None
            num_pictures += sum(isinstance(part, Picture) for part in turn.parts)
            if turn.role == "tool":
                write_result_with_parts(chat, turn, script, first_number)
            elif turn.role != "system":
                open_turn(script, turn.role)
                write_parts(turn.parts, script, first_number)
                write_json_calls(turn, turn.text, script)
                close_turn(script)
            elif turn.index:
                refuse_late_system(turn, self.name)

    def write_opening(self, chat: Chat, role: str, script: Script) -> None:
        open_turn(script, role)

    def make_reader(self) -> ReplyReader:
        return JSON_CALLS.reader()

    def picture_chunk(self, picture: Any) -> Any:
        return self.grid.chunk(picture)


def write_result_with_parts(
    chat: Chat, turn: Turn, script: Script, first_number: int | None = None
) -> None:
    """Write a tool's result, text and images; results in a row share one user turn."""
    turns, index = chat.turns, turn.index
    if index == 0 or turns[index - 1].role != "tool":
        script.control(IM_START)
        script.header("user")
    script.header("\n")
    script.output("<tool_response>\n")
    write_parts(turn.parts, script, first_number)
    script.output("\n</tool_response>")
    if index == len(turns) - 1 or turns[index + 1].role != "tool":
        close_turn(script)


def refuse_pictures(turn: Turn, name: str) -> None:
    """Refuse images in a message that has no place for them."""
    if any(isinstance(part, Picture) for part in turn.parts):
        raise RendererError(
            f"message {turn.index}: {name} has no image in a message with the role {turn.role}",
            field="content",
            hint="put it into a message of the user",
            message_index=turn.index,
        )


def write_parts(
    parts: Sequence[str | Picture], script: Script, first_number: int | None = None
) -> None:
    """Write texts and images in their order; images may be numbered."""
    number = first_number
    for part in parts:
        if isinstance(part, str):
            script.output(part)
            continue
        if number is not None:
            script.output(f"Picture {number}: ")
            number += 1
        script.control(VISION_START, Part.OUTPUT)
        script.picture(part.image, IMAGE_PAD)
        script.control(VISION_END, Part.OUTPUT)


def refuse_late_system(turn: Turn, name: str) -> None:
    """Refuse a system message that is not the first: the templates drop or refuse it."""
    raise RendererError(
        f"message {turn.index}: {name} takes a system message at the beginning only",
        field="role",
        hint="move it to the front, or make a user message of it",
        message_index=turn.index,
    )


RENDERERS: dict[str, RendererFactory] = {"qwen3_vl_instruct": Qwen3VLRenderer}
