r"""Plain text for base models: `User: question\n\nAssistant: answer\n\n`.

Header is the capitalised role and a colon; output is a space, the text and two line breaks. A turn
ends where the next one would begin, `\n\nUser:`, and the `User:` half of that is the stop overlap,
trained after the last message so that the model learns to stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tinsmith.renderers.base import Renderer
from tinsmith.renderers.messages import (
    Message,
    ParsedResponse,
    ParseTermination,
    RenderedMessage,
    RendererError,
    content_text,
)
from tinsmith.renderers.tokenizers import TextEncoder, Tokenizer, decode_exactly

STOP = "\n\nUser:"


class RoleColonRenderer(Renderer):
    """Roles as words, for models that have no chat format of their own."""

    name: ClassVar[str] = "role_colon"

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self._encoder = TextEncoder(tokenizer, special_text="text")
        self._overlap = tuple(self._encoder.encode("User:"))

    @property
    def bos_tokens(self) -> list[int]:
        bos = self.tokenizer.bos_token_id
        return [] if bos is None else [bos]

    def check_message(self, message: Message, index: int | None = None) -> None:
        super().check_message(message, index)
        text = content_text(message, index)
        if message["role"] == "assistant" and STOP in f" {text}\n\n":
            raise RendererError(
                f"message {index}: the assistant's text holds {STOP!r}, where {self.name} ends a "
                "turn",
                field="content",
                hint="use the chatml renderer, or take that text out",
                message_index=index,
            )

    def render_message(self, message: Message, index: int) -> RenderedMessage:
        text = content_text(message, index)
        return RenderedMessage(
            header=tuple(self._encoder.encode(_header(message["role"]))),
            output=tuple(self._encoder.encode(f" {text}\n\n")),
            stop_overlap=self._overlap,
        )

    def get_stop_sequences(self) -> list[str]:
        return [STOP]

    def parse_response(self, tokens: Sequence[int]) -> ParsedResponse:
        """Read a reply: one leading space and a trailing double line break are the format's.

        A reply is clean if it ends with the stop sequence, or without one at the tokenizer's end
        of text. Anything else (no end, two ends, text after the end) is malformed; the text before
        the first end is kept.
        """
        tokens = list(tokens)
        has_eos = bool(tokens) and tokens[-1] == self.tokenizer.eos_token_id
        text = decode_exactly(self.tokenizer, tokens[:-1] if has_eos else tokens)
        body, *rest = text.split(STOP)
        if rest:
            is_clean = rest == [""] and not has_eos
            termination = ParseTermination.STOP_SEQUENCE if is_clean else ParseTermination.MALFORMED
        else:
            termination = ParseTermination.EOS if has_eos else ParseTermination.MALFORMED
        content = body.removeprefix(" ").removesuffix("\n\n")
        return ParsedResponse({"role": "assistant", "content": content}, termination)

    def _prompt_suffix(self, role: str, prefill: str, index: int) -> list[int]:
        # The prefill follows the colon as it stands: give it the leading space if it wants one.
        header = self._encoder.encode(_header(role))
        return header + self._encoder.encode(prefill) if prefill else header


def _header(role: str) -> str:
    return f"{role.capitalize()}:"
