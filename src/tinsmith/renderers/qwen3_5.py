r"""Qwen3.5, 3.6 and 3.8: everything trimmed, a think block in every current turn, images.

After the query (the last user message that is no tool result in disguise) every assistant message
has a think block, before it none, unless thinking is kept. A reply opens with `<think>\n`, or with
a closed block where thinking is off. Tools come before the system text; calls are tags.

| name | version | thinking |
|---|---|---|
| `qwen3_5`, `qwen3_5_disable_thinking` | 3.5; the small ones are off by default | on, off |
| `qwen3_6`, `qwen3_6_disable_thinking`, `qwen3_6_preserve_thinking` | 3.6 | on, off, kept |
| `qwen3_8_xhigh_reasoning`, `_medium_`, `_low_`, `qwen3_8_disable_thinking` | 3.8 | kept, off |

An answer without thinking under a prompt that opens it begins with the block's own end; its first
line break shares a token with the prompt's and counts as header.

Source: chat templates of Qwen/Qwen3.5-4B, Qwen3.6-35B-A3B and Qwen3.8-27B. Deviations: arguments
given as JSON text are read (the templates refuse them); images in the assistant's messages are
refused, since no model writes one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

from tinsmith.renderers.base import Renderer, RendererFactory
from tinsmith.renderers.chatml import IM_END, close_turn, open_turn
from tinsmith.renderers.chats import Chat, Feature, Turn
from tinsmith.renderers.messages import RendererError
from tinsmith.renderers.pictures import PatchGrid
from tinsmith.renderers.qwen3 import (
    EMPTY_THINKING,
    last_query,
    refuse_thinking,
    split_thinking,
    write_think_block,
)
from tinsmith.renderers.qwen3_vl import (
    CONTROL_TOKENS,
    refuse_late_system,
    refuse_pictures,
    write_parts,
    write_result_with_parts,
)
from tinsmith.renderers.replies import ReplyReader
from tinsmith.renderers.scripts import Script
from tinsmith.renderers.tagged_replies import ReplyFormat
from tinsmith.renderers.tokenizers import Tokenizer
from tinsmith.renderers.tool_calls import to_json
from tinsmith.renderers.xml_calls import (
    CALL_INSTRUCTIONS,
    CALL_TAGS,
    WriteValue,
    json_unless_scalar,
    json_unless_text,
    read_xml_call,
    xml_call,
)

Effort = Literal["xhigh", "medium", "low"]
_EFFORT_TEXTS: dict[Effort | None, str] = {
    "xhigh": (
        "Reasoning effort is set to xhigh. Please think carefully through the task, validate key "
        "assumptions, consider plausible alternatives, and prioritize correctness, consistency, "
        "and clarity in the final answer."
    ),
    "medium": "",
    "low": (
        "Reasoning effort is set to low. Keep your thinking brief and focused, moving directly to "
        "the conclusion without unnecessary elaboration."
    ),
    None: "",
}


@dataclass(frozen=True)
class Release:
    """What changed between the releases.

    Attributes:
        label: Its number.
        write_value: How an argument is written.
        reads_tags: Whether thinking may stand in the text, between tags.
        writes_empty_system: Whether an empty system message is a turn of its own.
    """

    label: str
    write_value: WriteValue
    reads_tags: bool = True
    writes_empty_system: bool = True


QWEN3_5 = Release("3.5", json_unless_scalar)
QWEN3_6 = Release("3.6", json_unless_text)
QWEN3_8 = Release("3.8", json_unless_text, reads_tags=False, writes_empty_system=False)


class Qwen35Renderer(Renderer):
    """Qwen3.5 and its successors.

    Args:
        tokenizer: A tokenizer of the family.
        release: Which of them.
        thinks: Whether a reply opens with thinking, or with a closed block.
        keep_thinking: Whether history shows what was thought.
        effort: Qwen3.8's word for how much to think.
        grid: How images become tokens.
        name: Registered name.
        special_text: See `Renderer`.
    """

    name = "qwen3_5"
    roles: ClassVar[tuple[str, ...]] = ("system", "user", "assistant", "tool")
    features = frozenset({Feature.THINKING, Feature.TOOLS, Feature.IMAGES})
    control_tokens: ClassVar[tuple[str, ...]] = CONTROL_TOKENS
    stop_tokens: ClassVar[tuple[str, ...]] = (IM_END,)

    def __init__(  # keywords, each an independent choice
        self,
        tokenizer: Tokenizer,
        *,
        release: Release = QWEN3_5,
        thinks: bool = True,
        keep_thinking: bool = False,
        effort: Effort | None = None,
        grid: PatchGrid | None = None,
        name: str | None = None,
        special_text: Literal["text", "control"] = "text",
    ) -> None:
        super().__init__(tokenizer, name=name, special_text=special_text)
        self.release = release
        self.thinks = thinks
        self.keep_thinking = keep_thinking
        self.effort: Effort | None = effort
        self.grid = grid or PatchGrid()
        # What a thinking model samples after `<think>\n` may begin with a line break, which a
        # rendered history joins with the one before it into one token.
        self.has_extension_property = keep_thinking and not thinks

    def write(self, chat: Chat, script: Script) -> None:
        query = self._query(chat)
        self._write_system(chat, script)
        for turn in chat.turns:
            script.message = turn.index
            if turn.role in ("system", "assistant"):
                refuse_pictures(turn, self.name)
            if turn.role == "assistant":
                self._write_assistant(turn, query, script)
            elif turn.role == "tool":
                write_result_with_parts(chat, trimmed(turn), script)
            elif turn.role == "user":
                open_turn(script, "user")
                write_parts(trimmed(turn).parts, script)
                close_turn(script)
            elif turn.index:
                refuse_late_system(turn, self.name)

    def write_opening(self, chat: Chat, role: str, script: Script) -> None:
        open_turn(script, role)
        if role == "assistant":
            script.header(self._opening)

    def make_reader(self) -> ReplyReader:
        return ReplyFormat(
            is_prefilled=self.thinks,
            call=CALL_TAGS,
            read_calls=read_xml_call,
            before_call="\n\n",
        ).reader()

    def check_target(self, chat: Chat) -> None:
        if not self.thinks:
            refuse_thinking(chat.turns[-1], self._split(chat.turns[-1])[0], self.name)

    def picture_chunk(self, picture: Any) -> Any:
        return self.grid.chunk(picture)

    @property
    def _opening(self) -> str:
        return "<think>\n" if self.thinks else EMPTY_THINKING

    def _query(self, chat: Chat) -> int:
        turns = tuple(map(trimmed, chat.turns))
        query = last_query(turns)
        if not turns or turns[query].role != "user":
            raise RendererError(
                f"no user message: {self.name} needs one that is not a tool's result",
                field="messages",
                hint="add the question",
            )
        return query

    def _write_system(self, chat: Chat, script: Script) -> None:
        first = chat.turns[0]
        has_system = first.role == "system"
        declared = ""
        if chat.tools:
            lines = "".join(f"\n{to_json(tool)}" for tool in chat.tools)
            declared = (
                "# Tools\n\nYou have access to the following functions:\n\n"
                f"<tools>{lines}\n</tools>{CALL_INSTRUCTIONS}"
            )
        own = first.text.strip() if has_system else ""
        text = "\n\n".join(filter(None, [_EFFORT_TEXTS[self.effort], declared, own]))
        if text or (has_system and self.release.writes_empty_system):
            script.message = 0 if has_system else -1
            open_turn(script, "system")
            script.output(text)
            close_turn(script)

    def _write_assistant(self, turn: Turn, query: int, script: Script) -> None:
        open_turn(script, "assistant")
        thinking, text = self._split(turn)
        if self.keep_thinking or turn.index > query:
            write_think_block(thinking.strip(), self._opening, script)
        script.output(text)
        for place, call in enumerate(turn.tool_calls):
            before = "\n" if place else "\n\n" if text.strip() else ""
            script.output(before + xml_call(call, turn.index, self.release.write_value))
        close_turn(script)

    def _split(self, turn: Turn) -> tuple[str, str]:
        turn = trimmed(turn)
        if self.release.reads_tags:
            return split_thinking(turn)
        return turn.thinking or "", turn.text


def trimmed(turn: Turn) -> Turn:
    """The turn with the blanks at both ends of its content gone."""
    if turn.text == (text := turn.text.strip()) and len(turn.parts) == 1:
        return turn
    parts = list(turn.parts)
    if parts and isinstance(parts[0], str):
        parts[0] = parts[0].lstrip()
    if parts and isinstance(parts[-1], str):
        parts[-1] = parts[-1].rstrip()
    return replace(turn, text=text, parts=tuple(parts))


RENDERERS: dict[str, RendererFactory] = {
    "qwen3_5": Qwen35Renderer,
    "qwen3_5_disable_thinking": partial(Qwen35Renderer, thinks=False),
    "qwen3_6": partial(Qwen35Renderer, release=QWEN3_6),
    "qwen3_6_disable_thinking": partial(Qwen35Renderer, release=QWEN3_6, thinks=False),
    "qwen3_6_preserve_thinking": partial(Qwen35Renderer, release=QWEN3_6, keep_thinking=True),
    **{
        f"qwen3_8_{effort}_reasoning": partial(
            Qwen35Renderer, release=QWEN3_8, keep_thinking=True, effort=effort
        )
        for effort in ("xhigh", "medium", "low")
    },
    "qwen3_8_disable_thinking": partial(
        Qwen35Renderer, release=QWEN3_8, keep_thinking=True, thinks=False
    ),
}
