r"""Qwen3: ChatML with thinking before the answer, and tools as JSON.

The template shows thinking of the current question alone. The *query* is the last user message
that is no tool result in disguise. An assistant message after it has its thinking; before it the
thinking is gone. The final message always has a block, `<think>\n\n</think>\n\n` where nothing was
thought. So history changes as a conversation grows: there is no extension property, unless
`keep_thinking` writes every turn's block.

| name | opening of a reply | checkpoint |
|---|---|---|
| `qwen3` | nothing: the model opens its thinking | Qwen3-*B |
| `qwen3_disable_thinking` | an empty block | the same, `enable_thinking=False` |
| `qwen3_thinking` | `<think>\n` | Qwen3-*-Thinking-2507 |
| `qwen3_instruct` | nothing, no thinking at all | Qwen3-*-Instruct-2507 |

Source: chat templates of Qwen/Qwen3-8B, Qwen3-4B-Thinking-2507, Qwen3-4B-Instruct-2507.
Deviations: a content of several text parts is written joined (the templates write nothing for it),
a `developer` message is refused (they drop it), and so is thinking under `qwen3_instruct`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from functools import partial
from typing import ClassVar, Literal

from tinsmith.renderers.base import Renderer, RendererFactory
from tinsmith.renderers.chatml import IM_END, IM_START, close_turn, open_turn
from tinsmith.renderers.chats import Chat, Feature, Turn
from tinsmith.renderers.messages import RendererError, ToolSpec
from tinsmith.renderers.replies import ReplyReader
from tinsmith.renderers.scripts import Script
from tinsmith.renderers.tagged_replies import ParsedCall, ReplyFormat
from tinsmith.renderers.tokenizers import Tokenizer
from tinsmith.renderers.tool_calls import arguments_text, read_json_call, to_json

EMPTY_THINKING = "<think>\n\n</think>\n\n"
_TOOLS_BEFORE = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_TOOLS_AFTER = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


class Qwen3Mode(StrEnum):
    """How a reply opens."""

    FREE = "free"
    """The model decides whether it thinks."""
    CLOSED = "closed"
    """The prompt holds an empty block: no thinking."""
    FORCED = "forced"
    """The prompt opens the block: always thinking."""
    NONE = "none"
    """A model that knows no thinking."""


_OPENINGS = {
    Qwen3Mode.FREE: "",
    Qwen3Mode.CLOSED: EMPTY_THINKING,
    Qwen3Mode.FORCED: "<think>\n",
    Qwen3Mode.NONE: "",
}


class Qwen3Renderer(Renderer):
    """Qwen3 and its 2507 releases.

    Args:
        tokenizer: A Qwen3 tokenizer.
        mode: How a reply opens.
        keep_thinking: Write the thinking of every turn, unlike the template, so that a longer
            conversation extends a shorter one.
        name: Registered name.
        special_text: See `Renderer`.
    """

    name = "qwen3"
    roles: ClassVar[tuple[str, ...]] = ("system", "user", "assistant", "tool")
    control_tokens: ClassVar[tuple[str, ...]] = (IM_START, IM_END)
    stop_tokens: ClassVar[tuple[str, ...]] = (IM_END,)

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        mode: Qwen3Mode | Literal["free", "closed", "forced", "none"] = Qwen3Mode.FREE,
        keep_thinking: bool = False,
        name: str | None = None,
        special_text: Literal["text", "control"] = "text",
    ) -> None:
        super().__init__(tokenizer, name=name, special_text=special_text)
        self.mode = Qwen3Mode(mode)
        self.keep_thinking = keep_thinking
        thinks = self.mode is not Qwen3Mode.NONE
        self.features = frozenset({Feature.TOOLS, Feature.THINKING} if thinks else {Feature.TOOLS})
        self.has_extension_property = keep_thinking or not thinks

    def write(self, chat: Chat, script: Script) -> None:
        write_system(chat, script)
        query = last_query(chat.turns)
        for turn in chat.turns:
            script.message = turn.index
            if turn.role == "assistant":
                self._write_assistant(chat, turn, query, script)
            elif turn.role == "tool":
                write_tool_result(chat, turn, script)
            elif turn.role != "system" or turn.index:
                open_turn(script, turn.role)
                script.output(turn.text)
                close_turn(script)

    def write_opening(self, chat: Chat, role: str, script: Script) -> None:
        open_turn(script, role)
        if role == "assistant":
            script.header(_OPENINGS[self.mode])

    def make_reader(self) -> ReplyReader:
        return replace(
            JSON_CALLS,
            think=None if self.mode is Qwen3Mode.NONE else ("<think>", "</think>"),
            is_prefilled=self.mode is Qwen3Mode.FORCED,
        ).reader()

    def check_target(self, chat: Chat) -> None:
        if self.mode is Qwen3Mode.CLOSED:
            turn = chat.turns[-1]
            refuse_thinking(turn, split_thinking(turn)[0], self.name)

    def _write_assistant(self, chat: Chat, turn: Turn, query: int, script: Script) -> None:
        open_turn(script, turn.role)
        thinking, text = "", turn.text
        if self.mode is not Qwen3Mode.NONE:
            thinking, text = split_thinking(turn)
        is_shown = turn.index > query and (turn is chat.last or thinking)
        if self.mode is not Qwen3Mode.NONE and (is_shown or self.keep_thinking):
            write_think_block(thinking.strip("\n"), _OPENINGS[self.mode], script)
            script.output(text.lstrip("\n"))
        else:
            script.output(text)
        write_json_calls(turn, text, script)
        close_turn(script)


def write_think_block(thinking: str, opening: str, script: Script) -> None:
    """Write the block of a turn; what a prompt (`opening`) holds of it is header."""
    block = f"<think>\n{thinking}\n</think>\n\n"
    given = opening if block.startswith(opening) else ""
    script.header(given)
    script.output(block[len(given) :])


def refuse_thinking(turn: Turn, thinking: str, name: str) -> None:
    """Refuse a trained answer that thinks where the prompt closes the block."""
    if thinking.strip():
        raise RendererError(
            f"message {turn.index}: the answer holds thinking, and {name} closes the think block "
            "in the prompt",
            field="content",
            hint="take the thinking out, or use the renderer that thinks",
            message_index=turn.index,
        )


def write_json_calls(turn: Turn, text: str, script: Script) -> None:
    """Write calls as JSON between tags, a line break before each but a first one without text."""
    for place, call in enumerate(turn.tool_calls):
        separator = "\n" if place or text else ""
        name = call["function"]["name"]
        script.output(
            f'{separator}<tool_call>\n{{"name": "{name}", "arguments": {arguments_text(call)}}}'
            "\n</tool_call>"
        )


def split_thinking(turn: Turn) -> tuple[str, str]:
    """Thinking and text of an assistant message; thinking may stand in the text, between tags."""
    if turn.thinking is not None:
        return turn.thinking, turn.text
    before, closing, _ = turn.text.partition("</think>")
    if not closing:
        return "", turn.text
    thinking = before.rstrip("\n").split("<think>")[-1].lstrip("\n")
    return thinking, turn.text.split("</think>")[-1].lstrip("\n")


def last_query(turns: Sequence[Turn]) -> int:
    """Place of the last user message that is no tool result written as one."""
    for turn in reversed(turns):
        if turn.role == "user" and not (
            turn.text.startswith("<tool_response>") and turn.text.endswith("</tool_response>")
        ):
            return turn.index
    return len(turns) - 1


def write_system(chat: Chat, script: Script) -> None:
    """Write the first system message, with the tools if there are any."""
    first = chat.turns[0] if chat.turns and chat.turns[0].role == "system" else None
    if first is None and not chat.tools:
        return
    script.message = 0 if first is not None else -1
    open_turn(script, "system")
    if not chat.tools:
        script.output(first.text if first is not None else "")
    else:
        own = f"{first.text}\n\n" if first is not None else ""
        script.output(own + declare_tools(chat.tools))
    close_turn(script)


def declare_tools(tools: Sequence[ToolSpec]) -> str:
    """The tools section of the system message."""
    lines = "".join(f"\n{to_json(tool)}" for tool in tools)
    return f"{_TOOLS_BEFORE}{lines}{_TOOLS_AFTER}"


def write_tool_result(chat: Chat, turn: Turn, script: Script) -> None:
    """Write a tool's result; results in a row share one user turn."""
    turns, index = chat.turns, turn.index
    if index == 0 or turns[index - 1].role != "tool":
        script.control(IM_START)
        script.header("user")
    script.header("\n")
    script.output(f"<tool_response>\n{turn.text}\n</tool_response>")
    if index == len(turns) - 1 or turns[index + 1].role != "tool":
        close_turn(script)


def _read_call(text: str) -> list[ParsedCall]:
    return [read_json_call(text.strip())]


JSON_CALLS = ReplyFormat(
    think=None, call=("<tool_call>", "</tool_call>"), read_calls=_read_call, before_call="\n"
)
"""How Qwen3's calls are read."""

RENDERERS: dict[str, RendererFactory] = {
    "qwen3": Qwen3Renderer,
    "qwen3_disable_thinking": partial(Qwen3Renderer, mode=Qwen3Mode.CLOSED),
    "qwen3_thinking": partial(Qwen3Renderer, mode=Qwen3Mode.FORCED),
    "qwen3_instruct": partial(Qwen3Renderer, mode=Qwen3Mode.NONE),
}
