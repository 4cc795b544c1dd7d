"""What is in a data set, as a model would be trained on it: counts, lengths, masks, problems.

`examine` looks at every conversation and goes on where one is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from tinsmith.core.errors import DataError
from tinsmith.data.conversations import Conversation
from tinsmith.data.rows import fingerprints
from tinsmith.data.supervised import ExampleFormat
from tinsmith.renderers.messages import SupervisedExample

NUM_EXAMPLES = 3
_MAX_BINS = 12
_PERCENTILES = (0, 50, 90, 99, 100)


class Piece(NamedTuple):
    """Tokens in a row that are trained alike, as text."""

    text: str
    is_trained: bool
    num_tokens: int


class Bin(NamedTuple):
    """Conversations of `start` to `end - 1` tokens."""

    start: int
    end: int
    num_conversations: int


@dataclass(frozen=True)
class Example:
    """One rendered conversation.

    Attributes:
        line: Where it stands.
        pieces: Its text, split where training begins and ends.
    """

    line: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class DataReport:
    """What `examine` found.

    Attributes:
        renderer: Name of the format in which the rows were rendered.
        num_conversations: Conversations that can be rendered.
        num_problems: Rows that cannot be trained on.
        num_repeats: Conversations that say the same as one before.
        num_with_tools: Conversations that declare tools.
        messages_by_role: Messages of each role.
        num_tokens: Tokens of all conversations, whole.
        num_loss_tokens: Tokens that carry loss weight, before anything is cut.
        num_without_loss: Conversations without such a token.
        max_length: Longest conversation that is not cut.
        num_too_long: Conversations that are longer.
        num_tokens_beyond: Their tokens beyond it.
        num_loss_tokens_beyond: Those of them that carry loss weight.
        length_percentiles: Tokens of the shortest, the median, the 90th and 99th in 100, and the
            longest.
        lengths: Conversations by their number of tokens.
        examples: The first, a middle and the last conversation as they are trained on.
        problems: What is wrong, with file, line and cure.
    """

    renderer: str
    num_conversations: int
    num_problems: int
    num_repeats: int
    num_with_tools: int
    messages_by_role: dict[str, int]
    num_tokens: int
    num_loss_tokens: int
    num_without_loss: int
    max_length: int
    num_too_long: int
    num_tokens_beyond: int
    num_loss_tokens_beyond: int
    length_percentiles: dict[str, int]
    lengths: tuple[Bin, ...]
    examples: tuple[Example, ...]
    problems: tuple[DataError, ...]


class _Sizes(NamedTuple):
    """Of one conversation."""

    num_tokens: int
    num_loss_tokens: int
    num_loss_tokens_beyond: int


def examine(
    conversations: Sequence[Conversation],
    form: ExampleFormat,
    problems: Sequence[DataError] = (),
) -> DataReport:
    """Render every conversation and count.

    Args:
        conversations: Rows whose structure is sound.
        form: How they become examples; `on_too_long` does not matter.
        problems: What is wrong with other rows.
    """
    found = list(problems)
    sizes: list[_Sizes] = []
    sound: list[int] = []
    roles: Counter[str] = Counter()
    num_with_tools = 0
    for index, conversation in enumerate(conversations):
        try:
            example = form.render(conversation)
        except DataError as error:
            found.append(error)
            continue
        sound.append(index)
        sizes.append(_sizes(example, form.max_length))
        roles.update(message["role"] for message in conversation.messages)
        num_with_tools += bool(conversation.tools)
    digests = fingerprints(conversations)
    lengths = np.array([size.num_tokens for size in sizes], dtype=np.int64)
    beyond = np.maximum(lengths - form.max_length, 0)
    return DataReport(
        renderer=form.renderer.name,
        num_conversations=len(sizes),
        num_problems=len(found),
        num_repeats=len(digests) - len(set(digests)),
        num_with_tools=num_with_tools,
        messages_by_role=dict(roles),
        num_tokens=int(lengths.sum()),
        num_loss_tokens=sum(size.num_loss_tokens for size in sizes),
        num_without_loss=sum(size.num_loss_tokens == 0 for size in sizes),
        max_length=form.max_length,
        num_too_long=int(np.count_nonzero(beyond)),
        num_tokens_beyond=int(beyond.sum()),
        num_loss_tokens_beyond=sum(size.num_loss_tokens_beyond for size in sizes),
        length_percentiles=_percentiles(lengths),
        lengths=histogram(lengths),
        examples=tuple(_example(conversations[i], form) for i in _some(sound)),
        problems=tuple(sorted(found, key=lambda error: error.line or 0)),
    )


def histogram(lengths: np.ndarray) -> tuple[Bin, ...]:
    """Equal bins from 0, of a round width, at most 12."""
    if not lengths.size:
        return ()
    longest = int(lengths.max()) + 1
    width = 1
    while longest > width * _MAX_BINS:
        width = width * 5 // 2 if str(width)[0] == "2" else width * 2
    counts = np.bincount(lengths // width)
    return tuple(Bin(i * width, (i + 1) * width, int(n)) for i, n in enumerate(counts))


def split_by_training(example: SupervisedExample, form: ExampleFormat) -> tuple[Piece, ...]:
    """The text of an example, split where training begins and ends."""
    tokens = example.model_input.to_ints()
    trained = example.weights != 0
    edges = [0, *(np.flatnonzero(np.diff(trained)) + 1).tolist(), len(tokens)]
    return tuple(
        Piece(
            form.renderer.tokenizer.decode(tokens[start:end], skip_special_tokens=False),
            bool(trained[start]),
            end - start,
        )
        for start, end in pairwise(edges)
    )


def _sizes(example: SupervisedExample, max_length: int) -> _Sizes:
    trained = example.weights != 0
    return _Sizes(trained.size, int(trained[1:].sum()), int(trained[max(1, max_length) :].sum()))


def _percentiles(lengths: np.ndarray) -> dict[str, int]:
    if not lengths.size:
        return {}
    values = np.percentile(lengths, _PERCENTILES, method="nearest")
    return {f"p{name}": int(value) for name, value in zip(_PERCENTILES, values, strict=True)}


def _some(places: Sequence[int]) -> list[int]:
    """The first, the middle and the last."""
    if len(places) <= NUM_EXAMPLES:
        return list(places)
    return [places[0], places[len(places) // 2], places[-1]]


def _example(conversation: Conversation, form: ExampleFormat) -> Example:
    return Example(conversation.line, split_by_training(form.render(conversation), form))
