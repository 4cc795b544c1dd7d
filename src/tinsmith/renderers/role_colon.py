r"""Plain text for base models: `User: question\n\nAssistant: answer\n\n`.

Header is the capitalised role and a colon; output is a space, the text and two line breaks. A turn
ends where the next one would begin, `\n\nUser:`, and the `User:` half of that is the stop overlap,
trained after the last message so that the model learns to stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from tinsmith.renderers.base import Renderer
from tinsmith.renderers.chats import Chat
from tinsmith.renderers.deltas import Delta, TextDelta, message_of
from tinsmith.renderers.messages import (
    Message,
    ParsedResponse,
    ParseTermination,
    RendererError,
    content_text,
)
from tinsmith.renderers.replies import GrowingText, ReplyReader, ReplyStream
from tinsmith.renderers.scripts import Part, Script
from tinsmith.renderers.tagged_replies import ReplyFormat, overlap
from tinsmith.renderers.tokenizers import Tokenizer

STOP = "\n\nUser:"


class RoleColonRenderer(Renderer):
    """Roles as words, for models that have no chat format of their own.

    Headers, outputs and the stop overlap are tokenized each by itself, so that what follows a turn
    never changes its tokens.
    """

    name = "role_colon"

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        name: str | None = None,
        special_text: Literal["text", "control"] = "text",
    ) -> None:
        super().__init__(tokenizer, name=name, special_text=special_text)
        bos = tokenizer.bos_token_id
        self._bos = None if bos is None else "bos"
        if bos is not None:  # by number: not every tokenizer lists it among its added tokens
            self._encoder.control_ids["bos"] = bos

    def write(self, chat: Chat, script: Script) -> None:
        if self._bos is not None:
            script.control(self._bos, Part.BOS)
        for turn in chat.turns:
            script.message = turn.index
            _refuse_own_stop(turn.role, turn.text, turn.index)
            script.cut()
            script.header(_header(turn.role))
            script.cut()
            script.output(f" {turn.text}\n\n")

    def write_opening(self, chat: Chat, role: str, script: Script) -> None:
        # A prefill follows the colon as it stands: give it the leading space if it wants one.
        script.cut()
        script.header(_header(role))
        script.cut()

    def write_overlap(self, chat: Chat, script: Script) -> None:
        script.cut()
        script.output("User:")

    def check_message(self, message: Message, index: int | None = None) -> None:
        super().check_message(message, index)
        _refuse_own_stop(message["role"], content_text(message), index)

    def get_stop_sequences(self) -> list[str]:
        return [STOP]

    def make_reader(self) -> ReplyReader:
        return ReplyFormat(think=None).reader()

    def open_reply(self) -> ReplyStream:
        return _PlainReply(self.tokenizer)


def _header(role: str) -> str:
    return f"{role.capitalize()}:"


def _refuse_own_stop(role: str, text: str, index: int | None) -> None:
    if role == "assistant" and STOP in f" {text}\n\n":
        raise RendererError(
            f"message {index}: the assistant's text holds {STOP!r}, where role_colon ends a turn",
            field="content",
            hint="use the chatml renderer, or take that text out",
            message_index=index,
        )


class _PlainReply(ReplyStream):
    """A reply that ends with a text; one leading space and a trailing double line break go.

    It is clean if it ends with the stop text, or without one at the tokenizer's end of text.
    Anything else (no end, two ends, text after the end) is malformed, and the text before the first
    end is kept.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._growing = GrowingText(tokenizer)
        self._eos = tokenizer.eos_token_id
        self._has_eos = False
        self._pending = ""
        self._is_start = True
        self._after_stop: str | None = None
        self._said: list[Delta] = []

    def feed(self, tokens: Sequence[int]) -> list[Delta]:
        body: list[int] = []
        for token in tokens:
            if self._has_eos and self._eos is not None:
                body.append(self._eos)
            self._has_eos = token == self._eos
            if not self._has_eos:
                body.append(token)
        return self._take(self._growing.push(body))

    def finish(self) -> tuple[list[Delta], ParsedResponse]:
        last = self._take(self._growing.rest())
        if self._after_stop is None:
            last += self._say(self._pending.removesuffix("\n\n"))
            termination = ParseTermination.EOS if self._has_eos else ParseTermination.MALFORMED
        else:
            is_clean = not self._after_stop and not self._has_eos
            termination = ParseTermination.STOP_SEQUENCE if is_clean else ParseTermination.MALFORMED
        return last, ParsedResponse(message_of(self._said), termination)

    def _take(self, text: str) -> list[Delta]:
        if self._after_stop is not None:
            self._after_stop += text
            return []
        self._pending += text
        if self._is_start and self._pending:
            self._pending, self._is_start = self._pending.removeprefix(" "), False
        body, stop, rest = self._pending.partition(STOP)
        if stop:
            self._after_stop, self._pending = rest, ""
            return self._say(body.removesuffix("\n\n"))
        certain = self._pending[: len(self._pending) - overlap(self._pending, STOP)].rstrip("\n")
        self._pending = self._pending[len(certain) :]
        return self._say(certain)

    def _say(self, text: str) -> list[Delta]:
        deltas: list[Delta] = [TextDelta(text)] if text else []
        self._said += deltas
        return deltas
