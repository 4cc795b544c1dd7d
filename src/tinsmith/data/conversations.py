"""Conversations to train on: one a row, with `messages` and perhaps `tools`, split by seed.

`read_conversations` opens a file (JSON lines or Parquet) and checks every row; `ConversationFile`
holds its training and held-out conversations and the order of every epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinsmith.core.errors import DataError
from tinsmith.data.messages import EXAMPLE, checked_conversation
from tinsmith.data.rows import RowParser, digest, open_rows
from tinsmith.data.splits import split_rows
from tinsmith.renderers.messages import Message

COLUMNS = ("messages", "tools", "functions")
_NOT_SAID = ("weight", "trainable")


@dataclass(frozen=True)
class Conversation:
    """One row of a file.

    Attributes:
        messages: The conversation.
        path: File it comes from.
        line: Its line there, or its row in a table, counted from 1.
        tools: Functions that the assistant may call, in OpenAI's form.
    """

    messages: tuple[Message, ...]
    path: str
    line: int
    tools: tuple[Mapping[str, Any], ...] = ()

    def fingerprint(self) -> bytes:
        """The same for conversations that say the same, whatever their weights."""
        said = [
            {key: value for key, value in message.items() if key not in _NOT_SAID}
            for message in self.messages
        ]
        return digest([said, self.tools])


@dataclass(frozen=True)
class ConversationFile:
    """A conversation file, split and shuffled by seed.

    The split is taken once, before any epoch: the first `test_size` of
    `numpy.random.default_rng(seed).permutation(n)` are held out, and a training conversation equal
    to a held-out one is left out, with a warning that counts them. Every epoch has an order of its
    own.

    Attributes:
        path: The file.
        train: Training conversations, in file order.
        test: Held-out conversations, in file order.
        seed: Seed of the split and of the orders.
        num_duplicates_dropped: Training conversations left out because they are held out, too.
        num_repeats_dropped: Conversations left out because the file has them before.
    """

    path: str
    train: Sequence[Conversation]
    test: Sequence[Conversation]
    seed: int
    num_duplicates_dropped: int = 0
    num_repeats_dropped: int = 0

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        test_size: float = 0,
        seed: int = 0,
        require_assistant: bool = True,
        deduplicate: bool = False,
    ) -> ConversationFile:
        """Read and check a file.

        Args:
            path: JSON lines in UTF-8 (blank lines are skipped), or Parquet.
            test_size: Conversations to hold out: a number of them, or a fraction below 1.
            seed: Seed of the split and of the orders.
            require_assistant: Refuse a conversation in which the assistant says nothing.
            deduplicate: Keep only the first of conversations that say the same.

        Raises:
            DataError: `path:line: what is wrong`, with the cure.
            ConfigError: `test_size` leaves nothing to train on.
        """
        rows = read_conversations(path, require_assistant=require_assistant)
        split = split_rows(
            rows, test_size=test_size, seed=seed, deduplicate=deduplicate, name=str(path)
        )
        return cls(
            str(path),
            split.train,
            split.test,
            seed,
            split.num_duplicates_dropped,
            split.num_repeats_dropped,
        )

    def epoch_order(self, epoch: int) -> NDArray[np.int64]:
        """Indices into `train` for an epoch, as `epoch_order` gives them for `seed`."""
        return epoch_order(len(self.train), self.seed, epoch)


def epoch_order(num_items: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Order of an epoch: `numpy.random.default_rng(seed + epoch).permutation(num_items)`.

    `datasets.Dataset.shuffle(seed=seed + epoch)` puts rows in the same order.
    """
    return np.random.default_rng(seed + epoch).permutation(num_items)


def read_conversations(
    path: str | Path,
    *,
    require_assistant: bool = True,
    problems: list[DataError] | None = None,
) -> Sequence[Conversation]:
    """Open a file and check every row; rows are read again when they are asked for.

    Args:
        path: The file.
        require_assistant: Refuse a conversation in which the assistant says nothing.
        problems: Receives what is wrong with rows, which are then left out; none raises.

    Raises:
        DataError: `path:line: what is wrong`, with the cure.
    """
    parse = conversation_parser(require_assistant=require_assistant)
    rows = open_rows(path, parse, COLUMNS, problems)
    if not len(rows) and not problems:
        raise DataError(
            f"{path}: the file holds no conversation",
            field="data",
            file=str(path),
            hint=f"write one conversation a line, such as {EXAMPLE}",
        )
    return rows


def conversation_parser(*, require_assistant: bool) -> RowParser[Conversation]:
    """Makes a conversation of a row."""
    return partial(_parse, require_assistant=require_assistant)


def _parse(row: Any, path: str, line: int, *, require_assistant: bool) -> Conversation:
    checked = checked_conversation(row, require_assistant=require_assistant)
    return Conversation(checked.messages, path, line, checked.tools)
