r"""GLM 4.5 to 5.2: `<|user|>`, `<|assistant|>`, and no token that ends a turn.

A model ends its turn by saying who speaks next: `<|user|>`, or `<|observation|>` after calls. So
that token, wherever it follows an answer, belongs to the answer and is trained with it. Answers are
trimmed; thinking is shown after the last user message alone, unless it is kept.

| name | opening of a reply | template |
|---|---|---|
| `glm4_5` | nothing: the model opens its thinking | GLM-4.5 (and 4.6), line breaks after roles |
| `glm4_7`, `glm5_1`, `glm5_2` | `<think>` | GLM-4.7-Flash, GLM-5.1, GLM-5.2 (effort Max) |
| `glm5_2_high_reasoning` | `<think>` | GLM-5.2, `reasoning_effort="high"` |
| `..._disable_thinking` | an empty block, of 4.7 and 5.1 only its end | `enable_thinking=False` |
| `glm4_7_`, `glm5_1_`, `glm5_2_preserve_thinking` | `<think>` | `clear_thinking=False` |

Source: chat templates of zai-org/GLM-4.5, GLM-4.7-Flash, GLM-5.1 and GLM-5.2.
Deviations: a trained last message continues its prompt: `<think>` and then its thinking, or nothing
and `</think>` (4.7 writes `</think>` alone there). `developer` messages (the templates drop them)
and images are refused; arguments given as JSON text are read, and a result of several text parts is
joined. The `</think>` that 4.7 and 5.1 leave of a thought in history is header: no model that was
given `<think>` says it. Calls carry no types and the declarations are not known when a reply is
read, so an argument is read as JSON where it is JSON and as text otherwise: the text `12` comes
back as a number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

from tinsmith.renderers.base import Renderer, RendererFactory
from tinsmith.renderers.chats import Chat, Feature, Turn
from tinsmith.renderers.messages import ToolCall, ToolSpec
from tinsmith.renderers.qwen3 import refuse_thinking, split_thinking
from tinsmith.renderers.replies import ReplyReader
from tinsmith.renderers.scripts import Part, Script
from tinsmith.renderers.tagged_replies import ParsedCall, ReplyFormat
from tinsmith.renderers.tokenizers import Tokenizer
from tinsmith.renderers.tool_calls import arguments_object, made_call, to_json, unparsed

BOS = ("[gMASK]", "<sop>")
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"
OBSERVATION, END_OF_TEXT, NO_THINK = "<|observation|>", "<|endoftext|>", "/nothink"
_ROLE_TOKENS = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT, "tool": OBSERVATION}

_TOOLS_BEFORE = (
    "\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
)
_TOOLS_AFTER = (
    "</tools>\n\nFor each function call, output the function name and arguments within the "
    "following XML format:\n"
)


@dataclass(frozen=True)
class Release:
    """What changed between the releases.

    Attributes:
        label: Its number.
        line: What follows a role token, and separates the pieces of a message.
        empty: Block of an answer whose thinking is not shown; a prompt holds it, too, where
            thinking is off.
        is_opened: Whether a prompt opens thinking.
        is_trimmed: Whether thinking is trimmed, and blank thinking none.
        fills_blocks: Whether an answer without thinking has a block where others have one.
        marks_users: Whether `/nothink` in user messages turns thinking off.
        declares_effort: Whether a system turn says how much to think.
        declares_wrapped: Whether a tool is declared with its wrapping, and all it says.
    """

    label: str
    line: str = ""
    empty: str = "<think></think>"
    is_opened: bool = True
    is_trimmed: bool = False
    fills_blocks: bool = False
    marks_users: bool = False
    declares_effort: bool = False
    declares_wrapped: bool = False


GLM4_5 = Release(
    "4.5", line="\n", is_opened=False, is_trimmed=True, marks_users=True, declares_wrapped=True
)
GLM4_7 = Release("4.7", empty="</think>", is_trimmed=True, declares_wrapped=True)
GLM5_1 = Release("5.1", empty="</think>", fills_blocks=True)
GLM5_2 = Release("5.2", declares_effort=True)


class GlmRenderer(Renderer):
    """GLM 4.5 and its successors.

    Args:
        tokenizer: A GLM tokenizer.
        release: Which of them.
        thinks: Whether a reply may think, or begins with a closed block.
        keep_thinking: Whether history shows what was thought (4.7 and later).
        effort: GLM-5.2's word for how much to think.
        name: Registered name.
        special_text: See `Renderer`.
    """

    name = "glm4_5"
    roles: ClassVar[tuple[str, ...]] = ("system", "user", "assistant", "tool")
    features = frozenset({Feature.TOOLS, Feature.THINKING})
    control_tokens: ClassVar[tuple[str, ...]] = (
        *BOS, SYSTEM, USER, ASSISTANT, OBSERVATION, END_OF_TEXT, NO_THINK,
    )  # fmt: skip
    stop_tokens: ClassVar[tuple[str, ...]] = (USER, OBSERVATION, END_OF_TEXT)

    def __init__(  # keywords, each an independent choice
        self,
        tokenizer: Tokenizer,
        *,
        release: Release = GLM4_5,
        thinks: bool = True,
        keep_thinking: bool = False,
        effort: Literal["max", "high"] = "max",
        name: str | None = None,
        special_text: Literal["text", "control"] = "text",
    ) -> None:
        super().__init__(tokenizer, name=name, special_text=special_text)
        self.release = release
        self.thinks = thinks
        self.keep_thinking = keep_thinking
        self.effort = effort
        # An answer without thinking keeps its block in 5.2 alone.
        self.has_extension_property = not thinks or (keep_thinking and release == GLM5_2)

    def write(self, chat: Chat, script: Script) -> None:
        for token in BOS:
            script.control(token, Part.BOS)
        if self.release.declares_effort and self.thinks:
            script.control(SYSTEM)
            script.header(f"Reasoning Effort: {self.effort.capitalize()}")
        if chat.tools:
            script.control(SYSTEM)
            script.header(self._declared(chat.tools))
        last_user = max((t.index for t in chat.turns if t.role == "user"), default=-1)
        before: Turn | None = None
        for turn in chat.turns:
            self._open(turn, before, script)
            if turn.role == "assistant":
                self._write_answer(chat, turn, last_user, script)
            elif turn.role == "tool":
                line = self.release.line
                script.header(f"{line}<tool_response>{line}")
                script.output(f"{turn.text}{line}</tool_response>")
            else:
                script.header(self.release.line)
                self._write_text(turn, script)
            before = turn

    def write_opening(self, chat: Chat, role: str, script: Script) -> None:
        line = self.release.line
        if role != "tool" or chat.last is None or chat.last.role != "tool":
            script.control(_ROLE_TOKENS[role])
        opening = {"assistant": self._opening, "tool": f"{line}<tool_response>{line}"}
        script.header(opening.get(role, line))

    def write_overlap(self, chat: Chat, script: Script) -> None:
        if chat.last is not None and chat.last.role == "assistant":
            script.end(OBSERVATION if chat.last.tool_calls else USER)

    def make_reader(self) -> ReplyReader:
        reader = replace(
            PAIR_CALLS,
            is_prefilled=self.thinks and self.release.is_opened,
            frame="\n" if self.release.is_trimmed else "",
            before_call=self.release.line,
        ).reader()
        if not self.thinks:
            reader.feed("<think></think>")  # what the prompt holds, so that a frame is taken off
        return reader

    def check_target(self, chat: Chat) -> None:
        if not self.thinks:
            refuse_thinking(chat.turns[-1], self._split(chat.turns[-1])[0] or "", self.name)

    @property
    def _opening(self) -> str:
        """What a prompt holds of a reply, after its role token."""
        if not self.thinks:
            return self.release.line + self.release.empty
        return "<think>" if self.release.is_opened else ""

    def _open(self, turn: Turn, before: Turn | None, script: Script) -> None:
        """Write a role token; one that follows an answer was said by it."""
        script.message = turn.index
        if turn.role == "tool" and before is not None and before.role == "tool":
            return
        token = _ROLE_TOKENS[turn.role]
        if before is not None and before.role == "assistant" and token in self.stop_tokens:
            script.message = before.index
            script.end(token)
            script.message = turn.index
        else:
            script.control(token)

    def _write_text(self, turn: Turn, script: Script) -> None:
        if self.thinks or not self.release.marks_users or turn.role != "user":
            script.output(turn.text)
            return
        script.output(turn.text.removesuffix(NO_THINK))
        script.control(NO_THINK)

    def _write_answer(self, chat: Chat, turn: Turn, last_user: int, script: Script) -> None:
        line = self.release.line
        if chat.trains and turn is chat.last:
            thinking, text = self._split(turn)
            block = f"{line}<think>{thinking or ''}</think>" if self.thinks else self._opening
            script.header(self._opening)
            script.output(block[len(self._opening) :])
        else:
            thinking, text = self._shown(chat, turn, last_user)
            block = self.release.empty if thinking is None else f"<think>{thinking}</think>"
            written = line + block
            opening = self._opening
            if not written.startswith(opening):
                # A prompt's `<think>` never goes on as this: what was erased is nobody's output.
                opening = written if thinking is None else ""
            script.header(opening)
            script.output(written[len(opening) :])
        text = text.strip()
        script.output(line + text if text else "")
        for call in turn.tool_calls:
            script.output(line + _call(call, turn.index, line))

    def _shown(self, chat: Chat, turn: Turn, last_user: int) -> tuple[str | None, str]:
        """Thinking and text as the template has them; None for thinking that it does not show."""
        thinking, text = self._split(turn)
        if self.release.fills_blocks and thinking is None:
            is_current = turn.index > last_user and self.thinks
            is_beside = turn.index < last_user and _thinks_beside(chat.turns, turn.index)
            thinking = "" if is_current or is_beside else None
        is_shown = self.keep_thinking or turn.index > last_user
        return thinking if is_shown else None, text

    def _split(self, turn: Turn) -> tuple[str | None, str]:
        """Thinking, None where nothing is said of it, and text."""
        if self.release.is_trimmed:
            thinking, text = split_thinking(turn)
            return thinking.strip() if thinking else None, text
        if turn.thinking is not None or "</think>" not in turn.text:
            return turn.thinking, turn.text
        before, *_, text = turn.text.split("</think>")
        return before.split("<think>")[-1], text

    def _declared(self, tools: Sequence[ToolSpec]) -> str:
        line = self.release.line
        pairs = "".join(
            f"{line}<arg_key>{{arg-key-{n}}}</arg_key>{line}<arg_value>{{arg-value-{n}}}</arg_value>"
            for n in (1, 2)
        )
        form = f"<tool_call>{{function-name}}{pairs}{line}...{line}</tool_call>"
        lines = "".join(f"{text}\n" for text in map(self._declaration, tools) if text)
        return f"{_TOOLS_BEFORE}{lines}{_TOOLS_AFTER}{form}"

    def _declaration(self, tool: ToolSpec) -> str:
        if self.release.declares_wrapped:
            return to_json(tool)
        function: dict[str, Any] = {**tool["function"]}
        if function.pop("defer_loading", False):
            return ""
        function.pop("strict", None)
        return to_json(function)


def _thinks_beside(turns: Sequence[Turn], index: int) -> bool:
    """Whether any answer to the same user message has its thinking in its field, even if empty."""
    users = [turn.index for turn in turns if turn.role == "user"]
    start = max((place for place in users if place < index), default=None)
    if start is None:
        return False
    end = min((place for place in users if place > index), default=len(turns))
    return any(t.thinking is not None for t in turns[start:end] if t.role == "assistant")


def _call(call: ToolCall, index: int, line: str) -> str:
    pairs = "".join(
        f"<arg_key>{key}</arg_key>{line}"
        f"<arg_value>{value if isinstance(value, str) else to_json(value)}</arg_value>{line}"
        for key, value in arguments_object(call, index).items()
    )
    return f"<tool_call>{call['function']['name']}{line}{pairs}</tool_call>"


_CALL = re.compile(r"\s*([^<>]*[^<>\s])\s*(<arg_key>.*)?", re.DOTALL)
_PAIR = re.compile(r"\s*<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>\s*", re.DOTALL)


def _read_call(text: str) -> list[ParsedCall]:
    """Read what stands between the tags of a call."""
    call = _CALL.fullmatch(text)
    if call is None:
        return [unparsed(text, "a call is NAME, then <arg_key>, <arg_value> pairs")]
    arguments: dict[str, Any] = {}
    place, pairs = 0, call[2] or ""
    while place < len(pairs):
        pair = _PAIR.match(pairs, place)
        if pair is None:
            return [unparsed(text, f"not an argument: {pairs[place:].strip()[:40]!r}")]
        arguments[pair[1].strip()] = _value(pair[2])
        place = pair.end()
    return [made_call(call[1], to_json(arguments))]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


PAIR_CALLS = ReplyFormat(call=("<tool_call>", "</tool_call>"), read_calls=_read_call)
"""How calls of pairs between tags are read."""


def _variants(release: Release, *, keeps: bool = True) -> dict[str, RendererFactory]:
    """Renderers of a release, by the ends of their names."""
    made: dict[str, RendererFactory] = {
        "": partial(GlmRenderer, release=release),
        "_disable_thinking": partial(GlmRenderer, release=release, thinks=False),
    }
    if keeps:
        made["_preserve_thinking"] = partial(GlmRenderer, release=release, keep_thinking=True)
    return made


RENDERERS: dict[str, RendererFactory] = {
    **{f"glm4_5{end}": made for end, made in _variants(GLM4_5, keeps=False).items()},
    **{f"glm4_7{end}": made for end, made in _variants(GLM4_7).items()},
    **{f"glm5_1{end}": made for end, made in _variants(GLM5_1).items()},
    **{f"glm5_2{end}": made for end, made in _variants(GLM5_2).items()},
    "glm5_2_high_reasoning": partial(GlmRenderer, release=GLM5_2, effort="high"),
}
