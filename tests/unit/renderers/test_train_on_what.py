"""Which messages are trained, for every value of `TrainOnWhat`."""

from typing import Any, cast

import pytest

from tinsmith.renderers import ChatMLRenderer, Message, RendererError, TrainOnWhat

CHAT: list[Message] = [
    {"role": "system", "content": "S"},
    {"role": "assistant", "content": "A0"},
    {"role": "user", "content": "Q"},
    {"role": "assistant", "content": "A1"},
    {"role": "assistant", "content": "A2"},
]
ENDS_WITH_USER: list[Message] = [*CHAT, {"role": "user", "content": "Bye"}]


@pytest.fixture(scope="module")
def renderer(tiny_tokenizer: Any) -> ChatMLRenderer:
    return ChatMLRenderer(tiny_tokenizer)


def trained_text(renderer: ChatMLRenderer, messages: list[Message], what: str) -> list[str]:
    """Stretches of trained text."""
    example = renderer.build_supervised_example(messages, what)
    stretches: list[list[int]] = [[]]
    for token, weight in zip(example.model_input.to_ints(), example.weights, strict=True):
        if weight:
            stretches[-1].append(token)
        elif stretches[-1]:
            stretches.append([])
    return [renderer.tokenizer.decode(stretch) for stretch in stretches if stretch]


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("last_assistant_message", ["A2"]),
        ("last_assistant_turn", ["A1", "A2"]),
        ("all_assistant_messages", ["A0", "A1", "A2"]),
        ("all_messages", ["S", "A0", "Q", "A1", "A2"]),
        ("all_user_and_system_messages", ["S", "Q"]),
    ],
)
def test_outputs_with_their_end_token_are_trained_and_headers_are_not(
    renderer: ChatMLRenderer, what: str, expected: list[str]
) -> None:
    assert trained_text(renderer, CHAT, what) == [f"{text}<|im_end|>" for text in expected]


def test_all_tokens_trains_headers_too(renderer: ChatMLRenderer) -> None:
    [text] = trained_text(renderer, CHAT, "all_tokens")
    assert text.startswith("<|im_start|>system\nS<|im_end|>\n<|im_start|>assistant\nA0")


@pytest.mark.parametrize("what", ["last_assistant_message", "last_assistant_turn"])
def test_a_conversation_that_ends_with_the_user_has_no_last_answer(
    renderer: ChatMLRenderer, what: str
) -> None:
    assert trained_text(renderer, ENDS_WITH_USER, what) == []


def test_the_default_trains_the_last_answer(renderer: ChatMLRenderer) -> None:
    default = renderer.build_supervised_example(CHAT).weights
    named = renderer.build_supervised_example(CHAT, TrainOnWhat.LAST_ASSISTANT_MESSAGE).weights
    assert default.tolist() == named.tolist()


def test_customized_trains_what_the_messages_say(renderer: ChatMLRenderer) -> None:
    messages: list[Message] = [
        {"role": "user", "content": "Q", "trainable": True},
        {"role": "assistant", "content": "A", "trainable": False},
        {"role": "assistant", "content": "B", "trainable": True},
    ]
    assert trained_text(renderer, messages, "customized") == ["Q<|im_end|>", "B<|im_end|>"]


def test_customized_wants_the_key_on_every_message(renderer: ChatMLRenderer) -> None:
    messages: list[Message] = [
        {"role": "user", "content": "Q", "trainable": True},
        {"role": "assistant", "content": "A"},
    ]
    with pytest.raises(RendererError, match="message 1: trainable is missing"):
        renderer.build_supervised_example(messages, "customized")


def test_the_key_is_refused_where_it_would_be_ignored(renderer: ChatMLRenderer) -> None:
    messages: list[Message] = [{"role": "assistant", "content": "A", "trainable": False}]
    with pytest.raises(RendererError, match='set train_on_what="customized", or remove the key'):
        renderer.build_supervised_example(messages, "all_messages")


def test_weight_zero_takes_a_message_out_of_the_loss(renderer: ChatMLRenderer) -> None:
    messages: list[Message] = [
        {"role": "assistant", "content": "bad", "weight": 0},
        {"role": "assistant", "content": "good", "weight": 1},
    ]
    assert trained_text(renderer, messages, "all_assistant_messages") == ["good<|im_end|>"]


def test_text_parts_are_joined(renderer: ChatMLRenderer) -> None:
    parts: Message = {
        "role": "user",
        "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}],
    }
    whole: Message = {"role": "user", "content": "one two"}
    assert renderer.build_generation_prompt([parts]) == renderer.build_generation_prompt([whole])


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"role": "tool", "content": "4"}, "message 1: role='tool': chatml knows system, user"),
        ({"role": "user", "content": "x", "tool_calls": [{}]}, "message 1: tool_calls is set"),
        ({"role": "user", "content": "x", "thinking": "hm"}, "message 1: thinking is set"),
        ({"role": "user", "content": None}, "message 1: content has type NoneType"),
        (
            {"role": "user", "content": [{"type": "image", "image": "x"}]},
            "message 1: content part type='image'",
        ),
        (
            {"role": "user", "content": [{"type": "thinking", "thinking": "x"}]},
            "message 1: content part type='thinking'",
        ),
    ],
)
def test_what_the_format_cannot_express_is_refused(
    renderer: ChatMLRenderer, message: dict[str, Any], text: str
) -> None:
    messages = [CHAT[0], cast(Message, message)]
    with pytest.raises(RendererError) as caught:
        renderer.build_supervised_example(messages)
    assert str(caught.value).startswith(text)
    assert caught.value.message_index == 1
    assert caught.value.hint


def test_an_empty_field_of_another_format_is_no_obstacle(renderer: ChatMLRenderer) -> None:
    message = cast(Message, {"role": "assistant", "content": "x", "tool_calls": None})
    assert trained_text(renderer, [message], "all_assistant_messages") == ["x<|im_end|>"]


def test_no_messages_make_no_example(renderer: ChatMLRenderer) -> None:
    with pytest.raises(RendererError, match="the conversation is empty"):
        renderer.build_supervised_example([])


def test_an_unknown_value_is_refused(renderer: ChatMLRenderer) -> None:
    with pytest.raises(ValueError, match="all_assistants"):
        renderer.build_supervised_example(CHAT, "all_assistants")
