r"""Kimi K2, K2.5 and K2.6: `<|im_user|>name<|im_middle|>text<|im_end|>`, nothing between turns.

A header carries the speaker's name where there is one. The models that think write
`<think>...</think>` before every answer. *History* ends with the last answer that calls no tool: in
it the block is empty, so that the templates cannot show a final answer with its thinking. Text is
never trimmed, nor searched for tags.

| name | opening of a reply | template |
|---|---|---|
| `kimi_k2` | nothing: the model opens its thinking | Kimi-K2-Thinking |
| `kimi_k2_instruct` | nothing, no thinking at all | none, see below |
| `kimi_k25`, `kimi_k26` | `<think>` | Kimi-K2.5 |
| `kimi_k25_disable_thinking`, `kimi_k26_disable_thinking` | `<think></think>` | `thinking=False` |
| `kimi_k26_preserve_thinking` | `<think>`; all thinking stays | none, see below |

Source: chat templates of moonshotai/Kimi-K2-Thinking and Kimi-K2.5; `deep_sort_dict` of their
tokenizers for the order of a declaration's keys.
Deviations: a trained last message has its thinking, also from tags in its text, and the answers
before it are written as its prompt has them. A call without an id gets `functions.NAME:INDEX`,
counted over the conversation, and a result without one answers the next call; the templates leave
them blank. The templates of K2-Instruct and K2.6 are not at hand, so these names are not proved:
the first is K2 without blocks, as the model's documentation shows it, the second is K2.5, with
nothing made empty under `kimi_k26_preserve_thinking`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal

from tinsmith.renderers.base import Renderer, RendererFactory
from tinsmith.renderers.chats import Chat, Feature, Turn
from tinsmith.renderers.messages import RendererError, ToolSpec
from tinsmith.renderers.pictures import PaddedGrid
from tinsmith.renderers.qwen3 import refuse_thinking
from tinsmith.renderers.replies import ReplyReader
from tinsmith.renderers.scripts import Part, Script
from tinsmith.renderers.tagged_replies import ParsedCall, ReplyFormat
from tinsmith.renderers.tokenizers import Tokenizer
from tinsmith.renderers.tool_calls import arguments_text, read_named_call, unparsed
from tinsmith.renderers.typescript_tools import declare_typescript

IM_USER, IM_ASSISTANT, IM_SYSTEM = "<|im_user|>", "<|im_assistant|>", "<|im_system|>"
IM_MIDDLE, IM_END = "<|im_middle|>", "<|im_end|>"
CALLS_BEGIN, CALLS_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
CALL_BEGIN, CALL_END = "<|tool_call_begin|>", "<|tool_call_end|>"
ARGUMENTS_BEGIN = "<|tool_call_argument_begin|>"
MEDIA_BEGIN, MEDIA_CONTENT = "<|media_begin|>", "<|media_content|>"
MEDIA_PAD, MEDIA_END = "<|media_pad|>", "<|media_end|>"

DEFAULT_SYSTEM = "You are Kimi, an AI assistant created by Moonshot AI."
Thinking = Literal["none", "free", "open", "closed"]
"""No blocks at all; the model opens one; the prompt opens one; the prompt holds an empty one."""
_OPENINGS: dict[Thinking, str] = {
    "none": "",
    "free": "",
    "open": "<think>",
    "closed": "<think></think>",
}


class KimiRenderer(Renderer):
    """Kimi K2, K2.5 and K2.6.

    Args:
        tokenizer: A Kimi tokenizer.
        thinking: How a reply opens.
        keep_thinking: Whether history shows what was thought.
        is_k25: Whether it is K2.5 or later: images, and no system text of its own.
        tool_form: How tools are declared: compact JSON with sorted keys, as K2's tokenizer has
            them, TypeScript, as K2.5's has them, or `template`, the JSON in its own order that
            K2.5's template writes by itself, without the model's own tokenizer class. By default
            the model's own.
        grid: How images become tokens.
        name: Registered name.
        special_text: See `Renderer`.
    """

    name = "kimi_k2"
    roles: ClassVar[tuple[str, ...]] = ("system", "developer", "user", "assistant", "tool")
    control_tokens: ClassVar[tuple[str, ...]] = (
        IM_USER, IM_ASSISTANT, IM_SYSTEM, IM_MIDDLE, IM_END, CALLS_BEGIN, CALLS_END, CALL_BEGIN,
        CALL_END, ARGUMENTS_BEGIN, MEDIA_BEGIN, MEDIA_CONTENT, MEDIA_PAD, MEDIA_END,
    )  # fmt: skip
    stop_tokens: ClassVar[tuple[str, ...]] = (IM_END,)

    def __init__(  # keywords, each an independent choice
        self,
        tokenizer: Tokenizer,
        *,
        thinking: Thinking = "free",
        keep_thinking: bool = False,
        is_k25: bool = False,
        tool_form: Literal["json", "typescript", "template"] | None = None,
        grid: PaddedGrid | None = None,
        name: str | None = None,
        special_text: Literal["text", "control"] = "text",
    ) -> None:
        super().__init__(tokenizer, name=name, special_text=special_text)
        self.thinking: Thinking = thinking
        self.keep_thinking = keep_thinking
        self.is_k25 = is_k25
        self.tool_form = tool_form or ("typescript" if is_k25 else "json")
        self.grid = grid or PaddedGrid()
        self.features = frozenset(
            {Feature.TOOLS}
            | ({Feature.THINKING} if thinking != "none" else set())
            | ({Feature.IMAGES} if is_k25 else set())
        )
        self.has_extension_property = keep_thinking or thinking in ("none", "closed")

    def write(self, chat: Chat, script: Script) -> None:
        if chat.tools:
            _open_turn("tool_declare", None, script)
            script.output(self._declared(chat.tools))
            script.end(IM_END)
        if not self.is_k25 and (not chat.turns or chat.turns[0].role != "system"):
            _open_turn("system", None, script)
            script.output(DEFAULT_SYSTEM)
            script.end(IM_END)
        history_end = self._history_end(chat)
        ids = _call_ids(chat)
        for turn in chat.turns:
            script.message = turn.index
            _open_turn(turn.role, turn.name, script)
            if turn.role == "assistant":
                self._write_answer(chat, turn, history_end, script)
                _write_calls(turn, ids, script)
            else:
                if turn.role == "tool":
                    script.header(f"## Return of {ids[turn.index][0]}\n")
                _write_parts(turn, script)
            script.end(IM_END)

    def write_opening(self, chat: Chat, role: str, script: Script) -> None:
        _open_turn(role, None, script)
        if role == "assistant":
            script.header(_OPENINGS[self.thinking])

    def make_reader(self) -> ReplyReader:
        return ReplyFormat(
            think=("<think>", "</think>") if self.thinking in ("free", "open") else None,
            is_prefilled=self.thinking == "open",
            frame="",
            call=(CALLS_BEGIN, CALLS_END),
            read_calls=_read_calls,
        ).reader()

    def check_target(self, chat: Chat) -> None:
        if self.thinking == "closed":
            refuse_thinking(chat.turns[-1], _split_thinking(chat.turns[-1])[0], self.name)

    def picture_chunk(self, picture: Any) -> Any:
        return self.grid.chunk(picture)

    def _declared(self, tools: Sequence[ToolSpec]) -> str:
        if self.tool_form == "typescript":
            return declare_typescript(tools)
        is_sorted = self.tool_form == "json"
        return json.dumps(tools, ensure_ascii=False, separators=(",", ":"), sort_keys=is_sorted)

    def _history_end(self, chat: Chat) -> int:
        """Place of the last answer without calls, the one that is trained left out."""
        if self.keep_thinking:
            return -1
        turns = chat.turns[:-1] if chat.trains else chat.turns
        answers = [t.index for t in turns if t.role == "assistant" and not t.tool_calls]
        return max(answers, default=-1)

    def _write_answer(self, chat: Chat, turn: Turn, history_end: int, script: Script) -> None:
        thinking, text = turn.thinking or "", turn.text
        if chat.trains and turn is chat.last and self.thinking in ("free", "open"):
            thinking, text = _split_thinking(turn)
        if self.thinking == "closed" or (self.thinking != "none" and turn.index <= history_end):
            script.header("<think></think>")
        elif self.thinking != "none":
            opening = _OPENINGS[self.thinking]
            script.header(opening)
            script.output(f"<think>{thinking}</think>"[len(opening) :])
        if text == turn.text:
            _write_parts(turn, script)
        else:
            script.output(text)


def _open_turn(role: str, name: str | None, script: Script) -> None:
    script.control({"user": IM_USER, "assistant": IM_ASSISTANT}.get(role, IM_SYSTEM))
    script.header(name or role)
    script.control(IM_MIDDLE)


def _write_parts(turn: Turn, script: Script) -> None:
    """Write texts and images in their order."""
    for part in turn.parts:
        if isinstance(part, str):
            script.output(part)
            continue
        script.control(MEDIA_BEGIN, Part.OUTPUT)
        script.output("image")
        script.control(MEDIA_CONTENT, Part.OUTPUT)
        script.picture(part.image, MEDIA_PAD)
        script.control(MEDIA_END, Part.OUTPUT)
        script.output("\n")


def _write_calls(turn: Turn, ids: dict[int, list[str]], script: Script) -> None:
    if not turn.tool_calls:
        return
    script.control(CALLS_BEGIN, Part.OUTPUT)
    for call, call_id in zip(turn.tool_calls, ids[turn.index], strict=True):
        script.control(CALL_BEGIN, Part.OUTPUT)
        script.output(call_id)
        script.control(ARGUMENTS_BEGIN, Part.OUTPUT)
        script.output(arguments_text(call))
        script.control(CALL_END, Part.OUTPUT)
    script.control(CALLS_END, Part.OUTPUT)


def _call_ids(chat: Chat) -> dict[int, list[str]]:
    """Ids that every message's calls have, or that a result answers."""
    made: list[str] = []
    answered = 0
    ids: dict[int, list[str]] = {}
    for turn in chat.turns:
        for call in turn.tool_calls:
            made.append(call.get("id") or f"functions.{call['function']['name']}:{len(made)}")
        if turn.tool_calls:
            ids[turn.index] = made[-len(turn.tool_calls) :]
        elif turn.role == "tool":
            known = made[answered : answered + 1]
            ids[turn.index] = [turn.tool_call_id] if turn.tool_call_id else known
            answered += 1
            if not ids[turn.index]:
                raise RendererError(
                    f"message {turn.index}: a result without tool_call_id that answers no call",
                    field="tool_call_id",
                    hint="give the id of the call",
                    message_index=turn.index,
                )
    return ids


def _split_thinking(turn: Turn) -> tuple[str, str]:
    """Thinking and text; thinking may stand in the text, before its closing tag."""
    before, closing, after = turn.text.partition("</think>")
    if turn.thinking is not None or not closing:
        return turn.thinking or "", turn.text
    return before.removeprefix("<think>"), after


_ID = re.compile(r"(?:functions\.)?(\S+):\d+")


def _read_calls(text: str) -> list[ParsedCall]:
    """The calls between the tags of a section; a call's name stands in its id."""
    calls: list[ParsedCall] = []
    for piece in text.split(CALL_BEGIN):
        if not piece.strip():
            continue
        body, closing, _ = piece.partition(CALL_END)
        call_id, separator, arguments = body.partition(ARGUMENTS_BEGIN)
        call_id = call_id.strip()
        if not closing or not separator:
            calls.append(unparsed(piece, f"a call is ID{ARGUMENTS_BEGIN}ARGUMENTS{CALL_END}"))
        elif (named := _ID.fullmatch(call_id)) is None:
            calls.append(unparsed(piece, f"id {call_id!r}: functions.NAME:INDEX is needed"))
        else:
            calls.append(read_named_call(named[1], arguments, raw_text=piece, call_id=call_id))
    return calls or [unparsed(text, f"no {CALL_BEGIN}")]


_K25 = partial(KimiRenderer, is_k25=True)

RENDERERS: dict[str, RendererFactory] = {
    "kimi_k2": KimiRenderer,
    "kimi_k2_instruct": partial(KimiRenderer, thinking="none"),
    "kimi_k25": partial(_K25, thinking="open"),
    "kimi_k25_disable_thinking": partial(_K25, thinking="closed"),
    "kimi_k26": partial(_K25, thinking="open"),
    "kimi_k26_disable_thinking": partial(_K25, thinking="closed"),
    "kimi_k26_preserve_thinking": partial(_K25, thinking="open", keep_thinking=True),
}
