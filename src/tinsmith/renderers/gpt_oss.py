r"""gpt-oss: the harmony format, a message for every channel of a reply.

A reply is `analysis` (thinking), `final` (text), or a call in `commentary`, each with a header of
its own; `<|return|>` ends a reply and `<|call|>` a call. A fixed system turn holds date and
reasoning effort; the first system or developer message becomes the developer turn, with the tools
as TypeScript. Thinking is dropped once a later answer is there.

| name | system turn |
|---|---|
| `gpt_oss_low_reasoning`, `gpt_oss_medium_reasoning`, `gpt_oss_high_reasoning` | with that effort |
| `gpt_oss_no_sysprompt` | none |

The date is today's, read once when the renderer is made; give `date` to fix it.

Source: chat template of openai/gpt-oss-20b, which this module follows where openai-harmony differs
(`json` without `<|constrain|>`, results as JSON, so text gets quotes, text beside a call as
analysis). Deviations: late system messages and a second call in a message are refused (the template
drops them), and so are text and thinking beside one call; arguments given as JSON text are written
as the object they hold (it writes a quoted string); a function needs no description; the built-in
browser and python tools are not declared. Thinking before calls stays in the example that trains
the answer to them, as in its prompt (the template takes it out).
"""

from __future__ import annotations

import datetime
import re
from functools import partial
from typing import ClassVar, Literal

from tinsmith.renderers.base import Renderer, RendererFactory
from tinsmith.renderers.chats import Chat, Feature, Turn
from tinsmith.renderers.deltas import (
    Delta,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    UnparsedToolCallDelta,
)
from tinsmith.renderers.messages import RendererError
from tinsmith.renderers.replies import ReplyReader
from tinsmith.renderers.scripts import Part, Script
from tinsmith.renderers.tagged_replies import overlap
from tinsmith.renderers.tokenizers import Tokenizer
from tinsmith.renderers.tool_calls import arguments_object, read_named_call, to_json, unparsed
from tinsmith.renderers.typescript import namespace

START, MESSAGE, CHANNEL = "<|start|>", "<|message|>", "<|channel|>"
END, RETURN, CALL = "<|end|>", "<|return|>", "<|call|>"

IDENTITY = "You are ChatGPT, a large language model trained by OpenAI."
_CHANNELS = (
    "# Valid channels: analysis, commentary, final. Channel must be included for every message."
)
_CALL_CHANNEL = "\nCalls to these tools must go to the commentary channel: 'functions'."


class GptOssRenderer(Renderer):
    """gpt-oss.

    Args:
        tokenizer: A gpt-oss tokenizer.
        reasoning_effort: `low`, `medium` or `high`; None writes no system turn.
        date: Date in the system turn, `YYYY-MM-DD`; `today` is read once, here.
        identity: First line of the system turn.
        name: Registered name.
        special_text: See `Renderer`.
    """

    name = "gpt_oss_medium_reasoning"
    roles: ClassVar[tuple[str, ...]] = ("system", "developer", "user", "assistant", "tool")
    features = frozenset({Feature.TOOLS, Feature.THINKING})
    control_tokens: ClassVar[tuple[str, ...]] = (START, MESSAGE, CHANNEL, END, RETURN, CALL)
    stop_tokens: ClassVar[tuple[str, ...]] = (RETURN, CALL)
    has_extension_property = False

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        reasoning_effort: Literal["low", "medium", "high"] | None = "medium",
        date: str = "today",
        identity: str = IDENTITY,
        name: str | None = None,
        special_text: Literal["text", "control"] = "text",
    ) -> None:
        super().__init__(tokenizer, name=name, special_text=special_text)
        self.reasoning_effort = reasoning_effort
        self.date = datetime.date.today().isoformat() if date == "today" else date
        self.identity = identity

    def write(self, chat: Chat, script: Script) -> None:
        self._write_system(chat, script)
        turns = list(chat.turns)
        first = turns[0] if turns and turns[0].role in ("system", "developer") else None
        self._write_developer(chat, first, script)
        called: str | None = None
        for turn in turns[first is not None :]:
            script.message = turn.index
            if turn.role == "user":
                open_turn(script, "user")
                script.control(MESSAGE)
                script.output(turn.text)
                script.end(END)
            elif turn.role == "tool":
                write_result(turn, called, script)
            elif turn.role == "assistant":
                called = self._write_assistant(chat, turn, script)
            else:
                raise RendererError(
                    f"message {turn.index}: role={turn.role!r} is not the first: {self.name} "
                    "has one developer turn",
                    field="role",
                    hint="put its text into the first message",
                    message_index=turn.index,
                )

    def write_opening(self, chat: Chat, role: str, script: Script) -> None:
        open_turn(script, "developer" if role == "system" else role)
        if role != "assistant":
            script.control(MESSAGE)

    def make_reader(self) -> ReplyReader:
        return HarmonyReader()

    def _write_system(self, chat: Chat, script: Script) -> None:
        if self.reasoning_effort is None:
            return
        script.message = -1
        open_turn(script, "system")
        script.control(MESSAGE)
        script.header(
            f"{self.identity}\nKnowledge cutoff: 2024-06\nCurrent date: {self.date}\n\n"
            f"Reasoning: {self.reasoning_effort}\n\n{_CHANNELS}",
            _CALL_CHANNEL if chat.tools else "",
        )
        script.control(END)

    def _write_developer(self, chat: Chat, turn: Turn | None, script: Script) -> None:
        text = "" if turn is None else turn.text
        if not text and not chat.tools:
            return
        script.message = -1 if turn is None else turn.index
        open_turn(script, "developer")
        script.control(MESSAGE)
        if text:
            script.header("# Instructions\n\n")
            script.output(text)
            script.header("\n\n")
        if chat.tools:
            script.header("# Tools\n\n" + namespace("functions", chat.tools))
        script.end(END)

    def _write_assistant(self, chat: Chat, turn: Turn, script: Script) -> str | None:
        """Write a reply; the function that it calls."""
        open_turn(script, "assistant")
        if turn.tool_calls:
            return self._write_call(chat, turn, script)
        is_target = turn is chat.last and not chat.opens_reply
        if is_target and turn.thinking is not None:
            write_channel("analysis", turn.thinking, script)
            script.control(END, Part.OUTPUT)
            script.control(START, Part.OUTPUT)
            script.output("assistant")
        write_channel("final", turn.text, script)
        script.end(RETURN if is_target else END)
        return None

    def _write_call(self, chat: Chat, turn: Turn, script: Script) -> str:
        self._check_call(turn)
        [call] = turn.tool_calls
        # A reply to be trained is not there yet when the model sees this call.
        later = chat.turns[turn.index + 1 : -1 if chat.trains else None]
        answers = (t for t in later if t.role == "assistant")
        thought = turn.text or turn.thinking
        if thought and all(answer.tool_calls for answer in answers):
            write_channel("analysis", thought, script)
            script.control(END, Part.OUTPUT)
            script.control(START, Part.OUTPUT)
            script.output("assistant")
        name = call["function"]["name"]
        script.output(f" to=functions.{name}")
        script.control(CHANNEL, Part.OUTPUT)
        script.output("commentary json")
        script.control(MESSAGE, Part.OUTPUT)
        script.output(to_json(arguments_object(call, turn.index)))
        script.end(CALL)
        return name

    def _check_call(self, turn: Turn) -> None:
        problem = ""
        if len(turn.tool_calls) > 1:
            problem = f"{len(turn.tool_calls)} tool calls: {self.name} makes one at a time"
        elif turn.text and turn.thinking:
            problem = "text and thinking beside a tool call: one of them is written, as analysis"
        if problem:
            raise RendererError(
                f"message {turn.index}: {problem}",
                field="tool_calls",
                hint="make a message of each, or keep one of them",
                message_index=turn.index,
            )


def open_turn(script: Script, role: str) -> None:
    """Write who speaks."""
    script.control(START)
    script.header(role)


def write_channel(channel: str, text: str, script: Script) -> None:
    """Write what is said in one channel, without its end."""
    script.control(CHANNEL, Part.OUTPUT)
    script.output(channel)
    script.control(MESSAGE, Part.OUTPUT)
    script.output(text)


def write_result(turn: Turn, called: str | None, script: Script) -> None:
    """Write a tool's result, under the name of the function that was called last."""
    if called is None:
        raise RendererError(
            f"message {turn.index}: a tool's result without a call before it",
            field="role",
            hint="put it after the assistant message whose call it answers",
            message_index=turn.index,
        )
    open_turn(script, f"functions.{called} to=assistant")
    script.control(CHANNEL)
    script.header("commentary")
    script.control(MESSAGE)
    script.output(to_json(turn.text))
    script.end(END)


class HarmonyReader:
    """Reads the messages of one reply, the first of which has lost its `<|start|>assistant`."""

    def __init__(self) -> None:
        self._pending = ""
        self._head: str | None = None
        """Header of the message whose body is being read."""

    def feed(self, text: str) -> list[Delta]:
        self._pending += text
        out: list[Delta] = []
        while self._step(out):
            pass
        return out

    def finish(self) -> list[Delta]:
        rest, self._pending = self._pending, ""
        if self._head is None:
            return [TextDelta(rest)] if rest else []
        return self._said(rest)

    def _step(self, out: list[Delta]) -> bool:
        marker = MESSAGE if self._head is None else END
        place = self._pending.find(marker)
        if place >= 0:
            piece, self._pending = self._pending[:place], self._pending[place + len(marker) :]
            if self._head is None:
                self._head = piece
            else:
                out += self._said(piece)
                self._head = None
            return True
        if self._head is not None and _recipient(self._head) is None:
            certain = len(self._pending) - overlap(self._pending, END)
            out += self._said(self._pending[:certain])
            self._pending = self._pending[certain:]
        return False

    def _said(self, body: str) -> list[Delta]:
        """A piece of a channel's text, or a whole call."""
        assert self._head is not None, "a body has a header"
        recipient = _recipient(self._head)
        if recipient is None:
            kind = ThinkingDelta if _channel(self._head) == "analysis" else TextDelta
            return [kind(body)] if body else []
        raw = f"{self._head}{MESSAGE}{body}"
        if not recipient.startswith("functions."):
            return [UnparsedToolCallDelta(unparsed(raw, f"{recipient} is no function"))]
        call = read_named_call(recipient.removeprefix("functions."), body, raw_text=raw)
        return [UnparsedToolCallDelta(call)] if "raw_text" in call else [ToolCallDelta(call)]


def _recipient(head: str) -> str | None:
    found = re.search(r"\bto=([^\s<]+)", head)
    return found.group(1) if found else None


def _channel(head: str) -> str:
    return head.rpartition(CHANNEL)[2].split()[0] if head.rpartition(CHANNEL)[2].split() else ""


RENDERERS: dict[str, RendererFactory] = {
    "gpt_oss_medium_reasoning": GptOssRenderer,
    "gpt_oss_low_reasoning": partial(GptOssRenderer, reasoning_effort="low"),
    "gpt_oss_high_reasoning": partial(GptOssRenderer, reasoning_effort="high"),
    "gpt_oss_no_sysprompt": partial(GptOssRenderer, reasoning_effort=None),
}
