"""Role and colon: the exact text, the trained part, and how replies are read."""

from typing import Any

import pytest
from hypothesis import assume, given

from tests.unit.renderers.conftest import TEXTS, conversations, normalized
from tinsmith.renderers import Message, ParseTermination, RendererError, RoleColonRenderer

CHAT: list[Message] = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "Q1"},
    {"role": "assistant", "content": "A1"},
    {"role": "user", "content": "Q2"},
]


@pytest.fixture(scope="module")
def renderer(tiny_tokenizer: Any) -> RoleColonRenderer:
    return RoleColonRenderer(tiny_tokenizer)


def test_the_prompt_is_plain_text(renderer: RoleColonRenderer) -> None:
    prompt = renderer.build_generation_prompt(CHAT).to_ints()
    expected = "System: S\n\nUser: Q1\n\nAssistant: A1\n\nUser: Q2\n\nAssistant:"
    assert renderer.tokenizer.decode(prompt) == expected


def test_bos_comes_first_and_is_never_trained(tiny_tokenizer: Any) -> None:
    class WithBos:
        bos_token_id = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(tiny_tokenizer, name)

    example = RoleColonRenderer(WithBos()).build_supervised_example(CHAT, "all_tokens")
    assert example.model_input.to_ints()[0] == 0
    assert example.weights[0] == 0.0
    assert set(example.weights[1:].tolist()) == {1.0}


def test_outputs_and_the_stop_overlap_are_trained(renderer: RoleColonRenderer) -> None:
    chat: list[Message] = [*CHAT, {"role": "assistant", "content": "A2"}]
    example = renderer.build_supervised_example(chat, "all_assistant_messages")
    marked = marked_text(renderer, example)
    assert marked == (
        "System: S\n\nUser: Q1\n\nAssistant:« A1\n\n»User: Q2\n\nAssistant:« A2\n\nUser:»"
    )


def marked_text(renderer: RoleColonRenderer, example: Any) -> str:
    text, inside = "", False
    for token, weight in zip(example.model_input.to_ints(), example.weights, strict=True):
        if bool(weight) != inside:
            text += "»" if inside else "«"
            inside = not inside
        text += renderer.tokenizer.decode([token])
    return text + ("»" if inside else "")


@pytest.mark.parametrize(
    ("text", "content", "termination"),
    [
        (" A\n\nUser:", "A", ParseTermination.STOP_SEQUENCE),
        (" A", "A", ParseTermination.MALFORMED),
        (" A<|im_end|>", "A", ParseTermination.EOS),
        (" A\n\nUser: B\n\nUser:", "A", ParseTermination.MALFORMED),
        (" A\n\nUser:<|im_end|>", "A", ParseTermination.MALFORMED),
        (" A\n\nUser: more", "A", ParseTermination.MALFORMED),
        ("  A \n\n\nUser:", " A \n", ParseTermination.STOP_SEQUENCE),
    ],
)
def test_how_a_reply_ended(
    renderer: RoleColonRenderer, text: str, content: str, termination: ParseTermination
) -> None:
    tokens = renderer.tokenizer.encode(text, add_special_tokens=False)
    assert renderer.parse_response(tokens) == (
        {"role": "assistant", "content": content},
        termination,
    )


@given(messages=conversations(last="assistant"))
def test_rendering_and_parsing_are_inverse(
    renderer: RoleColonRenderer, messages: list[Message]
) -> None:
    assume(not any("\n\nUser:" in f"{m['content']}\n\n" for m in messages))
    content = messages[-1]["content"]
    assert isinstance(content, str)
    assume(not content.endswith("\n"))
    example = renderer.build_supervised_example(messages)
    prompt = renderer.build_generation_prompt(messages[:-1]).to_ints()
    tokens = example.model_input.to_ints()
    assert tokens[: len(prompt)] == prompt
    assert example.weights.tolist() == [0.0] * len(prompt) + [1.0] * (len(tokens) - len(prompt))
    message, termination = renderer.parse_response(tokens[len(prompt) :])
    assert termination is ParseTermination.STOP_SEQUENCE
    assert message["content"] == normalized(renderer.tokenizer, content)


@given(messages=conversations(max_size=3), reply=TEXTS)
def test_the_tokens_up_to_a_turn_begin_the_next_prompt(
    renderer: RoleColonRenderer, messages: list[Message], reply: str
) -> None:
    turn: Message = {"role": "assistant", "content": reply}
    prompt = renderer.build_generation_prompt(messages).to_ints()
    so_far = renderer.build_supervised_example([*messages, turn]).model_input.to_ints()
    next_prompt = renderer.build_generation_prompt(
        [*messages, turn, {"role": "user", "content": "?"}]
    ).to_ints()
    assert so_far[: len(prompt)] == prompt
    assert next_prompt[: len(so_far)] == so_far  # the stop overlap is the next turn's header


def test_an_answer_that_would_end_its_own_turn_is_refused(renderer: RoleColonRenderer) -> None:
    with pytest.raises(RendererError, match=r"message 1: .*use the chatml renderer") as caught:
        renderer.build_supervised_example(
            [
                {"role": "user", "content": "Write a dialogue."},
                {"role": "assistant", "content": "Sure.\n\nUser: Hi"},
            ]
        )
    assert caught.value.message_index == 1


def test_the_stop_sequence_is_text(renderer: RoleColonRenderer) -> None:
    assert renderer.get_stop_sequences() == ["\n\nUser:"]
