r"""ChatML: `<|im_start|>role\ncontent<|im_end|>`, one newline between messages.

Token for token what `apply_chat_template` gives for a model whose template is plain ChatML (the
bundled model, Qwen3-Instruct-2507 without tools), less the newline that the template writes after
the last `<|im_end|>`: no model ever produces it. Two things to know:

- Role line and content are tokenized together, as the template has them, so a content that starts
  with line breaks may share its first token with the newline of the role line. That token counts
  as header: it is not trained, since a sampler, whose prompt ends in that newline, cannot produce
  it.
- Text that spells a control token stays text by default, so no user and no data file can forge a
  turn. `apply_chat_template` makes a control token of it; `special_text="control"` does the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from tinsmith.renderers.base import Renderer
from tinsmith.renderers.messages import (
    Message,
    ParsedResponse,
    ParseTermination,
    RenderedMessage,
    RendererError,
    content_text,
)
from tinsmith.renderers.tokenizers import TextEncoder, Tokenizer, decode_exactly, token_id

IM_START = "<|im_start|>"
IM_END = "<|im_end|>"


class ChatMLRenderer(Renderer):
    """The ChatML family without tools and thinking."""

    name: ClassVar[str] = "chatml"

    def __init__(
        self, tokenizer: Tokenizer, *, special_text: Literal["text", "control"] = "text"
    ) -> None:
        super().__init__(tokenizer)
        self._encoder = TextEncoder(tokenizer, special_text=special_text)
        self._start = token_id(tokenizer, IM_START, renderer=self.name)
        self._end = token_id(tokenizer, IM_END, renderer=self.name)
        self._newline = tuple(self._encoder.encode("\n"))

    def render_message(self, message: Message, index: int) -> RenderedMessage:
        header, output = self._open_message(message["role"], content_text(message, index), index)
        return RenderedMessage(header=header, output=(*output, self._end))

    def get_stop_sequences(self) -> list[int]:
        return [self._end]

    def parse_response(self, tokens: Sequence[int]) -> ParsedResponse:
        """Read a reply.

        One `<|im_end|>` at the end is a stop sequence. None, or text after it, is malformed: the
        text before it is kept. The tokenizer's end of text in its place is `EOS`.

        Raises:
            RendererError: More than one `<|im_end|>`: these tokens are not one reply.
        """
        tokens = list(tokens)
        num_ends = tokens.count(self._end)
        if num_ends > 1:
            raise RendererError(
                f"the response holds {num_ends} {IM_END} tokens: expected at most 1",
                hint="sample with stop=renderer.get_stop_sequences()",
            )
        if num_ends:
            cut = tokens.index(self._end)
            is_last = cut == len(tokens) - 1
            termination = ParseTermination.STOP_SEQUENCE if is_last else ParseTermination.MALFORMED
            return self._parsed(tokens[:cut], termination)
        if tokens and tokens[-1] == self.tokenizer.eos_token_id:
            return self._parsed(tokens[:-1], ParseTermination.EOS)
        return self._parsed(tokens, ParseTermination.MALFORMED)

    def _prompt_suffix(self, role: str, prefill: str, index: int) -> tuple[int, ...]:
        header, output = self._open_message(role, prefill, index)
        return (*header, *output)

    def _open_message(
        self, role: str, text: str, index: int
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Header and text of a message, without its end."""
        role_line, body = self._encoder.encode_split(f"{role}\n", text)
        separator = self._newline if index else ()
        return (*separator, self._start, *role_line), tuple(body)

    def _parsed(self, tokens: list[int], termination: ParseTermination) -> ParsedResponse:
        text = decode_exactly(self.tokenizer, tokens)
        return ParsedResponse({"role": "assistant", "content": text}, termination)
