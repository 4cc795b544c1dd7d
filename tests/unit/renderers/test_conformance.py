"""The promises of `Renderer`, kept by every family on random conversations."""

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.unit.renderers.chat_strategy import chats
from tests.unit.renderers.families import FAMILIES, Family, fitted, standin
from tinsmith.renderers import (
    Feature,
    Message,
    ParsedResponse,
    ParseTermination,
    Renderer,
    RendererError,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    TrainOnWhat,
    UnparsedToolCallDelta,
    content_text,
)

every_family = pytest.mark.parametrize("family", FAMILIES, ids=str)

# Answers as models give them: no blanks at the ends, no tags of their own.
ANSWERS = st.lists(
    st.sampled_from(
        ["Hello", "don't", ": 12", "\n\n", " ", "你好", "🥳", "é", "{x}", "a\nb", "<b>"]
    ),
    min_size=1,
    max_size=6,
).map(lambda pieces: "".join(pieces).strip() or "x")


def renderer_of(family: Family) -> Renderer:
    return family.make(standin(family.tokenizer))


@st.composite
def answered(draw: st.DrawFn) -> tuple[list[Message], list[dict[str, Any]]]:
    """A conversation that ends with an answer of the assistant, perhaps with thinking."""
    messages, tools = draw(chats())
    answer: Message = {"role": "assistant", "content": draw(ANSWERS)}
    if draw(st.booleans()):
        answer["reasoning_content"] = draw(ANSWERS)
    question: Message = {"role": "user", "content": draw(ANSWERS)}
    return [*messages, question, answer], tools


def prepared(family: Family, renderer: Renderer, chat: Any) -> Any:
    messages, tools = fitted(family, renderer, chat)
    if family.always_thinks:
        messages = [*messages[:-1], {"reasoning_content": "R", **messages[-1]}]
    try:
        renderer.build_supervised_example(messages, tools=tools)
    except RendererError:  # such as thinking where the prompt closes it
        messages = [{k: v for k, v in m.items() if k != "reasoning_content"} for m in messages]
    return messages, tools


@every_family
@settings(max_examples=40)
@given(chat=answered())
def test_a_trained_answer_continues_the_prompt_and_parses_back(family: Family, chat: Any) -> None:
    renderer = renderer_of(family)
    messages, tools = prepared(family, renderer, chat)
    prompt = renderer.build_generation_prompt(messages[:-1], tools=tools).to_ints()
    example = renderer.build_supervised_example(messages, tools=tools)
    tokens = example.model_input.to_ints()
    assert tokens[: len(prompt)] == prompt
    assert example.weights.tolist() == [0.0] * len(prompt) + [1.0] * (len(tokens) - len(prompt))
    reply = tokens[len(prompt) :]
    stops = renderer.get_stop_sequences()
    assert reply[-1] in stops
    message, termination = renderer.parse_response(reply)
    assert termination is ParseTermination.STOP_SEQUENCE
    assert content_text(message) == messages[-1]["content"]
    assert thinking_of(message) == messages[-1].get("reasoning_content", "")


def thinking_of(message: Message) -> str:
    content = message["content"] or ""
    if isinstance(content, str):
        return ""
    return "".join(str(p.get("thinking", "")) for p in content if p["type"] == "thinking")


@every_family
@settings(max_examples=40)
@given(chat=answered(), data=st.data())
def test_a_stream_says_what_the_whole_says(family: Family, chat: Any, data: st.DataObject) -> None:
    renderer = renderer_of(family)
    messages, tools = prepared(family, renderer, chat)
    tokens = renderer.build_supervised_example(messages, tools=tools).model_input.to_ints()
    start = data.draw(st.integers(0, len(tokens)), label="start")
    stops = renderer.get_stop_sequences()
    reply = [token for token in tokens[start:] if token not in stops]
    if data.draw(st.booleans(), label="ends"):
        reply += stops[:1]  # type: ignore[arg-type]  # ids here
    same_as_whole(renderer, reply)


@every_family
@settings(max_examples=40)
@given(pieces=st.lists(st.sampled_from([
    "<think>", "</think>", "\n", "<tool_call>", "</tool_call>", '{"name": "f", "arguments": {}}',
    "x", "{", '{"name": "f", "parameters": {"a": 1}}', "é🥳", " ", "</", "<tool",
    "<function=f>", "<parameter=a>", "1", "</parameter>", "</function>",
]), max_size=12))  # fmt: skip
def test_a_stream_of_broken_replies_says_what_the_whole_says(
    family: Family, pieces: list[str]
) -> None:
    renderer = renderer_of(family)
    reply = renderer.tokenizer.encode("".join(pieces), add_special_tokens=False)
    same_as_whole(renderer, [*reply, *renderer.get_stop_sequences()[:1]])  # type: ignore[list-item]
    same_as_whole(renderer, reply)


def same_as_whole(renderer: Renderer, reply: list[int]) -> None:
    whole = renderer.parse_response(reply)
    *deltas, last = renderer.stream_parse(reply)
    assert last == whole
    said = {"text": "", "thinking": "", "calls": [], "unparsed": []}
    for delta in deltas:
        match delta:
            case TextDelta(text):
                said["text"] += text
            case ThinkingDelta(thinking):
                said["thinking"] += thinking
            case ToolCallDelta(call):
                said["calls"].append(call)
            case UnparsedToolCallDelta(raw):
                said["unparsed"].append(raw)
            case ParsedResponse():
                pytest.fail("two ends")
    message = whole.message
    assert said["text"] == content_text(message)
    assert said["thinking"] == thinking_of(message)
    assert said["calls"] == list(message.get("tool_calls") or [])
    assert said["unparsed"] == list(message.get("unparsed_tool_calls") or [])


EXTENDING = [f for f in FAMILIES if f.extends]


@pytest.mark.parametrize("family", EXTENDING, ids=str)
@settings(max_examples=30)
@given(chat=answered(), question=ANSWERS)
def test_the_extension_property_is_what_the_renderer_says(
    family: Family, chat: Any, question: str
) -> None:
    renderer = renderer_of(family)
    messages, tools = prepared(family, renderer, chat)
    so_far = renderer.build_supervised_example(messages, tools=tools).model_input.to_ints()
    longer = [*messages, {"role": "user", "content": question}]
    prompt = renderer.build_generation_prompt(longer, tools=tools).to_ints()
    assert prompt[: len(so_far)] == so_far


@every_family
def test_a_family_without_the_extension_property_lacks_it(family: Family) -> None:
    renderer = renderer_of(family)
    assert renderer.has_extension_property is family.extends
    if family.extends:
        return
    answer: Message = {"role": "assistant", "content": "A", "reasoning_content": "R"}
    if Feature.THINKING not in renderer.features or refuses(renderer, answer):
        answer = {"role": "assistant", "content": "A"}
    messages: list[Message] = [{"role": "user", "content": "Q"}, answer]
    so_far = renderer.build_supervised_example(messages).model_input.to_ints()
    prompt = renderer.build_generation_prompt([*messages, messages[0]]).to_ints()
    assert prompt[: len(so_far)] != so_far


def refuses(renderer: Renderer, answer: Message) -> bool:
    try:
        renderer.build_supervised_example([{"role": "user", "content": "Q"}, answer])
    except RendererError:
        return True
    return False


@every_family
@settings(max_examples=30)
@given(chat=chats(), what=st.sampled_from([w for w in TrainOnWhat if w != "customized"]))
def test_weights_follow_train_on_what(family: Family, chat: Any, what: TrainOnWhat) -> None:
    renderer = renderer_of(family)
    messages, tools = fitted(family, renderer, chat)
    try:
        example = renderer.build_supervised_example(messages, what, tools=tools)
    except RendererError:
        assume(False)
        raise
    assert len(example.weights) == example.model_input.length
    assert example.model_input.length <= renderer.max_num_tokens(messages, tools=tools)
    assert set(example.weights.tolist()) <= {0.0, 1.0}
    if what is TrainOnWhat.ALL_TOKENS:
        assert example.weights.sum() >= example.model_input.length - 2
    roles = {m["role"] for m in messages}
    wanted = {"all_assistant_messages": {"assistant"}, "all_messages": roles,
              "all_user_and_system_messages": {"user", "system"}}.get(what, set())  # fmt: skip
    if wanted & roles:
        assert example.weights.sum() > 0
