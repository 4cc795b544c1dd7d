"""When a sequence ends: end tokens, stop tokens, stop texts.

`stop=None` stops at the model's own end tokens, `stop=[]` at nothing, a list of ids at those tokens
(and no others), a text or list of texts where one of them first appears in what was generated.
A sequence ends with the token that completed the stop, and that token is part of the result, as
in Tinker; nothing is cut from it, so tokens and logprobs stay those that were drawn.

A stop text is looked for in the text of the tokens with control tokens written out: `<|im_end|>`
may be given as a text. Characters whose bytes are spread over tokens count when their last byte is
there. Byte-level tokenizers (GPT-2, Llama 3, Qwen) are matched on bytes, exactly; others by
decoding the text as it grows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from tinsmith.core.errors import UserError
from tinsmith.renderers.tokenizers import decode_exactly, get_tokenizer

__all__ = ["StopRules", "StopTexts", "TextWatch", "end_tokens"]


class TextWatch(Protocol):
    """Follows one sequence and says when a stop text has appeared."""

    def push(self, token: int) -> bool:
        """Add a token; True when the text so far contains a stop text for the first time."""
        ...


@dataclass(frozen=True)
class StopRules:
    """What ends the sequences of one job."""

    tokens: frozenset[int]
    make_watch: Callable[[], TextWatch] | None
    """None where there are no stop texts."""

    @classmethod
    def from_params(
        cls, stop: str | Sequence[str] | Sequence[int] | None, texts: StopTexts
    ) -> StopRules:
        """The rules that `SamplingParams.stop` asks for.

        Raises:
            UserError: stop texts were given and the model has no tokenizer.
        """
        if stop is None:
            return cls(texts.end_tokens, None)
        items = [stop] if isinstance(stop, str) else list(stop)
        words = tuple(item for item in items if isinstance(item, str))
        tokens = frozenset(int(item) for item in items if not isinstance(item, str))
        return cls(tokens, texts.watch(words) if words else None)


class StopTexts:
    """Stop texts of one model: loads its tokenizer when the first one is asked for."""

    def __init__(self, tokenizer_id: str, tokens: frozenset[int]) -> None:
        self._tokenizer_id = tokenizer_id
        self.end_tokens = tokens
        """The model's own end tokens."""
        self._pieces: list[bytes] | None = None
        self._tokenizer: Any = None  # a Hugging Face tokenizer

    def watch(self, words: tuple[str, ...]) -> Callable[[], TextWatch]:
        """A factory of watches for these stop texts.

        Raises:
            UserError: the model has no tokenizer.
        """
        if self._tokenizer is None:
            self._tokenizer = _load_tokenizer(self._tokenizer_id)
            self._pieces = _byte_pieces(self._tokenizer)
        if self._pieces is not None:
            pieces, needles = self._pieces, tuple(word.encode() for word in words)
            return lambda: _ByteWatch(pieces, needles)
        tokenizer = self._tokenizer
        return lambda: _DecodingWatch(tokenizer, words)


class _ByteWatch:
    """Looks for stop texts among bytes, which UTF-8 makes equal to looking among characters."""

    def __init__(self, pieces: Sequence[bytes], needles: tuple[bytes, ...]) -> None:
        self._pieces = pieces
        self._needles = needles
        self._keep = max(map(len, needles)) - 1
        self._tail = b""

    def push(self, token: int) -> bool:
        text = self._tail + (self._pieces[token] if token < len(self._pieces) else b"")
        if any(needle in text for needle in self._needles):
            return True
        self._tail = text[-self._keep :] if self._keep else b""
        return False


class _DecodingWatch:
    """Looks for stop texts in text decoded a little at a time.

    A token's text may depend on the tokens before it, so the new text is the difference of two
    decodings of a short window, taken only when it ends in a whole character.
    Source: `decode_token` of Hugging Face text-generation-inference.
    """

    def __init__(self, tokenizer: Any, needles: tuple[str, ...]) -> None:
        self._tokenizer = tokenizer
        self._needles = needles
        self._keep = max(map(len, needles)) - 1
        self._tail = ""
        self._tokens: list[int] = []
        self._window_start = 0
        self._num_read = 0

    def push(self, token: int) -> bool:
        self._tokens.append(token)
        old = self._decode(self._tokens[self._window_start : self._num_read])
        new = self._decode(self._tokens[self._window_start :])
        text = self._tail + new[len(old) :]
        if any(needle in text for needle in self._needles):
            return True
        if len(new) > len(old) and not new.endswith("\ufffd"):
            self._window_start, self._num_read = self._num_read, len(self._tokens)
            self._tail = text[-self._keep :] if self._keep else ""
        return False

    def _decode(self, tokens: list[int]) -> str:
        return decode_exactly(self._tokenizer, tokens)


def end_tokens(model: Any, tokenizer_id: str) -> frozenset[int]:
    """End tokens of a Hugging Face causal LM: those of its generation config and its config.

    Where neither names any, the tokenizer's end token, if there is a tokenizer.
    """
    found: set[int] = set()
    for config in (getattr(model, "generation_config", None), model.config.get_text_config()):
        value = getattr(config, "eos_token_id", None)
        if value is not None:
            found.update([value] if isinstance(value, int) else value)
    if not found:
        try:
            value = get_tokenizer(tokenizer_id).eos_token_id
        except UserError:
            value = None
        if value is not None:
            found.add(int(value))
    return frozenset(found)


def _load_tokenizer(tokenizer_id: str) -> Any:
    try:
        return get_tokenizer(tokenizer_id)
    except UserError as error:
        raise UserError(
            f"sampling_params.stop: stop texts need the model's tokenizer: {error.message}",
            field="sampling_params.stop",
            hint="give stop tokens as ids",
        ) from error


def _byte_pieces(tokenizer: Any) -> list[bytes] | None:
    """Each token's bytes, by id; None unless the tokenizer is a byte-level one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or "ByteLevel" not in type(backend.decoder).__name__:
        return None
    alphabet = _byte_alphabet()
    added = tokenizer.added_tokens_decoder
    pieces: list[bytes] = []
    for token, piece in enumerate(tokenizer.convert_ids_to_tokens(range(len(tokenizer)))):
        if token in added:
            pieces.append(str(added[token].content).encode())
        elif piece is None:
            pieces.append(b"")
        elif all(character in alphabet for character in piece):
            pieces.append(bytes(alphabet[character] for character in piece))
        else:
            return None
    return pieces


@lru_cache(maxsize=1)
def _byte_alphabet() -> dict[str, int]:
    """Byte of each character of byte-level BPE.

    Source: `bytes_to_unicode` of GPT-2: printable bytes stand for themselves, the others for the
    characters from 256 on.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    alphabet.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return alphabet
