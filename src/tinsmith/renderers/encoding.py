r"""Segments to tokens, exactly as the tokenizer makes them of the joined text, with a weight each.

A tokenizer never merges across a control token, so the text between two of them is a *run* that
can be tokenized by itself; everything inside a run is tokenized jointly, whichever message parts
it holds. A token that holds a piece of two parts gets the lower weight: it is not trained, since a
sampler, whose prompt ends in the middle of it, cannot produce it.

Runs are tokenized by a private copy of the tokenizer's backend. The original carries switches
(truncation, padding, special tokens as text) that every caller of the tokenizer sets for itself;
the copy's are fixed, so any thread may use it at any time.
"""

from __future__ import annotations

import re
import threading
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from tinsmith.renderers.tokenizers import Tokenizer, decode_exactly, token_id

SpecialText = Literal["text", "control"]

_MAX_CACHED_LENGTH = 512  # a system turn that every conversation begins with
_MAX_CACHED_RUNS = 4096


class Piece(NamedTuple):
    """A segment with its loss weight."""

    text: str
    weight: float
    is_control: bool = False
    picture: Any = None


class Stretch(NamedTuple):
    """Tokens between two pictures and their weights; or a picture, with no tokens."""

    tokens: list[int]
    weights: list[float]
    picture: Any = None


class RunBackend(Protocol):
    """Tokenizes runs."""

    def ids(self, runs: Sequence[str]) -> list[list[int]]:
        """Tokens of every run."""
        ...

    def cuts(self, run: str, boundaries: Sequence[int]) -> list[tuple[int, int]]:
        """For every boundary (characters), the tokens wholly before it and those that begin before.

        The two differ where a token holds characters of both sides.
        """
        ...


class SegmentEncoder:
    """Encodes the pieces of a chat format.

    Args:
        tokenizer: A Hugging Face tokenizer.
        control_tokens: The format's control tokens; text never makes one of them unless asked to.
        special_text: What text that spells a control token becomes: `text` (its letters) or
            `control` (the token itself, as `apply_chat_template` has it).
        name: Name of the format, for errors.

    Raises:
        UserError: The tokenizer lacks a control token.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        control_tokens: Iterable[str] = (),
        *,
        special_text: SpecialText = "text",
        name: str,
    ) -> None:
        self.control_ids = {
            token: token_id(tokenizer, token, renderer=name) for token in control_tokens
        }
        self._backend = _backend_of(tokenizer, tuple(sorted(self.control_ids)), special_text)
        self._short_runs: dict[str, list[int]] = {}

    def encode_text(self, text: str) -> list[int]:
        """Tokens of one text by itself."""
        return list(self._ids([text])[text]) if text else []

    def encode(self, pieces: Sequence[Piece]) -> list[Stretch]:
        """Tokens and weights of the joined pieces, split at pictures."""
        items = _runs(pieces)
        known = self._ids({item.text for item in items if isinstance(item, _Run)})
        stretches = [Stretch([], [])]
        for item in items:
            tokens, weights, _ = stretches[-1]
            if isinstance(item, _Run):
                ids = known[item.text]
                tokens += ids
                weights += self._weights(item, ids)
            elif item.picture is not None:
                stretches += [Stretch([], [], item.picture), Stretch([], [])]
            else:
                tokens.append(self.control_ids[item.text])
                weights.append(item.weight)
        return [s for s in stretches if s.tokens or s.picture is not None]

    def _ids(self, texts: Iterable[str]) -> dict[str, list[int]]:
        """Tokens of every text, short ones remembered: role lines and separators come again."""
        known = self._short_runs
        found = {text: known[text] for text in texts if text in known}
        missing = [text for text in texts if text not in found]
        if missing:
            for text, ids in zip(missing, self._backend.ids(missing), strict=True):
                found[text] = ids
                if len(text) <= _MAX_CACHED_LENGTH:
                    if len(known) >= _MAX_CACHED_RUNS:
                        known.clear()
                    known[text] = ids
        return found

    def _weights(self, run: _Run, ids: list[int]) -> list[float]:
        (first_end, first_weight), *others = run.marks
        if not others:
            return [first_weight] * len(ids)
        if len(others) == 1:
            head = run.text[:first_end]
            alone = self._ids([head])[head]
            if ids[: len(alone)] == alone:
                return [first_weight] * len(alone) + [others[0][1]] * (len(ids) - len(alone))
        weights: list[float] = []
        cuts = self._backend.cuts(run.text, [end for end, _ in run.marks[:-1]])
        for (whole, begun), (_, left), (_, right) in zip(
            cuts, run.marks, run.marks[1:], strict=False
        ):
            weights += [left] * (whole - len(weights))
            weights += [min(left, right)] * (begun - len(weights))
        return weights + [run.marks[-1][1]] * (len(ids) - len(weights))


class _Run(NamedTuple):
    """Text between two control tokens, with the end of each stretch of equal weight."""

    text: str
    marks: list[tuple[int, float]]


def _runs(pieces: Sequence[Piece]) -> list[_Run | Piece]:
    """Runs of text, and between them the control tokens and pictures."""
    items: list[_Run | Piece] = []
    texts: list[str] = []
    marks: list[tuple[int, float]] = []
    length = 0
    for piece in pieces:
        text, weight, is_control, picture = piece
        if not is_control and picture is None:
            if text:
                texts.append(text)
                length += len(text)
                if marks and marks[-1][1] == weight:
                    marks.pop()
                marks.append((length, weight))
            continue
        if texts:
            items.append(_Run("".join(texts), marks))
            texts, marks, length = [], [], 0
        if text or picture is not None:
            items.append(piece)
    if texts:
        items.append(_Run("".join(texts), marks))
    return items


_WORD_START = re.compile(
    r"(?<=[!-~])(?= [A-Za-z0-9])|(?<=[A-Za-z])(?=[,.;:!?])|(?<=\n)(?=[A-Za-z])"
)
r"""Before a single space with a letter or digit after it; before a sign that follows a letter;
before a letter that follows a line break.

Every pre-tokenizer of the GPT kind cuts here: a space only ever begins a piece, and letters, signs
and line breaks stand in that order within one.
"""
_MIN_SPLIT_LENGTH = 64
_MAX_WORD_LENGTH = 32
_MAX_WORDS = 32_768
_MAX_ONE_BY_ONE = 16


class _FastBackend:
    """A private copy of a fast tokenizer's backend, which remembers words.

    Pieces between which the pre-tokenizer always cuts have tokens of their own, so a long text is
    put together from pieces that were met before; the regular expressions that find such cuts, as
    Rust runs them, are most of the time that tokenizing takes. Whether this tokenizer cuts there
    is tried when the copy is made.
    """

    def __init__(self, backend: Any, control_tokens: Sequence[str], special_text: str) -> None:
        from tokenizers import AddedToken

        self._encoder = type(backend).from_str(backend.to_str())
        self._encoder.no_truncation()
        self._encoder.no_padding()
        # Not ours: it adds beginning and end tokens, and trims blanks from the offsets.
        self._encoder.post_processor = None
        if special_text == "text":
            # Some families add their role tokens as ordinary ones; as special ones they can be
            # told from text that spells them.
            self._encoder.add_special_tokens(
                [AddedToken(token, special=True, normalized=False) for token in control_tokens]
            )
            self._encoder.encode_special_tokens = True
        self._words: dict[str, list[int]] = {}
        self._cuts_at_words = _cuts_at_words(self._encoder)

    def ids(self, runs: Sequence[str]) -> list[list[int]]:
        if not self._cuts_at_words or max(map(len, runs), default=0) < _MIN_SPLIT_LENGTH:
            return self._encode(runs)
        words = self._words  # another thread may begin a new one: this one stays whole
        split = [_WORD_START.split(run) for run in runs]
        missing = {piece for pieces in split for piece in pieces if piece not in words}
        if not missing:
            return [_joined(pieces, words) for pieces in split]
        if len(words) + len(missing) > _MAX_WORDS:
            words = self._words = {}
            missing = {piece for pieces in split for piece in pieces}
        long: dict[str, list[int]] = {}
        for piece, ids in zip(missing, self._encode(list(missing)), strict=True):
            (words if len(piece) <= _MAX_WORD_LENGTH else long)[piece] = ids
        if not long:
            return [_joined(pieces, words) for pieces in split]
        return [_joined_of_two(pieces, words, long) for pieces in split]

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        if len(texts) <= _MAX_ONE_BY_ONE:  # a batch starts threads, which few texts do not repay
            encode = self._encoder.encode
            return [encode(text, add_special_tokens=False).ids for text in texts]
        encodings = self._encoder.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def cuts(self, run: str, boundaries: Sequence[int]) -> list[tuple[int, int]]:
        if self._cuts_at_words:  # tokens do not depend on what follows a cut
            after = _WORD_START.search(run, boundaries[-1])
            run = run[: after.start()] if after else run
        offsets = self._encoder.encode(run, add_special_tokens=False).offsets
        starts = [start for start, _ in offsets]
        ends = [end for _, end in offsets]
        return [(bisect_right(ends, b), bisect_left(starts, b)) for b in boundaries]


def _joined(pieces: list[str], words: Mapping[str, list[int]]) -> list[int]:
    tokens: list[int] = []
    for piece in pieces:
        tokens += words[piece]
    return tokens


def _joined_of_two(
    pieces: list[str], words: Mapping[str, list[int]], long: Mapping[str, list[int]]
) -> list[int]:
    tokens: list[int] = []
    for piece in pieces:
        tokens += words[piece] if piece in words else long[piece]
    return tokens


def _cuts_at_words(encoder: Any) -> bool:
    """Whether this tokenizer cuts at every `_WORD_START`, whatever stands there."""
    for token in encoder.get_added_tokens_decoder().values():
        takes_neighbours = token.lstrip or token.rstrip or token.single_word
        if takes_neighbours or _WORD_START.search(token.content):
            return False
    pre_tokenizer = encoder.pre_tokenizer
    if pre_tokenizer is None:
        return False
    signs = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    probes = [
        f"{before}{sign}{middle}{after}b"
        for sign in signs
        for before in "a1\n'"
        for middle in (" ", "\n", "")
        for after in "sZ1"
    ]
    for probe in probes:
        starts = {start for _, (start, _) in pre_tokenizer.pre_tokenize_str(probe)}
        if not {match.start() for match in _WORD_START.finditer(probe)} <= starts:
            return False
    text = "".join(probes)
    whole, *pieces = encoder.encode_batch_fast(
        [text, *_WORD_START.split(text)], add_special_tokens=False
    )
    return whole.ids == [token for piece in pieces for token in piece.ids]


class _SlowBackend:
    """A tokenizer without a Rust backend, such as one that a model's own code implements."""

    def __init__(self, tokenizer: Any, special_text: str) -> None:
        self._tokenizer = tokenizer
        # Only text that spells a special token needs the switch, which not all of them have.
        self._switch = {"split_special_tokens": True} if special_text == "text" else {}
        self._spellings = tuple(getattr(tokenizer, "all_special_tokens", ()))

    def ids(self, runs: Sequence[str]) -> list[list[int]]:
        return [self._encode(run) for run in runs]

    def cuts(self, run: str, boundaries: Sequence[int]) -> list[tuple[int, int]]:
        ids = self._encode(run)
        lengths = [len(decode_exactly(self._tokenizer, ids[: n + 1])) for n in range(len(ids))]
        whole = [bisect_right(lengths, boundary) for boundary in boundaries]
        return [
            (n, n if n and lengths[n - 1] == boundary else n + 1)
            for n, boundary in zip(whole, boundaries, strict=True)
        ]

    def _encode(self, run: str) -> list[int]:
        switch = self._switch if any(s in run for s in self._spellings) else {}
        # Not verbose: whether a text is too long is for others to say, with its file and line.
        return list(self._tokenizer.encode(run, add_special_tokens=False, verbose=False, **switch))


_backends: weakref.WeakKeyDictionary[Any, dict[Any, RunBackend]] = weakref.WeakKeyDictionary()
_backends_lock = threading.Lock()


def _backend_of(tokenizer: Any, control_tokens: tuple[str, ...], special_text: str) -> RunBackend:
    """The backend for these settings, made once a tokenizer: copying takes a third of a second."""
    original = getattr(tokenizer, "backend_tokenizer", None)
    if original is None:
        return _SlowBackend(tokenizer, special_text)
    key = (control_tokens if special_text == "text" else (), special_text)
    with _backends_lock:
        made = _backends.setdefault(tokenizer, {})
        if key not in made:
            made[key] = _FastBackend(original, control_tokens, special_text)
        return made[key]
