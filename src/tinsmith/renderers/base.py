"""What every renderer does once it can render one message: prompts, training examples, replies.

A format subclasses `Renderer` and says how one message becomes a header and an output, what stops
a turn, and how a reply is read back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from tinsmith.renderers.messages import (
    Message,
    ParsedResponse,
    RenderedMessage,
    RendererError,
    SupervisedExample,
    TrainOnWhat,
    check_text_message,
    model_input_of,
    trained_messages,
)
from tinsmith.renderers.tokenizers import Tokenizer
from tinsmith.types import ModelInput


class Renderer(ABC):
    """Turns conversations into tokens, and sampled tokens back into a message.

    The three promises, for every format: what `build_supervised_example` puts before a trained
    output is exactly `build_generation_prompt` of the messages before it; what it trains is what a
    sampler would have to produce; `parse_response` of that gives the message back.
    """

    name: ClassVar[str]
    """Registered name of the format."""
    has_extension_property: ClassVar[bool] = True
    """Whether the tokens up to a turn are a prefix of the next turn's prompt."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def __repr__(self) -> str:
        return f"{type(self).__name__}({getattr(self.tokenizer, 'name_or_path', '')!r})"

    @property
    def bos_tokens(self) -> list[int]:
        """Tokens that start every sequence; never trained."""
        return []

    @abstractmethod
    def render_message(self, message: Message, index: int) -> RenderedMessage:
        """Render the message at place `index` of its conversation."""

    @abstractmethod
    def get_stop_sequences(self) -> list[int] | list[str]:
        """What ends an assistant's turn, for `SamplingParams.stop`."""

    @abstractmethod
    def parse_response(self, tokens: Sequence[int]) -> ParsedResponse:
        """Read sampled tokens, stop sequence included, as an assistant message."""

    @abstractmethod
    def _prompt_suffix(self, role: str, prefill: str, index: int) -> Sequence[int]:
        """Header of a message about to be produced, followed by its first words."""

    def build_generation_prompt(
        self, messages: Sequence[Message], role: str = "assistant", prefill: str | None = None
    ) -> ModelInput:
        """Prompt for the next message.

        Args:
            messages: The conversation so far.
            role: Who speaks next.
            prefill: First words of the reply, forced; the model goes on from there.
        """
        tokens = list(self.bos_tokens)
        for index, message in enumerate(messages):
            rendered = self._rendered(message, index)
            tokens += (*rendered.header, *rendered.output)
        self.check_message({"role": role, "content": ""})
        tokens += self._prompt_suffix(role, prefill or "", len(messages))
        return model_input_of(tokens)

    def build_supervised_example(
        self,
        messages: Sequence[Message],
        train_on_what: TrainOnWhat | str = TrainOnWhat.LAST_ASSISTANT_MESSAGE,
    ) -> SupervisedExample:
        """Tokens of a whole conversation with one loss weight (0 or 1) a token, before the shift.

        Raises:
            RendererError: The conversation is empty, or holds what the format cannot express.
        """
        if not messages:
            raise RendererError("the conversation is empty", hint="give it at least one message")
        what = TrainOnWhat(train_on_what)
        all_tokens = what is TrainOnWhat.ALL_TOKENS
        tokens = list(self.bos_tokens)
        weights = [0.0] * len(tokens)
        trained = trained_messages(messages, what)
        for index, message in enumerate(messages):
            rendered = self._rendered(message, index)
            output = list(rendered.output)
            if index == len(messages) - 1:
                output += rendered.stop_overlap
            weight = float(trained[index])
            tokens += (*rendered.header, *output)
            weights += [weight if all_tokens else 0.0] * len(rendered.header)
            weights += [weight] * len(output)
        return SupervisedExample(model_input_of(tokens), np.asarray(weights, dtype=np.float32))

    def check_message(self, message: Message, index: int | None = None) -> None:
        """Refuse what the format cannot express, without making tokens.

        Raises:
            RendererError: Role, field or text that the format has no place for.
        """
        check_text_message(message, index, self.name)

    def _rendered(self, message: Message, index: int) -> RenderedMessage:
        self.check_message(message, index)
        return self.render_message(message, index)
