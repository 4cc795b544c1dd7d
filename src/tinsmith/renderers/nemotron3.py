r"""Nemotron 3 Nano, Super and Ultra: ChatML with a think block in every answer, calls in tags.

There is always a system turn, empty if need be, with the tools after its text. An answer begins
with `<think>\n...\n</think>\n`, or `<think></think>` where nothing was thought; Ultra has no line
breaks around `</think>`. The block is emptied before the last user message. The answer is trimmed
as a whole, its block included.

| name | template |
|---|---|
| `nemotron3` | Nano, Super |
| `nemotron3_low_thinking` | Super, `low_effort=True`: a note in the last user message |
| `nemotron3_ultra` | Ultra |
| `nemotron3_ultra_medium_thinking` | Ultra, `medium_effort=True`: a note in the last user message |
| `..._disable_thinking`: a reply opens with `<think></think>` | `enable_thinking=False` |
| `..._preserve_thinking`: history keeps its thinking | `truncate_history_thinking=False` |

Source: chat templates of nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16, -Super-120B-A12B-BF16 and
-Ultra-550B-A55B-BF16.
Deviations: a trained last message continues its prompt, `<think>\n`, so that one without thinking
begins with `</think>` (the templates write `<think></think>`), and its thinking is trimmed. Text
parts are joined (the templates write the list); arguments given as JSON text are read (they refuse
them); a tool's result that comes first is a turn like any other (they do not open it). In
text the tags are letters, unless they frame thinking at the beginning of an answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from tinsmith.renderers.base import Renderer, RendererFactory
from tinsmith.renderers.chatml import IM_END, IM_START, close_turn, open_turn
from tinsmith.renderers.chats import Chat, Feature, Turn
from tinsmith.renderers.messages import ToolSpec
from tinsmith.renderers.qwen3 import refuse_thinking, split_thinking
from tinsmith.renderers.replies import ReplyReader
from tinsmith.renderers.scripts import Part, Script
from tinsmith.renderers.tagged_replies import ReplyFormat
from tinsmith.renderers.tokenizers import Tokenizer
from tinsmith.renderers.xml_calls import (
    CALL_INSTRUCTIONS,
    CALL_TAGS,
    json_unless_scalar,
    read_xml_call,
    xml_call,
    xml_function,
)

THINK, END_THINK = "<think>", "</think>"
RESULT, END_RESULT = "<tool_response>", "</tool_response>"
EMPTY_BLOCK = THINK + END_THINK


@dataclass(frozen=True)
class Release:
    """What differs between the sizes.

    Attributes:
        label: The sizes.
        line: What stands on both sides of `</think>`.
        trims_called: Whether the text before calls is trimmed in history.
    """

    label: str
    line: str = "\n"
    trims_called: bool = True


NANO_AND_SUPER = Release("Nano and Super")
ULTRA = Release("Ultra", line="", trims_called=False)


class Nemotron3Renderer(Renderer):
    """Nemotron 3.

    Args:
        tokenizer: A Nemotron 3 tokenizer.
        release: Which size.
        thinks: Whether a reply opens with thinking, or with a closed block.
        keep_thinking: Whether history shows what was thought.
        effort: A word for how much to think, noted in the last user message.
        name: Registered name.
        special_text: See `Renderer`.
    """

    name = "nemotron3"
    roles: ClassVar[tuple[str, ...]] = ("system", "developer", "user", "assistant", "tool")
    features = frozenset({Feature.TOOLS, Feature.THINKING})
    control_tokens: ClassVar[tuple[str, ...]] = (
        IM_START, IM_END, THINK, END_THINK, *CALL_TAGS, RESULT, END_RESULT,
    )  # fmt: skip
    stop_tokens: ClassVar[tuple[str, ...]] = (IM_END,)

    def __init__(  # keywords, each an independent choice
        self,
        tokenizer: Tokenizer,
        *,
        release: Release = NANO_AND_SUPER,
        thinks: bool = True,
        keep_thinking: bool = False,
        effort: str | None = None,
        name: str | None = None,
        special_text: Literal["text", "control"] = "text",
    ) -> None:
        super().__init__(tokenizer, name=name, special_text=special_text)
        self.release = release
        self.thinks = thinks
        self.keep_thinking = keep_thinking
        self.effort = effort
        # A kept answer without thinking has another block than the prompt that it followed.
        self.has_extension_property = not thinks

    def write(self, chat: Chat, script: Script) -> None:
        turns = list(chat.turns)
        first = turns.pop(0) if turns and turns[0].role == "system" else None
        self._write_system(first, chat.tools, script)
        last_user = max((t.index for t in turns if t.role == "user"), default=-1)
        for turn in turns:
            script.message = turn.index
            if turn.role == "tool":
                _write_result(chat, turn, script)
                continue
            open_turn(script, turn.role)
            if turn.role == "assistant":
                self._write_answer(chat, turn, last_user, script)
            else:
                script.output(turn.text)
                if self.effort and turn.index == last_user:
                    script.header(f"\n\n{{reasoning effort: {self.effort}}}")
            close_turn(script)

    def write_opening(self, chat: Chat, role: str, script: Script) -> None:
        open_turn(script, role)
        if role == "assistant":
            script.control(THINK)
            if self.thinks:
                script.header("\n")
            else:
                script.control(END_THINK)

    def make_reader(self) -> ReplyReader:
        return ReplyFormat(
            think=(THINK, END_THINK) if self.thinks else None,
            is_prefilled=self.thinks,
            call=CALL_TAGS,
            read_calls=read_xml_call,
            before_call="\n",
        ).reader()

    def check_target(self, chat: Chat) -> None:
        if not self.thinks:
            refuse_thinking(chat.turns[-1], split_thinking(chat.turns[-1])[0], self.name)

    def _write_system(self, turn: Turn | None, tools: Sequence[ToolSpec], script: Script) -> None:
        script.message = -1 if turn is None else turn.index
        text = "" if turn is None else turn.text
        open_turn(script, "system")
        script.output(text)
        if tools:
            script.output(("\n\n" if text else "") + _declared(tools))
            for piece in re.split("(</?tool_call>)", CALL_INSTRUCTIONS):
                if piece in CALL_TAGS:
                    script.control(piece, Part.OUTPUT)
                else:
                    script.output(piece)
        close_turn(script)

    def _write_answer(self, chat: Chat, turn: Turn, last_user: int, script: Script) -> None:
        is_target = chat.trains and turn is chat.last
        body = self._target(turn) if is_target else self._body(turn, last_user)
        if body.startswith(EMPTY_BLOCK):
            script.control(THINK)
            script.control(END_THINK)
            script.output(body.removeprefix(EMPTY_BLOCK))
        elif body.startswith(THINK) and END_THINK in body:
            thinking, _, text = body.removeprefix(THINK).partition(END_THINK)
            script.control(THINK)
            script.header("\n" if thinking.startswith("\n") else "")
            script.output(thinking.removeprefix("\n"))
            script.control(END_THINK, Part.OUTPUT)
            script.output(text)
        else:
            script.output(body)
        script.output("\n" if turn.tool_calls else "")
        opening, closing = CALL_TAGS
        for call in turn.tool_calls:
            text = xml_call(call, turn.index, json_unless_scalar)
            script.control(opening, Part.OUTPUT)
            script.output(text.removeprefix(opening).removesuffix(closing))
            script.control(closing, Part.OUTPUT)
            script.output("\n")

    def _target(self, turn: Turn) -> str:
        """What a model produces, with what its prompt holds of it."""
        thinking, text = split_thinking(turn)
        line = self.release.line
        if not self.thinks:
            return (EMPTY_BLOCK + text).strip()
        thought = thinking.strip() + line if thinking.strip() else ""
        return f"{THINK}\n{thought}{END_THINK}{line}{text}".strip()

    def _body(self, turn: Turn, last_user: int) -> str:
        """Block and text as the template has them."""
        line, text = self.release.line, turn.text
        if turn.thinking and turn.thinking.strip():
            text = f"{THINK}\n{turn.thinking}{line}{END_THINK}{line}{text}"
        elif THINK not in text and END_THINK not in text:
            text = EMPTY_BLOCK + text
        if self.keep_thinking or turn.index >= last_user:
            return text.strip()
        if not turn.tool_calls:
            if THINK in text and END_THINK in text:
                text = EMPTY_BLOCK + text.split(END_THINK)[-1]
            return text.strip()
        after = text.split(END_THINK)[-1] if END_THINK in text else text.split(THINK)[0]
        return EMPTY_BLOCK + (after.strip() if self.release.trims_called else after)


def _write_result(chat: Chat, turn: Turn, script: Script) -> None:
    """Write a tool's result; results in a row share one user turn."""
    turns, index = chat.turns, turn.index
    if index == 0 or turns[index - 1].role != "tool":
        open_turn(script, "user")
    script.control(RESULT)
    script.header("\n")
    script.output(f"{turn.text}\n")
    script.control(END_RESULT, Part.OUTPUT)
    script.output("\n")
    if index == len(turns) - 1 or turns[index + 1].role != "tool":
        close_turn(script)


def _declared(tools: Sequence[ToolSpec]) -> str:
    declared = "".join(xml_function(tool, json_unless_scalar, has_lists=True) for tool in tools)
    opening = "# Tools\n\nYou have access to the following functions:\n\n<tools>"
    return f"{opening}{declared}\n</tools>"


_ULTRA = partial(Nemotron3Renderer, release=ULTRA)

RENDERERS: dict[str, RendererFactory] = {
    "nemotron3": Nemotron3Renderer,
    "nemotron3_low_thinking": partial(Nemotron3Renderer, effort="low"),
    "nemotron3_disable_thinking": partial(Nemotron3Renderer, thinks=False),
    "nemotron3_preserve_thinking": partial(Nemotron3Renderer, keep_thinking=True),
    "nemotron3_ultra": _ULTRA,
    "nemotron3_ultra_medium_thinking": partial(_ULTRA, effort="efficient"),
    "nemotron3_ultra_disable_thinking": partial(_ULTRA, thinks=False),
    "nemotron3_ultra_preserve_thinking": partial(_ULTRA, keep_thinking=True),
}
