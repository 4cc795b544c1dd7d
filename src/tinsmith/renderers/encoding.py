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
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import Any, Literal, NamedTuple, Protocol

from tinsmith.renderers.scripts import Segment
from tinsmith.renderers.tokenizers import Tokenizer, decode_exactly, token_id

SpecialText = Literal["text", "control"]
Tokens = tuple[int, ...]
"""Kept ones are tuples: unlike lists, the garbage collector need not look at them."""

_MAX_CACHED_LENGTH = 512  # a system turn that every conversation begins with
_MAX_CACHED_RUNS = 4096


class Stretch(NamedTuple):
    """Tokens between two pictures and their weights (float32); or a picture, with no tokens."""

    tokens: list[int]
    weights: array[float]
    picture: Any = None


class RunBackend(Protocol):
    """Tokenizes runs."""

    def ids(self, runs: Sequence[str]) -> list[Tokens]:
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
        self._short_runs: dict[str, Tokens] = {}

    def encode_text(self, text: str) -> list[int]:
        """Tokens of one text by itself."""
        return list(self._ids([text])[text]) if text else []

    def encode(self, segments: Sequence[Segment], weights: Sequence[float]) -> list[Stretch]:
        """Tokens and weights of the joined segments, split at pictures.

        Args:
            segments: Text, control tokens and pictures.
            weights: Loss weight of each segment.
        """
        items = _runs(segments, weights)
        known = self._ids([item.text for item in items if isinstance(item, _Run)])
        tokens: list[int] = []
        by_token = array("f")
        stretches = [Stretch(tokens, by_token)]
        for item in items:
            if isinstance(item, _Run):
                ids = known[item.text]
                tokens += ids
                by_token += self._weights(item, ids)
                continue
            segment, weight = item
            if segment.picture is None:
                tokens.append(self.control_ids[segment.text])
                by_token.append(weight)
            else:
                stretches.append(Stretch([], array("f"), segment.picture))
                tokens, by_token = [], array("f")
                stretches.append(Stretch(tokens, by_token))
        return [s for s in stretches if s.tokens or s.picture is not None]

    def _ids(self, texts: Sequence[str]) -> dict[str, Tokens]:
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

    def _weights(self, run: _Run, ids: Tokens) -> array[float]:
        (first_end, first_weight), *others = run.marks
        if not others:
            return array("f", [first_weight]) * len(ids)
        if len(others) == 1:
            head = run.text[:first_end]
            alone = self._short_runs.get(head) or self._ids([head])[head]
            if ids[: len(alone)] == alone:
                rest = array("f", [others[0][1]]) * (len(ids) - len(alone))
                return array("f", [first_weight]) * len(alone) + rest
        weights = array("f")
        cuts = self._backend.cuts(run.text, [end for end, _ in run.marks[:-1]])
        for (whole, begun), (_, left), (_, right) in zip(
            cuts, run.marks, run.marks[1:], strict=False
        ):
            weights += array("f", [left]) * (whole - len(weights))
            weights += array("f", [min(left, right)]) * (begun - len(weights))
        return weights + array("f", [run.marks[-1][1]]) * (len(ids) - len(weights))


class _Run(NamedTuple):
    """Text between two control tokens, with the end of each stretch of equal weight."""

    text: str
    marks: list[tuple[int, float]]


def _runs(
    segments: Sequence[Segment], weights: Sequence[float]
) -> list[_Run | tuple[Segment, float]]:
    """Runs of text, and between them control tokens and pictures with their weights."""
    items: list[_Run | tuple[Segment, float]] = []
    texts: list[str] = []
    marks: list[tuple[int, float]] = []
    length = 0
    for segment, weight in zip(segments, weights, strict=True):
        text, _, _, is_control, picture = segment
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
            items.append((segment, weight))
    if texts:
        items.append(_Run("".join(texts), marks))
    return items


_CUT = re.compile(
    r"(?= [!-~])(?<=[!-~])"  # before a single space between printable signs of ASCII
    r"|(?=[,.;:!?])(?<=[A-Za-z])"  # before a mark that follows a letter
    r"|(?<=\n)(?=[A-Za-z])"  # before a letter that follows a line break
)
"""Where every pre-tokenizer of the GPT kind cuts.

A space only ever begins a piece, and letters, signs and line breaks stand in that order within one.
"""
_PIECE = re.compile(
    r" ?[A-Za-z]++(?=[,.;:!?]| [!-~])"  # most of them: a word, then a cut
    r"|[,.;:!?](?= [!-~])"
    rf"|(?s:.)(?:(?!{_CUT.pattern})(?s:.))*+"
)
"""From one cut to the next: finds what `_CUT.split` gives, in two thirds of the time."""
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
        self._words: dict[str, Tokens] = {}
        self._cuts_at_words = _cuts_at_words(self._encoder)

    def ids(self, runs: Sequence[str]) -> list[Tokens]:
        if not self._cuts_at_words or max(map(len, runs), default=0) < _MIN_SPLIT_LENGTH:
            return self._encode(runs)
        words = self._words  # another thread may begin a new one: this one stays whole
        split = [_PIECE.findall(run) for run in runs]
        pieces = list(chain.from_iterable(split))
        found: list[Any] = list(map(words.get, pieces))  # Any: Tokens, None until it is filled
        if None in found:
            places = [place for place, ids in enumerate(found) if ids is None]
            missing = list({pieces[place] for place in places})
            new = dict(zip(missing, self._encode(missing), strict=True))
            for place in places:
                found[place] = new[pieces[place]]
            words.update((piece, new[piece]) for piece in missing if len(piece) <= _MAX_WORD_LENGTH)
            if len(words) > _MAX_WORDS:
                self._words = {}
        ids = iter(found)
        return [tuple(chain.from_iterable(islice(ids, len(pieces)))) for pieces in split]

    def _encode(self, texts: Sequence[str]) -> list[Tokens]:
        if len(texts) <= _MAX_ONE_BY_ONE:  # a batch starts threads, which few texts do not repay
            encode = self._encoder.encode
            return [tuple(encode(text, add_special_tokens=False).ids) for text in texts]
        encodings = self._encoder.encode_batch_fast(list(texts), add_special_tokens=False)
        return [tuple(encoding.ids) for encoding in encodings]

    def cuts(self, run: str, boundaries: Sequence[int]) -> list[tuple[int, int]]:
        if self._cuts_at_words:  # tokens do not depend on what follows a cut
            after = _CUT.search(run, boundaries[-1])
            run = run[: after.start()] if after else run
        offsets = self._encoder.encode(run, add_special_tokens=False).offsets
        starts = [start for start, _ in offsets]
        ends = [end for _, end in offsets]
        return [(bisect_right(ends, b), bisect_left(starts, b)) for b in boundaries]


_SIGNS = [chr(code) for code in range(ord("!"), ord("~") + 1)]


def _cuts_at_words(encoder: Any) -> bool:
    """Whether this tokenizer cuts at every `_CUT`, whatever stands there."""
    for token in encoder.get_added_tokens_decoder().values():
        takes_neighbours = token.lstrip or token.rstrip or token.single_word
        if takes_neighbours or _CUT.search(token.content):
            return False
    pre_tokenizer = encoder.pre_tokenizer
    if pre_tokenizer is None:
        return False
    probes = [
        f"{before}{sign}{middle}{after}b"
        for sign in _SIGNS
        for before in "a1\n'"
        for middle in (" ", "\n", "")
        for after in "sZ1"
    ]
    probes += ["".join(f"a{sign} {after}b" for after in _SIGNS) for sign in _SIGNS]
    for probe in probes:
        starts = {start for _, (start, _) in pre_tokenizer.pre_tokenize_str(probe)}
        if not {match.start() for match in _CUT.finditer(probe)} <= starts:
            return False
    text = "".join(probes)
    whole, *pieces = encoder.encode_batch_fast([text, *_CUT.split(text)], add_special_tokens=False)
    return whole.ids == [token for piece in pieces for token in piece.ids]


class _SlowBackend:
    """A tokenizer without a Rust backend, such as one that a model's own code implements."""

    def __init__(self, tokenizer: Any, special_text: str) -> None:
        self._tokenizer = tokenizer
        # Only text that spells a special token needs the switch, which not all of them have.
        self._switch = {"split_special_tokens": True} if special_text == "text" else {}
        self._spellings = tuple(getattr(tokenizer, "all_special_tokens", ()))

    def ids(self, runs: Sequence[str]) -> list[Tokens]:
        return [tuple(self._encode(run)) for run in runs]

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
