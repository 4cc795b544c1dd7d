r"""DeepSeek V3.1: `<｜User｜>`, `<｜Assistant｜>`, no line breaks, an end token after replies.

All system texts stand in front, joined by blank lines, late ones too. A reply follows its
question's `<｜Assistant｜>` and a think tag; after a tool result it follows directly. History shows
no thinking: the prompt of a reply that thinks ends in `<think>`, and the same reply stands behind
`</think>` later on.

| name | opening of a reply | template |
|---|---|---|
| `deepseekv3`, `deepseekv3_disable_thinking` | `</think>` | DeepSeek-V3.1, `thinking=False` |
| `deepseekv3_thinking` | `<think>` | the same, `thinking=True` |

Source: chat template of deepseek-ai/DeepSeek-V3.1; its model card for how tools are declared.
Deviations: the template never declares tools; the model card's section is written after the system
texts. A trained last message
keeps its thinking under `deepseekv3_thinking` (the template would drop it), and has an empty block
where nothing was thought. A `developer` message is refused (the template drops it).
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Literal

from tinsmith.renderers.base import Renderer, RendererFactory
from tinsmith.renderers.chats import Chat, Feature, Turn
from tinsmith.renderers.messages import RendererError, ToolSpec
from tinsmith.renderers.replies import ReplyReader
from tinsmith.renderers.scripts import Part, Script
from tinsmith.renderers.tagged_replies import ParsedCall, ReplyFormat
from tinsmith.renderers.tokenizers import Tokenizer
from tinsmith.renderers.tool_calls import arguments_text, read_named_call, to_json, unparsed

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
USER = "<｜User｜>"
ASSISTANT = "<｜Assistant｜>"
CALLS_BEGIN, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL_BEGIN, CALL_SEP, CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
OUTPUT_BEGIN, OUTPUT_END = "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"

_BEFORE_FORM = "IMPORTANT: ALWAYS adhere to this exact format for tool use:\n"
_AFTER_FORM = (
    "\n\nWhere:\n"
    "- `tool_call_name` must be an exact match to one of the available tools\n"
    "- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters "
    "Schema\n"
    "- For multiple tool calls, chain them directly without separators or spaces"
)


class DeepSeekV3Renderer(Renderer):
    """DeepSeek V3.1.

    Args:
        tokenizer: A DeepSeek V3.1 tokenizer.
        thinks: Whether the prompt opens thinking, or closes it.
        name: Registered name.
        special_text: See `Renderer`.
    """

    name = "deepseekv3"
    roles: ClassVar[tuple[str, ...]] = ("system", "user", "assistant", "tool")
    features = frozenset({Feature.TOOLS, Feature.THINKING})
    control_tokens: ClassVar[tuple[str, ...]] = (
        BOS, EOS, USER, ASSISTANT, CALLS_BEGIN, CALLS_END, CALL_BEGIN, CALL_SEP, CALL_END,
        OUTPUT_BEGIN, OUTPUT_END,
    )  # fmt: skip
    stop_tokens: ClassVar[tuple[str, ...]] = (EOS,)

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        thinks: bool = False,
        name: str | None = None,
        special_text: Literal["text", "control"] = "text",
    ) -> None:
        super().__init__(tokenizer, name=name, special_text=special_text)
        self.thinks = thinks
        self.has_extension_property = not thinks

    def write(self, chat: Chat, script: Script) -> None:
        script.control(BOS, Part.BOS)
        self._write_system(chat, script)
        before: Turn | None = None
        for turn in chat.turns:
            if turn.role == "system":
                continue
            script.message = turn.index
            if turn.role == "user":
                script.control(USER)
                script.output(turn.text)
            elif turn.role == "tool":
                script.control(OUTPUT_BEGIN)
                script.output(turn.text)
                script.end(OUTPUT_END)
            else:
                self._write_assistant(chat, turn, before, script)
            before = turn

    def write_opening(self, chat: Chat, role: str, script: Script) -> None:
        if role == "assistant":
            if _follows_question(_last_but_system(chat.turns)):
                script.control(ASSISTANT)
                script.header("<think>" if self.thinks else "</think>")
        elif role != "system":
            script.control(USER if role == "user" else OUTPUT_BEGIN)

    def make_reader(self) -> ReplyReader:
        return ReplyFormat(
            think=("<think>", "</think>") if self.thinks else None,
            is_prefilled=self.thinks,
            frame="",
            call=(CALLS_BEGIN, CALLS_END),
            read_calls=_read_calls,
        ).reader()

    def check_target(self, chat: Chat) -> None:
        turn = chat.turns[-1]
        if not split_thinking(turn)[0]:
            return
        if self.thinks and _follows_question(_last_but_system(chat.turns[:-1])):
            return
        why = "closes thinking in the prompt" if not self.thinks else "thinks after a question only"
        raise RendererError(
            f"message {turn.index}: the answer holds thinking, and {self.name} {why}",
            field="content",
            hint="take the thinking out, or use deepseekv3_thinking for answers to a question",
            message_index=turn.index,
        )

    def _write_system(self, chat: Chat, script: Script) -> None:
        is_first = True
        for turn in chat.turns:
            if turn.role == "system":
                script.message = turn.index
                script.header("" if is_first else "\n\n")
                script.output(turn.text)
                is_first = False
        if not chat.tools:
            return
        script.message = -1
        script.header("" if is_first else "\n\n")
        write_tools(chat.tools, script)

    def _write_assistant(self, chat: Chat, turn: Turn, before: Turn | None, script: Script) -> None:
        follows_question = _follows_question(before)
        thinking, text = split_thinking(turn)
        if turn.tool_calls or (before is not None and before.role == "tool"):
            text = turn.text  # the template cuts inline thinking out of plain answers alone
        if follows_question:
            script.control(ASSISTANT)
            if self.thinks and chat.trains and turn is chat.last:
                script.header("<think>")
                script.output(f"{thinking}</think>")
            else:
                script.header("</think>")
        script.output(text)
        if turn.tool_calls:
            script.control(CALLS_BEGIN, Part.OUTPUT)
            for call in turn.tool_calls:
                write_call(call["function"]["name"], arguments_text(call), Part.OUTPUT, script)
            script.control(CALLS_END, Part.OUTPUT)
        script.end(EOS)


def split_thinking(turn: Turn) -> tuple[str, str]:
    """Thinking and text of an assistant message; thinking may stand in the text, before its tag."""
    before, closing, after = turn.text.partition("</think>")
    if turn.thinking is not None or not closing:
        return turn.thinking or "", after if closing else turn.text
    return before.removeprefix("<think>"), after


def write_tools(tools: tuple[ToolSpec, ...], script: Script) -> None:
    """Write declared tools and the form of a call, as the model card has them."""
    script.header("## Tools\nYou have access to the following tools:\n\n")
    for tool in tools:
        function = tool["function"]
        script.header(
            f"### {function['name']}\nDescription: {function.get('description', '')}\n\n"
            f"Parameters: {to_json(function.get('parameters', {}))}\n\n"
        )
    script.header(_BEFORE_FORM)
    script.control(CALLS_BEGIN)
    write_call("tool_call_name", "tool_call_arguments", Part.HEADER, script)
    script.header("{additional_tool_calls}")
    script.control(CALLS_END)
    script.header(_AFTER_FORM)


def write_call(name: str, arguments: str, part: Part, script: Script) -> None:
    """Write one call of a section."""
    script.control(CALL_BEGIN, part)
    script.write(name, part)
    script.control(CALL_SEP, part)
    script.write(arguments, part)
    script.control(CALL_END, part)


def _last_but_system(turns: tuple[Turn, ...]) -> Turn | None:
    return next((turn for turn in reversed(turns) if turn.role != "system"), None)


def _follows_question(before: Turn | None) -> bool:
    return before is not None and before.role == "user"


def _read_calls(text: str) -> list[ParsedCall]:
    """The calls between the tags of a section."""
    calls: list[ParsedCall] = []
    for piece in text.split(CALL_BEGIN):
        if not piece.strip():
            continue
        body, closing, _ = piece.partition(CALL_END)
        name, separator, arguments = body.partition(CALL_SEP)
        if not closing or not separator or not name.strip():
            calls.append(unparsed(piece, f"a call is NAME{CALL_SEP}ARGUMENTS{CALL_END}"))
        else:
            calls.append(read_named_call(name.strip(), arguments, raw_text=piece))
    return calls or [unparsed(text, f"no {CALL_BEGIN}")]


RENDERERS: dict[str, RendererFactory] = {
    "deepseekv3": DeepSeekV3Renderer,
    "deepseekv3_disable_thinking": DeepSeekV3Renderer,
    "deepseekv3_thinking": partial(DeepSeekV3Renderer, thinks=True),
}
