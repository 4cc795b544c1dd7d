"""Sampled tokens as a reply, token by token: where it ends, and its text as it grows.

`ReplyStream` finds the end of the turn, decodes, and hands text to the format's `ReplyReader`,
which tells thinking, text and tool calls apart. Parsing a whole reply is the same with all tokens
at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tinsmith.renderers.deltas import Delta, message_of
from tinsmith.renderers.messages import ParsedResponse, ParseTermination, RendererError
from tinsmith.renderers.tokenizers import Tokenizer, decode_exactly


class ReplyReader(Protocol):
    """Reads the text of one reply, given in any pieces.

    What it yields must not depend on how the text is cut into pieces: hold back what may turn out
    to be the beginning of a marker.
    """

    def feed(self, text: str) -> list[Delta]:
        """Take more text."""
        ...

    def finish(self) -> list[Delta]:
        """Take the end of the text, complete or cut off."""
        ...


class ReplyStream:
    """Reads one reply as its tokens arrive.

    Args:
        tokenizer: Decodes.
        stop_tokens: Control tokens that end a turn.
        reader: The format's reader, fresh.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop_tokens: frozenset[int], reader: ReplyReader
    ) -> None:
        self._text = GrowingText(tokenizer)
        self._tokenizer = tokenizer
        self._stop_tokens = stop_tokens
        self._reader = reader
        self._deltas: list[Delta] = []
        self._num_stops = 0
        self._has_tail = False
        self._held_eos: int | None = None

    def feed(self, tokens: Sequence[int]) -> list[Delta]:
        """Take more tokens.

        Raises:
            RendererError: A second end of turn: these tokens are not one reply.
        """
        body: list[int] = []
        for token in tokens:
            if token in self._stop_tokens:
                self._stop(token)
            elif self._num_stops:
                self._has_tail = True
            else:
                if self._held_eos is not None:
                    body.append(self._held_eos)
                self._held_eos = token if token == self._tokenizer.eos_token_id else None
                if self._held_eos is None:
                    body.append(token)
        return self._read(self._text.push(body))

    def finish(self) -> tuple[list[Delta], ParsedResponse]:
        """The last deltas, and the whole reply."""
        last = self._read(self._text.rest())
        ending = self._reader.finish()
        self._deltas += ending
        if self._num_stops:
            clean = not self._has_tail and self._held_eos is None
            termination = ParseTermination.STOP_SEQUENCE if clean else ParseTermination.MALFORMED
        elif self._held_eos is not None:
            termination = ParseTermination.EOS
        else:
            termination = ParseTermination.MALFORMED
        return [*last, *ending], ParsedResponse(message_of(self._deltas), termination)

    def _stop(self, token: int) -> None:
        self._num_stops += 1
        if self._num_stops > 1:
            spelled = decode_exactly(self._tokenizer, [token])
            raise RendererError(
                f"the response holds {self._num_stops} end-of-turn tokens ({spelled}): expected "
                "at most 1",
                hint="sample with stop=renderer.get_stop_sequences()",
            )

    def _read(self, text: str) -> list[Delta]:
        deltas = self._reader.feed(text) if text else []
        self._deltas += deltas
        return deltas


class GrowingText:
    """Text of tokens as they arrive, given out in whole characters.

    A token's text may depend on the tokens before it, so new text is the difference of two
    decodings of a short window, taken only where it ends in a whole character.
    Source: `decode_token` of Hugging Face text-generation-inference.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._num_read = 0

    def push(self, tokens: Sequence[int]) -> str:
        """Take more tokens; the text that is certain now."""
        if not tokens:
            return ""
        self._window += tokens
        old, new = self._decoded()
        if len(new) <= len(old) or new.endswith("\ufffd"):
            return ""
        self._window = self._window[self._num_read :]
        self._num_read = len(self._window)
        return new[len(old) :]

    def rest(self) -> str:
        """What is left when no token comes any more: at most one broken character."""
        old, new = self._decoded()
        self._num_read = len(self._window)
        return new[len(old) :]

    def _decoded(self) -> tuple[str, str]:
        old = decode_exactly(self._tokenizer, self._window[: self._num_read])
        return old, decode_exactly(self._tokenizer, self._window)
