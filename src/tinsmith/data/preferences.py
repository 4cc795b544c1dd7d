"""Comparisons ready to train on: both answers rendered after the prompt, and cut to length.

`PreferenceDataset` looks at every comparison once, before training starts; tokens are made batch by
batch, when asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tinsmith.data.comparisons import Comparison
from tinsmith.data.conversations import Conversation
from tinsmith.data.datums import BuiltDatum
from tinsmith.data.rows import View
from tinsmith.data.supervised import (
    ExampleCounts,
    ExampleFormat,
    Fate,
    fate_of,
    leaves_thinking_out,
    warn_of_losses,
)
from tinsmith.renderers.messages import Message


class Pair(NamedTuple):
    """What is made of the two answers of one comparison."""

    chosen: Conversation
    rejected: Conversation


class BuiltPair(NamedTuple):
    """The datums of one comparison; the weights are 1 on the answers' tokens."""

    chosen: BuiltDatum
    rejected: BuiltDatum


def pair_of(comparison: Comparison) -> Pair:
    """Two conversations whose answers are to be trained, and nothing else of them."""

    def with_answer(answer: Sequence[Message]) -> Conversation:
        messages: list[Message] = [{**message, "trainable": False} for message in comparison.prompt]
        for message in answer:
            messages.append({**message, "trainable": message["role"] == "assistant"})
        return Conversation(tuple(messages), comparison.path, comparison.line)

    return Pair(with_answer(comparison.chosen), with_answer(comparison.rejected))


class PreferenceDataset:
    """Comparisons that can be trained on, in a fixed order.

    Attributes:
        comparisons: Those that are kept.
        form: How they become examples.
        counts: How many were truncated or left out; a comparison counts once, whichever of its
            answers it is for.
    """

    def __init__(
        self, comparisons: Sequence[Comparison], form: ExampleFormat, counts: ExampleCounts
    ) -> None:
        self.comparisons = comparisons
        self.form = form
        self.counts = counts

    @classmethod
    def from_comparisons(
        cls, comparisons: Sequence[Comparison], form: ExampleFormat
    ) -> PreferenceDataset:
        """Look at every comparison and keep those that can be trained on.

        Args:
            comparisons: All of them.
            form: How they become examples, with `TrainOnWhat.CUSTOMIZED`.

        Raises:
            DataError: An answer with its prompt is too long and `on_too_long="error"`, or holds
                what the format cannot express; the message names file and line.
        """
        fates = [_fate_of_pair(comparison, form) for comparison in comparisons]
        kept = [index for index, fate in enumerate(fates) if fate.is_kept]
        num_thinking_left_out = sum(
            any(leaves_thinking_out(answer, form) for answer in pair_of(comparisons[index]))
            for index in kept
        )
        counts = ExampleCounts.from_fates(fates, num_thinking_left_out)
        warn_of_losses(counts, form, "comparisons")
        return cls(View(comparisons, kept), form, counts)

    def __len__(self) -> int:
        return len(self.comparisons)

    def build(self, indices: Iterable[int]) -> list[BuiltPair]:
        """Datums of the comparisons at `indices`, in that order."""
        pairs = [pair_of(self.comparisons[index]) for index in indices]
        return [BuiltPair(*map(self.form.build, pair)) for pair in pairs]


def _fate_of_pair(comparison: Comparison, form: ExampleFormat) -> Fate:
    """The worse of its two answers' fates, with the tokens that both lose."""
    fates = [fate_of(conversation, form) for conversation in pair_of(comparison)]
    for what in ("too_long", "without_loss", "truncated"):
        if any(fate.what == what for fate in fates):
            num_cut_tokens = sum(fate.num_cut_tokens for fate in fates)
            return Fate(what, num_cut_tokens if what == "truncated" else 0)
    return Fate("used")
