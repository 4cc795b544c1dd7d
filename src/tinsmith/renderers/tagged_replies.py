r"""Replies with thinking and tool calls between tags: `<think>...</think>`, `<tool_call>...`.

`TaggedReader` is a small state machine over text that may arrive in any pieces. It serves every
family whose reply is *optional thinking, text, tool calls*; a `ReplyFormat` says the tags.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from tinsmith.renderers.deltas import (
    Delta,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    UnparsedToolCallDelta,
)
from tinsmith.renderers.messages import ToolCall, UnparsedToolCall

ParsedCall = ToolCall | UnparsedToolCall
ReadCalls = Callable[[str], Sequence[ParsedCall]]


@dataclass(frozen=True)
class ReplyFormat:
    r"""The tags of a family.

    Attributes:
        think: Opening and closing tag of thinking; None where the family has none.
        is_prefilled: Whether the prompt ends inside thinking, so that only the closing tag comes;
            a reply that repeats the opening tag is read the same.
        frame: Characters that frame thinking and the text after it, and are not part of them.
        call: Opening and closing tag of a tool call, or of a section of calls; None for none.
        read_calls: Reads what stands between the tags of a call.
        before_call: What is written between text and the first call; not part of the text.
    """

    think: tuple[str, str] | None = ("<think>", "</think>")
    is_prefilled: bool = False
    frame: str = "\n"
    call: tuple[str, str] | None = None
    read_calls: ReadCalls | None = None
    before_call: str = ""

    def reader(self) -> TaggedReader:
        """A fresh reader for one reply."""
        return TaggedReader(self)


class _State(Enum):
    START = auto()
    THINKING = auto()
    TEXT = auto()
    CALL = auto()
    AFTER_CALL = auto()


class TaggedReader:
    """Reads one reply; see `ReplyFormat`.

    Thinking counts only at the beginning: a later `<think>` is text. A reply that ends inside its
    thinking is all thinking. A call that is not closed is reported as unparsed.
    """

    def __init__(self, form: ReplyFormat) -> None:
        self._form = form
        self._pending = ""
        self._out: list[Delta] = []
        self._skips_frame = form.is_prefilled
        self._state = _State.TEXT if form.think is None else _State.START

    def feed(self, text: str) -> list[Delta]:
        self._pending += text
        while self._step():
            pass
        return self._taken()

    def finish(self) -> list[Delta]:
        form, rest = self._form, self._pending
        self._pending = ""
        match self._state:
            case _State.THINKING:
                self._say(ThinkingDelta, rest.lstrip(form.frame) if self._skips_frame else rest)
            case _State.START if form.is_prefilled:
                self._say(ThinkingDelta, rest.lstrip(form.frame))
            case _State.START | _State.TEXT:
                self._say(TextDelta, rest.lstrip(form.frame) if self._skips_frame else rest)
            case _State.AFTER_CALL:
                self._say(TextDelta, rest if rest.strip() else "")
            case _State.CALL:
                assert form.call is not None  # the state exists only where calls do
                error = f"not closed: {form.call[1]} is missing"
                raw: UnparsedToolCall = {"raw_text": form.call[0] + rest, "error": error}
                self._out.append(UnparsedToolCallDelta(raw))
        return self._taken()

    def _taken(self) -> list[Delta]:
        out, self._out = self._out, []
        return out

    def _say(self, kind: type[TextDelta | ThinkingDelta], text: str) -> None:
        if text:
            self._out.append(kind(text))

    def _step(self) -> bool:
        """Take one marker out of the pending text; False when there is none (yet)."""
        match self._state:
            case _State.START:
                return self._start()
            case _State.THINKING:
                return self._think()
            case _State.TEXT:
                return self._read_text()
            case _State.CALL:
                return self._read_call()
            case _State.AFTER_CALL:
                return self._after_call()

    def _start(self) -> bool:
        assert self._form.think is not None
        opening = self._form.think[0]
        text = self._pending.lstrip()
        if text.startswith(opening):
            self._pending = text[len(opening) :]
            self._state, self._skips_frame = _State.THINKING, True
            return True
        if opening.startswith(text):
            return False
        self._state = _State.THINKING if self._form.is_prefilled else _State.TEXT
        return True

    def _think(self) -> bool:
        assert self._form.think is not None
        closing, frame = self._form.think[1], self._form.frame
        if self._skips_frame:
            self._pending = self._pending.lstrip(frame)
            self._skips_frame = not self._pending
        place = self._pending.find(closing)
        if place >= 0:
            self._say(ThinkingDelta, self._pending[:place].rstrip(frame))
            self._pending = self._pending[place + len(closing) :]
            self._state, self._skips_frame = _State.TEXT, True
            return True
        certain = self._pending[: len(self._pending) - overlap(self._pending, closing)]
        self._give(ThinkingDelta, len(certain.rstrip(frame)))
        return False

    def _read_text(self) -> bool:
        if self._skips_frame:
            self._pending = self._pending.lstrip(self._form.frame)
            self._skips_frame = not self._pending
        if self._form.call is None:
            self._give(TextDelta, len(self._pending))
            return False
        opening, before = self._form.call[0], self._form.before_call
        place = self._pending.find(opening)
        if place >= 0:
            self._say(TextDelta, self._pending[:place].removesuffix(before))
            self._pending = self._pending[place + len(opening) :]
            self._state = _State.CALL
            return True
        held = max(overlap(self._pending, before + opening), overlap(self._pending, opening))
        self._give(TextDelta, len(self._pending) - held)
        return False

    def _read_call(self) -> bool:
        assert self._form.call is not None
        assert self._form.read_calls is not None
        opening, closing = self._form.call
        place = self._pending.find(closing)
        if place < 0:
            return False
        body = self._pending[:place]
        for call in self._form.read_calls(body):
            if "raw_text" in call:
                raw: UnparsedToolCall = {**call, "raw_text": opening + body + closing}  # type: ignore[typeddict-item]
                self._out.append(UnparsedToolCallDelta(raw))
            else:
                self._out.append(ToolCallDelta(call))
        self._pending = self._pending[place + len(closing) :]
        self._state = _State.AFTER_CALL
        return True

    def _after_call(self) -> bool:
        assert self._form.call is not None
        opening = self._form.call[0]
        text = self._pending.lstrip()
        if text.startswith(opening):
            self._pending = text[len(opening) :]
            self._state = _State.CALL
            return True
        if opening.startswith(text):
            return False
        self._state = _State.TEXT
        return True

    def _give(self, kind: type[TextDelta | ThinkingDelta], length: int) -> None:
        """Say the first `length` characters of the pending text."""
        if length > 0:
            self._say(kind, self._pending[:length])
            self._pending = self._pending[length:]


def overlap(text: str, marker: str) -> int:
    """Length of the longest end of `text` that begins `marker`."""
    for length in range(min(len(text), len(marker) - 1), 0, -1):
        if text.endswith(marker[:length]):
            return length
    return 0
