"""The promises of `Renderer`, kept by every family on random conversations."""

import random
from typing import Any

import pytest
from hypothesis import strategies as st

from tests.unit.renderers.chat_strategy import answered, drawn
from tests.unit.renderers.families import FAMILIES, Family, fitted, standin
from tinsmith.renderers import (
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
from tinsmith.renderers.scripts import Part, Script

every_family = pytest.mark.parametrize("family", FAMILIES, ids=str)


def renderer_of(family: Family) -> Renderer:
    return family.make(standin(family.tokenizer))


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
def test_a_trained_answer_continues_the_prompt_and_parses_back(family: Family) -> None:
    for chat in drawn(answered, 40):
        continues_and_parses_back(family, renderer_of(family), chat)


def continues_and_parses_back(family: Family, renderer: Renderer, chat: Any) -> None:
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
def test_a_stream_says_what_the_whole_says(family: Family) -> None:
    """Any stretch of a conversation's tokens, read as a reply, with and without its end."""
    renderer, chance = renderer_of(family), random.Random(0)
    stops = renderer.get_stop_sequences()
    for chat in drawn(answered, 40):
        messages, tools = prepared(family, renderer, chat)
        tokens = renderer.build_supervised_example(messages, tools=tools).model_input.to_ints()
        start = chance.randrange(len(tokens))
        reply = [token for token in tokens[start:] if token not in stops]
        same_as_whole(renderer, reply + stops[: chance.randrange(2)])  # type: ignore[operator]


def broken_replies() -> st.SearchStrategy[list[str]]:
    """Pieces of replies in any order."""
    return st.lists(st.sampled_from(PIECES), max_size=12)


PIECES = [
    "<think>",
    "</think>",
    "\n",
    "<tool_call>",
    "</tool_call>",
    '{"name": "f", "arguments": {}}',
    "x",
    "{",
    '{"name": "f", "parameters": {"a": 1}}',
    "é🥳",
    " ",
    "</",
    "<tool",
    "<function=f>",
    "<parameter=a>",
    "1",
    "</parameter>",
    "</function>",
    "<|tool_calls_section_begin|>",
    "<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}<|tool_call_end|>",
    "<|tool_calls_section_end|>",
    "<arg_key>a</arg_key>",
    "<arg_value>1</arg_value>",
]


@every_family
def test_a_stream_of_broken_replies_says_what_the_whole_says(family: Family) -> None:
    renderer = renderer_of(family)
    for pieces in drawn(broken_replies, 50):
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


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.extends], ids=str)
def test_the_tokens_up_to_a_turn_begin_the_next_prompt(family: Family) -> None:
    renderer = renderer_of(family)
    assert renderer.has_extension_property
    for chat in drawn(answered, 40):
        messages, tools = prepared(family, renderer, chat)
        so_far = renderer.build_supervised_example(messages, tools=tools).model_input.to_ints()
        longer: list[Message] = [*messages, {"role": "user", "content": "And then?"}]
        prompt = renderer.build_generation_prompt(longer, tools=tools).to_ints()
        assert prompt[: len(so_far)] == so_far


@pytest.mark.parametrize("family", [f for f in FAMILIES if not f.extends], ids=str)
def test_a_family_without_the_extension_property_lacks_it(family: Family) -> None:
    """Some answer, with or without thinking, changes when it becomes history, or as a reply."""
    renderer = renderer_of(family)
    assert not renderer.has_extension_property
    question: Message = {"role": "user", "content": "Q"}
    plain: Message = {"role": "assistant", "content": "A"}
    changes = []
    for answer in (plain, {**plain, "reasoning_content": "R"}):
        try:
            so_far = tokens_of_example(renderer, [question, answer])
        except RendererError:
            continue
        prompt = renderer.build_generation_prompt([question]).to_ints()
        following = renderer.build_generation_prompt([question, answer, question]).to_ints()
        is_reply = so_far[: len(prompt)] == prompt
        changes.append(not is_reply or following[: len(so_far)] != so_far)
    assert any(changes)


def tokens_of_example(renderer: Renderer, messages: list[Any]) -> list[int]:
    return renderer.build_supervised_example(messages).model_input.to_ints()


@every_family
def test_weights_of_the_modes_fit_each_other(family: Family) -> None:
    """Tokens never depend on the mode; what a mode trains is the sum of what its messages train."""
    renderer = renderer_of(family)
    for chat in drawn(answered, 20):
        messages, tools = prepared(family, renderer, chat)
        marks = {what: weights_of(renderer, messages, tools, what) for what in MODES}
        single = [
            weights_of(renderer, trainable_only(messages, place), tools, TrainOnWhat.CUSTOMIZED)
            for place in range(len(messages))
        ]
        roles = [message["role"] for message in messages]
        last_user = max(i for i, role in enumerate(roles) if role == "user")
        assistants = [i for i, role in enumerate(roles) if role == "assistant"]
        expected = {
            "last_assistant_message": [len(messages) - 1],
            "last_assistant_turn": [i for i in assistants if i > last_user],
            "all_assistant_messages": assistants,
            "all_messages": range(len(messages)),
            "all_user_and_system_messages": [
                i for i, role in enumerate(roles) if role in ("user", "system")
            ],
        }
        for what, places in expected.items():
            assert (marks[TrainOnWhat(what)] == sum(single[i] for i in places)).all(), what
        assert (marks[TrainOnWhat.ALL_TOKENS] >= marks[TrainOnWhat.ALL_MESSAGES]).all()
        script = Script()
        renderer.write(renderer.read(messages, tools=tools), script)
        num_bos = sum(segment.part is Part.BOS for segment in script.segments)
        assert (marks[TrainOnWhat.ALL_TOKENS] == 0).sum() == num_bos
        # A blank answer may be nothing at all where no token of its own ends a turn.
        assert all(single[i].sum() > 0 for i in assistants if messages[i]["content"].strip())


MODES = [what for what in TrainOnWhat if what is not TrainOnWhat.CUSTOMIZED]


def weights_of(renderer: Renderer, messages: Any, tools: Any, what: TrainOnWhat) -> Any:
    example = renderer.build_supervised_example(messages, what, tools=tools)
    assert len(example.weights) == example.model_input.length
    assert example.model_input.length <= renderer.max_num_tokens(messages, tools=tools)
    return example.weights


def trainable_only(messages: list[Message], place: int) -> list[Message]:
    return [{**message, "trainable": i == place} for i, message in enumerate(messages)]
