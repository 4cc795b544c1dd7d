"""What the tests of one family ask of its renderers, over the stand-in of its vocabulary."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.unit.renderers.families import standin
from tinsmith.renderers import Message, Renderer, get_renderer


@dataclass(frozen=True)
class Subject:
    """Renderers over one vocabulary."""

    vocabulary: str

    def renderer(self, name: str, **options: Any) -> Renderer:
        """A registered renderer."""
        return get_renderer(name, standin(self.vocabulary), **options)

    def ids(self, text: str) -> list[int]:
        """Tokens of a text as the tokenizer has them, control tokens by name."""
        return standin(self.vocabulary).encode(text, add_special_tokens=False)

    def trained_text(
        self, name: str, messages: Sequence[Message], what: str = "last_assistant_message"
    ) -> str:
        """What an example trains."""
        example = self.renderer(name).build_supervised_example(messages, what)
        tokens = example.model_input.to_ints()
        return standin(self.vocabulary).decode(
            [token for token, weight in zip(tokens, example.weights, strict=True) if weight]
        )
