"""Batches to train on: the same sequences for both sides.

The lengths of ragged batches are recorded rather than read from a data set, so that a run anywhere
measures the same work. Token values do not matter for speed and are drawn at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tinsmith.types import Datum, ModelInput

__all__ = ["CHAT_LENGTHS", "Example", "datums", "equal_examples", "num_tokens", "ragged_examples"]

# (tokens, tokens of the answer) of the first 64 conversations of a small public chat data set,
# in the order of the file, as the bundled model's tokenizer and chat template render them.
CHAT_LENGTHS = (
    (26, 11), (127, 101), (47, 12), (51, 32), (43, 21), (54, 31), (86, 49), (65, 52),
    (33, 14), (96, 65), (42, 26), (54, 27), (67, 52), (27, 12), (39, 21), (56, 28),
    (45, 25), (39, 17), (52, 37), (30, 13), (120, 85), (33, 15), (52, 34), (54, 29),
    (39, 17), (31, 13), (65, 31), (27, 11), (57, 31), (33, 14), (57, 25), (30, 14),
    (69, 50), (50, 24), (49, 30), (68, 24), (69, 52), (35, 19), (43, 21), (38, 21),
    (70, 34), (29, 14), (36, 15), (46, 30), (74, 58), (65, 38), (26, 11), (43, 19),
    (39, 17), (69, 49), (38, 21), (36, 15), (90, 56), (26, 12), (37, 15), (35, 17),
    (48, 26), (52, 21), (57, 32), (25, 10), (46, 23), (27, 11), (51, 14), (33, 17),
)  # fmt: skip
RAGGED_SIZE = 32
"""Conversations of one ragged batch."""


class Example(NamedTuple):
    """One sequence; the loss is over its last `num_loss_tokens` positions."""

    tokens: list[int]
    num_loss_tokens: int


def equal_examples(count: int, length: int, vocab_size: int) -> list[Example]:
    """Sequences of one length, every position of which counts."""
    generator = np.random.default_rng([count, length])
    rows = generator.integers(3, vocab_size, (count, length + 1))
    return [Example(row, length) for row in rows.tolist()]


def ragged_examples(batch: int, vocab_size: int) -> list[Example]:
    """The recorded lengths of one batch; only the answers count."""
    generator = np.random.default_rng(batch)
    lengths = CHAT_LENGTHS[batch * RAGGED_SIZE : (batch + 1) * RAGGED_SIZE]
    return [
        Example(generator.integers(3, vocab_size, length).tolist(), answer)
        for length, answer in lengths
    ]


def num_tokens(examples: Sequence[Example]) -> int:
    """Positions that are computed, padding excluded."""
    return sum(len(example.tokens) - 1 for example in examples)


def datums(examples: Sequence[Example]) -> list[Datum]:
    """As Tinsmith takes them: inputs, next tokens, weights."""
    made: list[Datum] = []
    for tokens, num_loss_tokens in examples:
        weights = np.zeros(len(tokens) - 1, dtype=np.float32)
        weights[-num_loss_tokens:] = 1
        targets = np.asarray(tokens[1:], dtype=np.int64)
        made.append(
            Datum(
                model_input=ModelInput.from_ints(tokens[:-1]),
                loss_fn_inputs={"target_tokens": targets, "weights": weights},
            )
        )
    return made
