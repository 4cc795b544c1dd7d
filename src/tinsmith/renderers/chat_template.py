r"""Any model's own chat template, run by transformers in its sandbox; loss masks recovered from it.

For families without a renderer here. What the template writes is what is tokenized; where each
message stands in it is found with markers (`outlines.py`). A reply starts where the prompt of the
messages before it ends, and ends with the first end-of-turn token after its text. Some families
(GLM) have no such token: there an answer ends with the token of the next speaker, which is trained
with it, as their own renderers have it. What cannot be told for certain is refused, never guessed:
a text that the template rewrites, a final thought that it drops, an answer that nothing ends.

Not as able as a family's own renderer: thinking and calls are read back only in the common forms
(`<think>`, JSON or `<function=>` between `<tool_call>` tags), and every example runs the template
several times.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple

from tinsmith.core.errors import ConfigError, missing_extra
from tinsmith.renderers.base import Renderer
from tinsmith.renderers.chats import Chat, Feature, Turn
from tinsmith.renderers.glm import PAIR_CALLS
from tinsmith.renderers.messages import RendererError
from tinsmith.renderers.outlines import Outline, TemplateMessage, find_outline, template_messages
from tinsmith.renderers.qwen3 import JSON_CALLS
from tinsmith.renderers.replies import ReplyReader
from tinsmith.renderers.scripts import Part, Script, Segment
from tinsmith.renderers.tagged_replies import ReplyFormat
from tinsmith.renderers.tokenizers import Tokenizer, decode_exactly
from tinsmith.renderers.xml_calls import CALL_TAGS, read_xml_call

_QUESTION: TemplateMessage = {"role": "user", "content": "zqQuestionqz"}
_ANSWER: TemplateMessage = {"role": "assistant", "content": "zqAnswerqz"}
_CALL_NAME = "zqCallqz"
_CALL: TemplateMessage = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": _CALL_NAME, "arguments": {}}}],
}
_RESULT: TemplateMessage = {"role": "tool", "name": "zqFunctionqz", "content": "zqResultqz"}


class ChatTemplateRenderer(Renderer):
    """The tokenizer's chat template as a renderer.

    Args:
        tokenizer: A tokenizer with a chat template.
        chat_template: A template to use instead of the tokenizer's.
        options: Variables of the template, such as `enable_thinking`.
        name: Registered name.
        special_text: See `Renderer`.

    Raises:
        ConfigError: There is no template, or it cannot be used: no end of turn after an answer.
    """

    name = "chat_template"
    roles: ClassVar[tuple[str, ...]] = ("system", "developer", "user", "assistant", "tool")
    features = frozenset({Feature.THINKING, Feature.TOOLS})

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        chat_template: str | None = None,
        options: dict[str, Any] | None = None,
        name: str | None = None,
        special_text: Literal["text", "control"] = "text",
    ) -> None:
        self._template: str = chat_template or _template_of(tokenizer)
        self._options = options or {}
        added: Any = getattr(tokenizer, "added_tokens_decoder", {})
        # Of this tokenizer, unlike a family's: shadows the class's.
        self.control_tokens = tuple(  # type: ignore[misc]
            sorted({str(t.content) for t in added.values() if t.special})
        )
        super().__init__(tokenizer, name=name, special_text=special_text)
        longest_first = sorted(self.control_tokens, key=len, reverse=True)
        self._controls = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._check_tokenizer()
        self._opening = self._find_opening()
        self._history_opening = self._find_history_opening()
        self._speakers = self._find_speakers()
        self._ends = (
            self._find_ends() if self._speakers is None else [*filter(None, self._speakers)]
        )
        self._stop_ids = [self._encoder.control_ids[token] for token in self._ends]
        eos = tokenizer.eos_token_id
        if self._speakers is not None and eos is not None and eos not in self._stop_ids:
            self._stop_ids.append(eos)  # where nobody else speaks, a model may end all text
        self.has_extension_property = self._extends()

    # ------------------------------------------------------------------------------ writing

    def write(self, chat: Chat, script: Script) -> None:
        outline = self._outline(chat)
        self._check_nothing_is_lost(chat, outline)
        position = self._write_bos(outline, script)
        for start, end, message in self._outputs(chat, outline, position):
            self._write(outline, (position, start), Part.HEADER, script)
            script.message = message
            self._write(outline, (start, end), Part.OUTPUT, script)
            position = end
        rest = Part.HEADER if chat.opens_reply else Part.TAIL
        self._write(outline, (position, len(outline.text)), rest, script)

    def write_opening(self, chat: Chat, role: str, script: Script) -> None:
        if role != "assistant":
            raise RendererError(
                f"role={role!r}: a chat template opens replies of the assistant only",
                field="role",
                hint="use the family's own renderer",
            )

    def write_overlap(self, chat: Chat, script: Script) -> None:
        if self._speakers is None or chat.last is None or chat.last.role != "assistant":
            return
        after_text, after_calls = self._speakers
        if chat.last.tool_calls and after_calls is None:
            raise RendererError(
                f"message {chat.last.index}: the chat template has no token after tool calls, so "
                "nothing ends this answer",
                field="tool_calls",
                hint="use the family's own renderer",
                message_index=chat.last.index,
            )
        script.end(after_calls if after_calls and chat.last.tool_calls else after_text)

    def make_reader(self) -> ReplyReader:
        form = ReplyFormat(think=None)
        if "<function=" in self._template:
            form = ReplyFormat(
                think=None, call=CALL_TAGS, read_calls=read_xml_call, before_call="\n\n"
            )
        elif "<arg_key>" in self._template:
            before_call = "\n" if r"\n<tool_call>" in self._template else ""
            form = replace(PAIR_CALLS, think=None, before_call=before_call)
        elif "<tool_call>" in self._template and '"arguments"' in self._template:
            form = JSON_CALLS
        if "</think>" not in self._template:
            return form.reader()
        reader = replace(
            form,
            think=("<think>", "</think>"),
            is_prefilled=self._opening.rstrip().endswith("<think>"),
        ).reader()
        if self._opening.endswith("</think>"):
            reader.feed("<think></think>")  # what the prompt holds: a line break may follow it
        return reader

    def check_target(self, chat: Chat) -> None:
        """The answer must continue the very prompt that a sampler would get."""
        prompt = self._outline(Chat(chat.turns[:-1], chat.tools, opens_reply=True)).text
        script = self._script(chat)
        before = "".join(
            s.text
            for s in script.segments
            if (s.part, s.message) != (Part.OUTPUT, len(chat.turns) - 1) and s.part is not Part.TAIL
        )
        if before != prompt:
            raise RendererError(
                f"message {len(chat.turns) - 1}: the template does not write this answer where its "
                "prompt ends, so a sampler could not produce it",
                hint="set the template's options, or use the family's own renderer",
                message_index=len(chat.turns) - 1,
            )

    def _outputs(self, chat: Chat, outline: Outline, position: int) -> list[tuple[int, int, int]]:
        """Start, end and message of every output, in the order of the text.

        Most templates keep the order of messages; some move system texts to the front.
        """
        in_order = [turn for turn in chat.turns if outline.of(turn.index)]
        for turn in chat.turns:
            if not outline.of(turn.index):
                self._refuse_unplaced(turn)
        in_order.sort(key=lambda turn: outline.of(turn.index)[0].start)
        spans: list[tuple[int, int, int]] = []
        for turn in in_order:
            start, end = self._output(chat, turn, outline, position)
            if start < position:
                raise RendererError(
                    f"message {turn.index}: the template mixes it with another message",
                    hint="use the family's own renderer",
                    message_index=turn.index,
                )
            spans.append((start, end, turn.index))
            position = end
        return spans

    def _output(self, chat: Chat, turn: Turn, outline: Outline, position: int) -> tuple[int, int]:
        """Where a message's output starts and ends in the text."""
        found = outline.of(turn.index)
        start, last = found[0].start, found[-1].end
        if turn.role == "assistant":
            for opening in filter(None, (self._opening, self._history_opening)):
                place = outline.text.rfind(opening, position, start)
                if place >= 0:
                    start = place + len(opening)
                    break
        following = [p.start for p in outline.places if p.start >= last]
        limit = following[0] if following else len(outline.text)
        if self._speakers is not None:
            return start, self._end_of_turn(turn, outline.text, last, limit)
        ends = [
            match.end()
            for match in self._controls.finditer(outline.text, last, limit)
            if match[0] in self._ends
        ]
        if ends:
            return start, ends[0]
        if turn.role == "assistant" and not (chat.opens_reply and turn is chat.last):
            raise RendererError(
                f"message {turn.index}: the template writes no end of turn after it",
                hint="use the family's own renderer",
                message_index=turn.index,
            )
        return start, last

    def _end_of_turn(self, turn: Turn, text: str, last: int, limit: int) -> int:
        """Where an output ends if the next speaker ends it: an answer takes that one's token."""
        if turn.role != "assistant":
            return last
        following = self._controls.search(text, last, limit)
        if following is None:
            return limit
        return following.end() if following[0] in self._ends else following.start()

    def _write_bos(self, outline: Outline, script: Script) -> int:
        bos = self.tokenizer.bos_token_id
        if bos is None:
            return 0
        spelled = decode_exactly(self.tokenizer, [bos])
        if not outline.text.startswith(spelled) or spelled not in self._encoder.control_ids:
            return 0
        script.control(spelled, Part.BOS)
        return len(spelled)

    def _write(self, outline: Outline, span: tuple[int, int], part: Part, script: Script) -> None:
        """Write a stretch: control tokens outside of messages' texts, text as text."""
        position, end = span
        inside = [p for p in outline.places if p.start < end and p.end > position]
        for place in [*inside, None]:
            stop = end if place is None else max(place.start, position)
            self._write_literal(outline.text[position:stop], part, script)
            if place is not None:
                position = min(place.end, end)
                script.write(outline.text[stop:position], part)

    def _write_literal(self, text: str, part: Part, script: Script) -> None:
        position = 0
        for match in self._controls.finditer(text):
            script.write(text[position : match.start()], part)
            script.segments.append(Segment(match[0], part, script.message, True))
            position = match.end()
        script.write(text[position:], part)

    # ---------------------------------------------------------------------------- rendering

    def _outline(self, chat: Chat) -> Outline:
        """Objects first; a template that wants arguments as text fails on them."""
        tools = list(chat.tools)

        def render(messages: list[TemplateMessage]) -> str:
            return self._render(messages, tools, opens_reply=chat.opens_reply)

        try:
            return find_outline(template_messages(chat.turns, arguments_as_text=False), render)
        except RendererError as error:
            if not any(turn.tool_calls for turn in chat.turns):
                raise
            as_text = template_messages(chat.turns, arguments_as_text=True)
            try:
                return find_outline(as_text, render)
            except RendererError:
                raise error from None

    def _render(
        self, messages: list[TemplateMessage], tools: list[Any], *, opens_reply: bool
    ) -> str:
        from jinja2 import TemplateError

        tokenizer: Any = self.tokenizer
        try:
            return tokenizer.apply_chat_template(
                messages,
                tools=tools or None,
                chat_template=self._template,
                add_generation_prompt=opens_reply,
                tokenize=False,
                **self._options,
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise RendererError(
                f"the chat template refuses the conversation: {error}",
                hint="templates often want roles to alternate, or arguments in another form",
            ) from error

    def _check_nothing_is_lost(self, chat: Chat, outline: Outline) -> None:
        if chat.tools:
            without = self._outline(Chat(chat.turns, (), chat.opens_reply)).text
            if without == outline.text:
                raise RendererError(
                    "tools are given: the chat template does not declare them",
                    field="tools",
                    hint="write them into the system message",
                )
        for turn in chat.turns:
            found = {place.key for place in outline.of(turn.index)}
            wanted = {"content"} if turn.text.strip() else set()
            wanted |= {"tool_calls"} if turn.tool_calls else set()
            if turn is chat.last and not chat.opens_reply and (turn.thinking or "").strip():
                wanted |= {"reasoning_content"}
            for key in sorted(wanted - found):
                raise RendererError(
                    f"message {turn.index}: the chat template does not write its {key}",
                    field=key,
                    hint="remove it, or use the family's own renderer",
                    message_index=turn.index,
                )

    def _refuse_unplaced(self, turn: Turn) -> None:
        """An empty answer has no text to be found by."""
        if turn.role == "assistant":
            raise RendererError(
                f"message {turn.index}: an empty answer cannot be found in what a chat template "
                "writes",
                field="content",
                hint="remove it, or use the family's own renderer",
                message_index=turn.index,
            )

    # ------------------------------------------------------------------------------ probing

    def _find_opening(self) -> str:
        """What opens a reply."""
        closed = self._render([_QUESTION], [], opens_reply=False)
        opened = self._render([_QUESTION], [], opens_reply=True)
        if not opened.startswith(closed):
            raise self._unusable("a prompt does not begin with what was said before it")
        return opened[len(closed) :]

    def _find_history_opening(self) -> str:
        """What opens an answer that others follow: some templates take the opened thinking out."""
        first = self._controls.match(self._opening)
        text = self._render([_QUESTION, _ANSWER, _QUESTION], [], opens_reply=False)
        between = text.partition(_ANSWER["content"])[0].partition(_QUESTION["content"])[2]
        place = -1 if first is None else between.rfind(first[0])
        return between[place:] if place >= 0 else ""

    def _find_speakers(self) -> _Speakers | None:
        """What ends an answer if no token of its own does: the tokens of who speaks next."""
        if self._controls.search(self._after(_ANSWER, [_QUESTION, _ANSWER])):
            return None
        asked = self._render([_QUESTION], [], opens_reply=False).partition(_QUESTION["content"])[0]
        [*_, speaker] = self._controls.findall(asked) or [None]
        following = self._controls.search(self._after(_ANSWER, [_QUESTION, _ANSWER, _QUESTION]))
        if speaker is None or following is None or following[0] != speaker:
            raise self._unusable("no control token ends an answer")
        try:
            called = self._render([_QUESTION, _CALL, _RESULT], [], opens_reply=False)
        except RendererError:  # a template without tools
            return _Speakers(speaker, None)
        told = called.partition(_CALL_NAME)[2].partition(_RESULT["content"])[0]
        [*_, after_calls] = self._controls.findall(told) or [None]
        return _Speakers(speaker, after_calls)

    def _after(self, message: TemplateMessage, messages: list[TemplateMessage]) -> str:
        """What stands between a message's text and the next one's."""
        text = self._render(messages, [], opens_reply=False)
        after = text.partition(message["content"])[2]
        return after.partition(_QUESTION["content"])[0]

    def _find_ends(self) -> list[str]:
        """Control tokens that end an answer, last or in history."""
        found: list[str] = []
        for messages in ([_QUESTION, _ANSWER], [_QUESTION, _ANSWER, _QUESTION]):
            following = self._controls.search(self._after(_ANSWER, messages))
            if following is None:
                raise self._unusable("no control token ends an answer")
            if following[0] not in found:
                found.append(following[0])
        return found

    def _extends(self) -> bool:
        """Whether an answer, with and without thinking, stays as it was when more is said."""
        for answer in (_ANSWER, {**_ANSWER, "reasoning_content": "zqThoughtqz"}):
            prompt = self._render([_QUESTION], [], opens_reply=True)
            so_far = self._render([_QUESTION, answer], [], opens_reply=False)
            longer = self._render([_QUESTION, answer, _QUESTION], [], opens_reply=True)
            end = max(so_far.rfind(token) + len(token) for token in self._ends)
            if self._speakers is not None:
                end = len(so_far)
            if not so_far.startswith(prompt) or not longer.startswith(so_far[:end]):
                return False
        return True

    def _check_tokenizer(self) -> None:
        """Refuse a tokenizer that treats text after a control token otherwise than by itself."""
        text = self._render([_QUESTION, _ANSWER], [], opens_reply=False)
        expected = self.tokenizer.encode(text, add_special_tokens=False)
        script = Script()
        self._write_literal(text, Part.HEADER, script)
        if self._encode_script(script) != list(expected):
            raise self._unusable("the tokenizer joins text across control tokens")

    def _unusable(self, why: str) -> ConfigError:
        model = getattr(self.tokenizer, "name_or_path", "")
        return ConfigError(
            f"renderer={self.name!r}: the chat template of {model!r} cannot be used: {why}",
            field="renderer",
            hint="write a renderer for this family (CONTRIBUTING.md)",
        )


class _Speakers(NamedTuple):
    """The tokens of those who speak after the assistant."""

    after_text: str
    after_calls: str | None


def _template_of(tokenizer: Any) -> str:
    try:
        import jinja2  # noqa: F401  # transformers runs templates with it
    except ImportError as error:
        raise missing_extra("jinja2", "engine") from error
    template = getattr(tokenizer, "chat_template", None)
    if not isinstance(template, str):
        raise ConfigError(
            "renderer='chat_template': the tokenizer has no chat template",
            field="renderer",
            hint="a base model takes role_colon; or give chat_template=",
        )
    return template
