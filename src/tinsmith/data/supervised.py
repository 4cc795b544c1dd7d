"""Conversations ready to train on: rendered, cut to length, and counted where they do not fit.

`SupervisedDataset` looks at every conversation once, before training starts, so that a problem in
line 40,000 is reported in the first seconds; tokens are made batch by batch, when asked for.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from tinsmith.core.errors import DataError
from tinsmith.data.conversations import Conversation
from tinsmith.data.datums import BuiltDatum, datum_from_example
from tinsmith.data.rows import View, row_error
from tinsmith.renderers.base import Renderer
from tinsmith.renderers.messages import (
    RendererError,
    SupervisedExample,
    TrainOnWhat,
    trained_messages,
)

logger = logging.getLogger(__name__)

TooLong = Literal["error", "truncate", "skip"]


class Fate(NamedTuple):
    """What becomes of an example, and how many tokens it loses."""

    what: Literal["used", "truncated", "too_long", "without_loss"]
    num_cut_tokens: int = 0

    @property
    def is_kept(self) -> bool:
        return self.what in ("used", "truncated")


@dataclass(frozen=True)
class ExampleCounts:
    """What became of the conversations that were offered.

    Attributes:
        num_offered: Conversations looked at.
        num_used: Conversations trained on.
        num_truncated: Of these, how many lose tokens on the right.
        num_truncated_tokens: Tokens that they lose.
        num_too_long_skipped: Left out because they are too long.
        num_without_loss_skipped: Left out because no token with a loss weight is left.
        num_thinking_left_out: Of those used, how many hold thinking in an earlier answer that is
            to be trained, and that the format leaves out of the history.
    """

    num_offered: int = 0
    num_used: int = 0
    num_truncated: int = 0
    num_truncated_tokens: int = 0
    num_too_long_skipped: int = 0
    num_without_loss_skipped: int = 0
    num_thinking_left_out: int = 0

    @classmethod
    def from_fates(cls, fates: Sequence[Fate], num_thinking_left_out: int) -> ExampleCounts:
        """Count what `fate_of` said of each."""
        number = Counter(fate.what for fate in fates)
        return cls(
            num_offered=len(fates),
            num_used=number["used"] + number["truncated"],
            num_truncated=number["truncated"],
            num_truncated_tokens=sum(fate.num_cut_tokens for fate in fates),
            num_too_long_skipped=number["too_long"],
            num_without_loss_skipped=number["without_loss"],
            num_thinking_left_out=num_thinking_left_out,
        )


@dataclass(frozen=True)
class ExampleFormat:
    """How a conversation becomes an example.

    Attributes:
        renderer: Format of the tokens.
        train_on_what: Messages that carry loss weight.
        max_length: Longest example in tokens, prompt and answer together.
        on_too_long: What to do with a longer one.
    """

    renderer: Renderer
    train_on_what: TrainOnWhat
    max_length: int
    on_too_long: TooLong = "error"

    def render(self, conversation: Conversation) -> SupervisedExample:
        """Tokens and weights of one conversation, whole.

        Raises:
            DataError: `path:line: what the format, or training, cannot express`.
        """
        try:
            example = self.renderer.build_supervised_example(
                conversation.messages, self.train_on_what, tools=conversation.tools
            )
        except RendererError as error:
            raise _at(conversation, error.message, error.hint) from error
        others = {chunk.type for chunk in example.model_input.chunks} - {"encoded_text"}
        if others:
            raise _at(
                conversation,
                f"the conversation holds {', '.join(sorted(others))}: training takes text only",
                "remove the line, or the parts that are not text",
            )
        return example

    def build(self, conversation: Conversation) -> BuiltDatum:
        """Render one conversation and cut it to length.

        Raises:
            DataError: `path:line: what is wrong`.
        """
        example = self.render(conversation)
        try:
            return datum_from_example(example.model_input, example.weights, self.max_length)
        except DataError as error:
            raise _at(conversation, error.message, error.hint) from error


class SupervisedDataset:
    """Conversations that can be trained on, in a fixed order.

    Attributes:
        counts: How many conversations were truncated or left out.
    """

    def __init__(
        self, conversations: Sequence[Conversation], form: ExampleFormat, counts: ExampleCounts
    ) -> None:
        self.conversations = conversations
        self.form = form
        self.counts = counts

    @classmethod
    def from_conversations(
        cls, conversations: Sequence[Conversation], form: ExampleFormat
    ) -> SupervisedDataset:
        """Look at every conversation and keep those that can be trained on.

        Raises:
            DataError: A conversation is too long and `on_too_long="error"`, or holds what the
                format cannot express; the message names file and line.
        """
        fates = [fate_of(conversation, form) for conversation in conversations]
        kept = [index for index, fate in enumerate(fates) if fate.is_kept]
        num_thinking_left_out = sum(leaves_thinking_out(conversations[i], form) for i in kept)
        counts = ExampleCounts.from_fates(fates, num_thinking_left_out)
        warn_of_losses(counts, form, "conversations")
        return cls(View(conversations, kept), form, counts)

    def __len__(self) -> int:
        return len(self.conversations)

    def build(self, indices: Iterable[int]) -> list[BuiltDatum]:
        """Datums of the conversations at `indices`, in that order."""
        return [self.form.build(self.conversations[index]) for index in indices]


def fate_of(conversation: Conversation, form: ExampleFormat) -> Fate:
    """What to do with a conversation.

    Raises:
        DataError: It is too long and `on_too_long="error"`, or holds what the format cannot
            express.
    """
    if _surely_fits(conversation, form):
        return Fate("used")
    built = form.build(conversation)
    if built.num_truncated_tokens and form.on_too_long == "error":
        length = form.max_length + built.num_truncated_tokens
        raise _at(
            conversation,
            f"the conversation has {length} tokens, more than max_length={form.max_length}",
            _cure(form, length),
        )
    if built.num_truncated_tokens and form.on_too_long == "skip":
        return Fate("too_long")
    if built.num_loss_tokens == 0:
        return Fate("without_loss")
    if built.num_truncated_tokens:
        return Fate("truncated", built.num_truncated_tokens)
    return Fate("used")


def leaves_thinking_out(conversation: Conversation, form: ExampleFormat) -> bool:
    """Whether an answer that is to be trained loses its thinking to the format's history."""
    messages = conversation.messages
    if form.renderer.has_extension_property or len(messages) < 4:
        return False
    turns = form.renderer.read(messages, tools=conversation.tools).turns
    trained = trained_messages(messages, form.train_on_what)
    thoughts = [
        turn.thinking.strip()
        for turn in turns[:-1]
        if trained[turn.index] and turn.role == "assistant" and turn.thinking
    ]
    if not any(thoughts):
        return False
    text = form.renderer.render_text(messages, tools=conversation.tools)
    return any(thought not in text for thought in thoughts)


def _cure(form: ExampleFormat, length: int) -> str:
    others = "set on_too_long to truncate or skip"
    limit = getattr(form.renderer.tokenizer, "model_max_length", None)
    if limit is not None and length > limit:
        return f"{others} (the model takes at most {limit})"
    return f"raise max_length to {length}, or {others}"


def _surely_fits(conversation: Conversation, form: ExampleFormat) -> bool:
    """Whether a conversation needs no look at its tokens: short, and with something to learn."""
    if any(isinstance(message.get("content"), list) for message in conversation.messages):
        return False  # it may hold an image
    try:
        num_tokens = form.renderer.max_num_tokens(conversation.messages, tools=conversation.tools)
        has_loss = any(trained_messages(conversation.messages, form.train_on_what))
    except RendererError:
        return False  # to be rendered, and so to fail with its place
    return has_loss and num_tokens <= form.max_length


def warn_of_losses(counts: ExampleCounts, form: ExampleFormat, noun: str) -> None:
    """Log what was cut or left out."""
    if counts.num_truncated:
        logger.warning(
            "%d of %d %s are longer than max_length=%d and lose %d tokens in all",
            counts.num_truncated,
            counts.num_offered,
            noun,
            form.max_length,
            counts.num_truncated_tokens,
        )
    if counts.num_too_long_skipped:
        logger.warning(
            "%d of %d %s are longer than max_length=%d and are left out",
            counts.num_too_long_skipped,
            counts.num_offered,
            noun,
            form.max_length,
        )
    if counts.num_thinking_left_out:
        logger.warning(
            "%d of %d %s think in an earlier answer, which %s leaves out of the "
            "history: it is not trained. Make a conversation of each answer to train it",
            counts.num_thinking_left_out,
            counts.num_offered,
            noun,
            form.renderer.name,
        )
    if counts.num_without_loss_skipped:
        logger.warning(
            "%d of %d %s have no token to learn with train_on_what=%s and are left out",
            counts.num_without_loss_skipped,
            counts.num_offered,
            noun,
            form.train_on_what.value,
        )


def _at(conversation: Conversation, what: str, cure: str | None) -> DataError:
    return row_error(conversation.path, conversation.line, what, cure)
