"""How replies end: none, one or two end-of-turn tokens, for seven renderers, whole and as streams.

None: incomplete, and what came is kept. One: parsed. Two: refused, for these tokens are not one
reply.
"""

import pytest

from tests.unit.renderers.families import standin
from tinsmith.renderers import (
    ParsedResponse,
    ParseTermination,
    Renderer,
    RendererError,
    content_text,
    get_renderer,
)

RENDERERS = {
    "llama3": ("llama3", "53 + 18 = 71", "<|eot_id|>"),
    "qwen3": ("qwen2-qwen3", "53 + 18 = 71", "<|im_end|>"),
    "qwen3_disable_thinking": ("qwen2-qwen3", "53 + 18 = 71", "<|im_end|>"),
    "deepseekv3_thinking": ("deepseek-v3", "Add.</think>53 + 18 = 71", "<｜end▁of▁sentence｜>"),
    "deepseekv3": ("deepseek-v3", "53 + 18 = 71", "<｜end▁of▁sentence｜>"),
    "gpt_oss_medium_reasoning": (
        "o200k-harmony",
        "<|channel|>final<|message|>53 + 18 = 71",
        "<|return|>",
    ),
    "kimi_k2": ("kimi-k2", "53 + 18 = 71", "<|im_end|>"),
}


def reply(name: str, num_ends: int) -> tuple[Renderer, list[int]]:
    vocabulary, text, end = RENDERERS[name]
    tokenizer = standin(vocabulary)
    return get_renderer(name, tokenizer), tokenizer.encode(
        text + end * num_ends, add_special_tokens=False
    )


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("num_ends", [0, 1, 2])
@pytest.mark.parametrize("name", RENDERERS)
def test_how_a_reply_ends(name: str, num_ends: int, streamed: bool) -> None:
    renderer, tokens = reply(name, num_ends)

    def parse() -> ParsedResponse:
        if not streamed:
            return renderer.parse_response(tokens)
        *_, last = renderer.stream_parse(iter(tokens))
        assert isinstance(last, ParsedResponse)
        return last

    if num_ends == 2:
        with pytest.raises(RendererError, match=r"2 end-of-turn tokens .*: expected at most 1"):
            parse()
        return
    message, termination = parse()
    assert content_text(message) == "53 + 18 = 71"
    expected = ParseTermination.STOP_SEQUENCE if num_ends else ParseTermination.MALFORMED
    assert termination is expected
    assert termination.is_clean is bool(num_ends)
