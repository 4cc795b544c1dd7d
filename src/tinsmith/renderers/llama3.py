r"""Llama 3: header tokens, trimmed text, `<|eot_id|>`; from 3.1 on a dated system turn and tools.

| name | checkpoint | date in the system turn |
|---|---|---|
| `llama3` | Llama 3; 3.1 and later without their system block, as Tinker renders them | none |
| `llama3_1` | 3.1, 3.3 | 26 Jul 2024, fixed by the template |
| `llama3_2` | 3.2 | today, read once when the renderer is made; give `date` to fix it |

Llama 3 does not think: thinking is refused. A message makes one call at most and says nothing
beside it. Tool results are written as JSON, so text gets quotes.

Source: chat templates of meta-llama/Meta-Llama-3-8B-Instruct, Llama-3.1-8B-Instruct and
Llama-3.2-3B-Instruct. Deviations: arguments given as JSON text are written as the object they hold
(the templates write a quoted string); text beside a call is refused (they drop it); tools need a
user message first.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from functools import partial
from typing import ClassVar, Literal

from tinsmith.renderers.base import Renderer, RendererFactory
from tinsmith.renderers.chats import Chat, Feature, Turn
from tinsmith.renderers.deltas import Delta, TextDelta, ToolCallDelta, UnparsedToolCallDelta
from tinsmith.renderers.messages import RendererError
from tinsmith.renderers.replies import ReplyReader
from tinsmith.renderers.scripts import Part, Script
from tinsmith.renderers.tagged_replies import ReplyFormat
from tinsmith.renderers.tokenizers import Tokenizer
from tinsmith.renderers.tool_calls import arguments_object, read_json_call, to_json

BOS = "<|begin_of_text|>"
START = "<|start_header_id|>"
END = "<|end_header_id|>"
EOT = "<|eot_id|>"

DATE_OF_3_1 = "26 Jul 2024"
_CALL_FORM = (
    'Respond in the format {"name": function name, "parameters": dictionary of argument name and '
    "its value}.Do not use variables.\n\n"
)
_FOR_THE_USER = (
    "Given the following functions, please respond with a JSON for a function call with its proper "
    f"arguments that best answers the given prompt.\n\n{_CALL_FORM}"
)
_FOR_THE_SYSTEM = (
    "You have access to the following functions. To call a function, please respond with JSON for "
    f"a function call.{_CALL_FORM}"
)


class Llama3Renderer(Renderer):
    """Llama 3 without tools and without the dated system turn of later releases."""

    name = "llama3"
    roles: ClassVar[tuple[str, ...]] = ("system", "developer", "user", "assistant")
    control_tokens: ClassVar[tuple[str, ...]] = (BOS, START, END, EOT)
    stop_tokens: ClassVar[tuple[str, ...]] = (EOT,)

    def write(self, chat: Chat, script: Script) -> None:
        script.control(BOS, Part.BOS)
        for turn in chat.turns:
            write_turn(turn, script)

    def write_opening(self, chat: Chat, role: str, script: Script) -> None:
        open_turn(script, role)

    def make_reader(self) -> ReplyReader:
        return ReplyFormat(think=None).reader()


class Llama31Renderer(Renderer):
    """Llama 3.1, 3.2 and 3.3.

    Args:
        tokenizer: A Llama 3 tokenizer.
        date: Date in the system turn; `today` is read once, here.
        tools_in_user_message: Declare tools in the first user message, or in the system turn.
        name: Registered name.
        special_text: See `Renderer`.
    """

    name = "llama3_1"
    roles: ClassVar[tuple[str, ...]] = ("system", "developer", "user", "assistant", "tool")
    features = frozenset({Feature.TOOLS})
    control_tokens: ClassVar[tuple[str, ...]] = (BOS, START, END, EOT)
    stop_tokens: ClassVar[tuple[str, ...]] = (EOT,)

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        date: str = DATE_OF_3_1,
        tools_in_user_message: bool = True,
        name: str | None = None,
        special_text: Literal["text", "control"] = "text",
    ) -> None:
        super().__init__(tokenizer, name=name, special_text=special_text)
        self.date = datetime.date.today().strftime("%d %b %Y") if date == "today" else date
        self.tools_in_user_message = tools_in_user_message

    def write(self, chat: Chat, script: Script) -> None:
        script.control(BOS, Part.BOS)
        turns = list(chat.turns)
        system = turns.pop(0) if turns and turns[0].role == "system" else None
        self._write_system(chat, system, script)
        if chat.tools and self.tools_in_user_message:
            turn = turns.pop(0) if turns else None
            if turn is None or turn.role != "user":
                raise RendererError(
                    f"tools are given: {self.name} declares them in the first user message, which "
                    "must come right after the system message",
                    field="tools",
                    hint="begin with a user message, or set tools_in_user_message=False",
                )
            script.message = turn.index
            open_turn(script, "user")
            script.output(_FOR_THE_USER, *map(_tool_text, chat.tools), turn.text.strip())
            script.end(EOT)
        for turn in turns:
            self._write_turn(turn, script)

    def write_opening(self, chat: Chat, role: str, script: Script) -> None:
        open_turn(script, _written_role(role))

    def make_reader(self) -> ReplyReader:
        return _CallOrText()

    def _write_system(self, chat: Chat, turn: Turn | None, script: Script) -> None:
        script.message = -1 if turn is None else turn.index
        open_turn(script, "system")
        if chat.tools:
            script.header("Environment: ipython\n")
        script.header(f"Cutting Knowledge Date: December 2023\nToday Date: {self.date}\n\n")
        if chat.tools and not self.tools_in_user_message:
            script.header(_FOR_THE_SYSTEM, *map(_tool_text, chat.tools))
        script.output("" if turn is None else turn.text.strip())
        script.end(EOT)

    def _write_turn(self, turn: Turn, script: Script) -> None:
        if turn.tool_calls:
            _refuse_more_than_a_call(turn, self.name)
            [call] = turn.tool_calls
            script.message = turn.index
            open_turn(script, "assistant")
            arguments = to_json(arguments_object(call, turn.index))
            script.output(f'{{"name": "{call["function"]["name"]}", "parameters": {arguments}}}')
            script.end(EOT)
        elif turn.role == "tool":
            script.message = turn.index
            open_turn(script, "ipython")
            script.output(to_json(turn.text))
            script.end(EOT)
        else:
            write_turn(turn, script)


def open_turn(script: Script, role: str) -> None:
    """Write a header."""
    script.control(START)
    script.header(role)
    script.control(END)
    script.header("\n\n")


def write_turn(turn: Turn, script: Script) -> None:
    """Write a message of text."""
    script.message = turn.index
    open_turn(script, turn.role)
    script.output(turn.text.strip())
    script.end(EOT)


def _written_role(role: str) -> str:
    return "ipython" if role == "tool" else role


def _tool_text(tool: object) -> str:
    return json.dumps(tool, ensure_ascii=False, indent=4) + "\n\n"


def _refuse_more_than_a_call(turn: Turn, name: str) -> None:
    if len(turn.tool_calls) > 1:
        raise RendererError(
            f"message {turn.index}: {len(turn.tool_calls)} tool calls: {name} makes one at a time",
            field="tool_calls",
            hint="make a message of each, with its result after it",
            message_index=turn.index,
        )
    if turn.text.strip():
        raise RendererError(
            f"message {turn.index}: text beside a tool call: {name} cannot express both",
            field="content",
            hint="take the text out, or make a message of its own of it",
            message_index=turn.index,
        )


class _CallOrText:
    """A reply that is one JSON call, or text: a reply that begins with `{` waits for its end."""

    def __init__(self) -> None:
        self._text = ""
        self._is_text = False

    def feed(self, text: str) -> list[Delta]:
        if self._is_text:
            return [TextDelta(text)]
        self._text += text
        start = self._text.lstrip()
        if not start or start.startswith("{"):
            return []
        self._is_text = True
        return [TextDelta(self._text)]

    def finish(self) -> list[Delta]:
        text = "" if self._is_text else self._text
        if not text:
            return []
        call = read_json_call(text, arguments_key="parameters")
        if "raw_text" not in call:
            return [ToolCallDelta(call)] if _has_parameters(text) else [TextDelta(text)]
        # Not every object is a call: only what names a function and its parameters was to be one.
        was_to_be = '"name"' in text and '"parameters"' in text
        return [UnparsedToolCallDelta(call)] if was_to_be else [TextDelta(text)]


def _has_parameters(text: str) -> bool:
    found = json.loads(text)
    return isinstance(found, Mapping) and "parameters" in found


RENDERERS: dict[str, RendererFactory] = {
    "llama3_1": Llama31Renderer,
    "llama3_2": partial(Llama31Renderer, date="today"),
    "llama3": Llama3Renderer,
}
