r"""Qwen3-Coder: ChatML without thinking, tools and calls in tags of their own.

A call stands on a line of its own after the text, which is trimmed then; results in a row share one
user turn, which ends in a newline. With tools and no system message the template writes a system
text of its own.

Source: chat template of Qwen/Qwen3-Coder-30B-A3B-Instruct, the revision with `<function>` tags
around declarations. Deviations: arguments given as JSON text are read (the template refuses them);
text parts are joined (it refuses them).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tinsmith.renderers.base import Renderer, RendererFactory
from tinsmith.renderers.chatml import IM_END, IM_START, close_turn, open_turn
from tinsmith.renderers.chats import Chat, Feature, Turn
from tinsmith.renderers.messages import ToolSpec
from tinsmith.renderers.replies import ReplyReader
from tinsmith.renderers.scripts import Script
from tinsmith.renderers.tagged_replies import ReplyFormat
from tinsmith.renderers.xml_calls import (
    CALL_INSTRUCTIONS,
    CALL_TAGS,
    json_if_object,
    read_xml_call,
    xml_call,
    xml_function,
)

DEFAULT_SYSTEM = (
    "You are Qwen, a helpful AI assistant that can interact with a computer to solve tasks."
)
_FORM = ReplyFormat(think=None, call=CALL_TAGS, read_calls=read_xml_call, before_call="\n\n")


class Qwen3CoderRenderer(Renderer):
    """Qwen3-Coder."""

    name = "qwen3_coder"
    roles: ClassVar[tuple[str, ...]] = ("system", "developer", "user", "assistant", "tool")
    features = frozenset({Feature.TOOLS})
    control_tokens: ClassVar[tuple[str, ...]] = (IM_START, IM_END)
    stop_tokens: ClassVar[tuple[str, ...]] = (IM_END,)

    def write(self, chat: Chat, script: Script) -> None:
        turns = list(chat.turns)
        system = turns.pop(0) if turns and turns[0].role == "system" else None
        if system is not None or chat.tools:
            script.message = -1 if system is None else 0
            open_turn(script, "system")
            script.output(DEFAULT_SYSTEM if system is None else system.text)
            script.output(declare_tools(chat.tools) if chat.tools else "")
            close_turn(script)
        for turn in turns:
            script.message = turn.index
            if turn.role == "tool":
                write_tool_result(chat, turn, script)
                continue
            open_turn(script, turn.role)
            if turn.tool_calls:
                write_calls(turn, script)
            else:
                script.output(turn.text)
            close_turn(script)

    def write_opening(self, chat: Chat, role: str, script: Script) -> None:
        open_turn(script, role)

    def make_reader(self) -> ReplyReader:
        return _FORM.reader()


def write_calls(turn: Turn, script: Script) -> None:
    """Write the text, trimmed, and the calls after it."""
    text = turn.text.strip()
    calls = [xml_call(call, turn.index, json_if_object) for call in turn.tool_calls]
    script.output(f"{text}\n\n" if text else "", "\n".join(calls))


def write_tool_result(chat: Chat, turn: Turn, script: Script) -> None:
    """Write a tool's result; results in a row share one user turn."""
    index, turns = turn.index, chat.turns
    if index == 0 or turns[index - 1].role != "tool":
        open_turn(script, "user")
    script.output(f"<tool_response>\n{turn.text}\n</tool_response>\n")
    if index == len(turns) - 1 or turns[index + 1].role != "tool":
        close_turn(script)


def declare_tools(tools: Sequence[ToolSpec]) -> str:
    """The tools section of the system message."""
    declared = "".join(xml_function(tool, json_if_object) for tool in tools)
    opening = "\n\nYou have access to the following functions:\n\n<tools>"
    return f"{opening}{declared}\n</tools>{CALL_INSTRUCTIONS}"


RENDERERS: dict[str, RendererFactory] = {"qwen3_coder": Qwen3CoderRenderer}
