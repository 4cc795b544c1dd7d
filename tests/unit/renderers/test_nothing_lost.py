"""What a family has no place for is refused, not left out: in every family, in every role."""

from typing import Any

import pytest

from tests.unit.renderers.families import standin
from tests.unit.renderers.test_pictures import png
from tinsmith.renderers import (
    Feature,
    ImagePart,
    Message,
    Renderer,
    RendererError,
    TrainOnWhat,
    get_renderer,
)
from tinsmith.renderers.messages import trained_messages
from tinsmith.types import ImageChunk

VOCABULARIES = {
    "qwen3": "qwen2-qwen3",
    "qwen3_coder": "qwen2-qwen3",
    "qwen3_vl_instruct": "qwen2-qwen3",
    "qwen3_5": "qwen3_5",
    "llama3_1": "llama3",
    "deepseekv3_thinking": "deepseek-v3",
    "gpt_oss_medium_reasoning": "o200k-harmony",
    "kimi_k2": "kimi-k2",
    "kimi_k25": "kimi-k2",
    "glm4_5": "glm-4.5",
    "nemotron3": "nemotron3",
}
WITHOUT_IMAGES = {
    ("qwen3_vl_instruct", "system"),
    ("qwen3_5", "system"),
    ("qwen3_5", "assistant"),
}
IMAGE: ImagePart = {"type": "image", "image": png(64, 64)}


@pytest.fixture(params=VOCABULARIES)
def renderer(request: pytest.FixtureRequest) -> Renderer:
    """One of each family."""
    return get_renderer(request.param, standin(VOCABULARIES[request.param]))


def chat_with(role: str, **fields: Any) -> list[Message]:
    """A conversation in which the message of a role carries more than text."""
    call: Any = {
        "id": "functions.f:0",
        "type": "function",
        "function": {"name": "f", "arguments": {}},
    }
    chat: list[Message] = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "functions.f:0", "name": "f", "content": "R"},
        {"role": "assistant", "content": "A"},
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "A"},
    ]
    place = max(i for i, message in enumerate(chat) if message["role"] == role)
    changed: Any = {**chat[place], **fields}
    return [*chat[:place], changed, *chat[place + 1 :]]


@pytest.mark.parametrize("role", ["system", "user", "tool"])
def test_only_the_assistant_thinks(renderer: Renderer, role: str) -> None:
    parts = [{"type": "thinking", "thinking": "T"}, {"type": "text", "text": "x"}]
    for fields in ({"content": parts}, {"reasoning": "T"}):
        with pytest.raises(RendererError) as caught:
            renderer.build_supervised_example(chat_with(role, **fields))
        assert caught.value.message_index is not None


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_an_image_is_written_or_refused(renderer: Renderer, role: str) -> None:
    messages = chat_with(role, content=[{"type": "text", "text": "x"}, IMAGE])
    if Feature.IMAGES not in renderer.features or (renderer.name, role) in WITHOUT_IMAGES:
        with pytest.raises(RendererError) as caught:
            renderer.build_supervised_example(messages, "all_messages")
        assert caught.value.message_index is not None
        return
    example = renderer.build_supervised_example(messages, "all_messages")
    assert sum(isinstance(chunk, ImageChunk) for chunk in example.model_input.chunks) == 1
    assert len(example.weights) == example.model_input.length


def test_thinking_is_found_in_any_field_and_two_that_differ_are_refused(renderer: Renderer) -> None:
    if Feature.THINKING not in renderer.features:
        return
    one = renderer.read(chat_with("assistant", thinking="T"))
    both = renderer.read(chat_with("assistant", reasoning_content="", reasoning="T"))
    assert one.last is not None
    assert one.last.thinking == "T"
    assert both == one
    with pytest.raises(RendererError, match="thinking stands in two fields") as caught:
        renderer.read(chat_with("assistant", reasoning_content="T", reasoning="U"))
    assert caught.value.message_index == 6


@pytest.mark.parametrize("fields", [{"name": 7}, {"tool_call_id": 7}])
def test_names_and_ids_are_text(renderer: Renderer, fields: Any) -> None:
    with pytest.raises(RendererError, match="has type int"):
        renderer.build_supervised_example(chat_with("tool", **fields))


SCHEMAS: list[Any] = [
    5,
    [],
    {"properties": [1]},
    {"properties": {"x": 5}},
    {"required": 5},
    {"required": [{}]},
]


def test_parameters_that_are_no_schema_are_refused(renderer: Renderer) -> None:
    for schema in SCHEMAS:
        tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
        with pytest.raises(RendererError, match=r"tools\[0\]\.parameters"):
            renderer.build_generation_prompt(chat_with("user"), tools=[tool])


WALKED: list[Any] = [
    {"items": [{}]},
    {"anyOf": {}, "properties": {"x": {"anyOf": 5}}},
    {"properties": {"x": {"oneOf": [5]}}},
    {"properties": {"x": {"enum": "a"}}},
    {"properties": {"x": {"type": {"a": 1}}}},
    {"properties": {"x": {"type": "object", "properties": {"y": 5}}}},
    {"$defs": 5},
]


@pytest.mark.parametrize("name", ["gpt_oss_medium_reasoning", "kimi_k25"])
def test_a_family_that_writes_types_refuses_a_schema_that_it_cannot_walk(name: str) -> None:
    renderer = get_renderer(name, standin(VOCABULARIES[name]))
    for schema in WALKED:
        tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
        with pytest.raises(RendererError, match=r"tools\[0\]\.parameters"):
            renderer.build_generation_prompt(chat_with("user"), tools=[tool])


@pytest.mark.parametrize("schema", [True, False], ids=str)
def test_a_schema_that_allows_anything_or_nothing_is_declared(
    renderer: Renderer, schema: bool
) -> None:
    if "deepseek" in renderer.name or Feature.TOOLS not in renderer.features:
        return
    parameters = {"type": "object", "properties": {"anything": schema}}
    function = {"name": "f", "description": "D", "parameters": parameters}
    text = renderer.render_text(
        chat_with("user"), tools=[{"type": "function", "function": function}]
    )
    assert "anything" in text


@pytest.mark.parametrize("weight", [0.5, 2, None, "1"])
def test_a_weight_is_zero_or_one(weight: Any) -> None:
    messages: Any = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    messages[1]["weight"] = weight
    with pytest.raises(RendererError, match="message 1: weight=") as caught:
        trained_messages(messages, TrainOnWhat.ALL_MESSAGES)
    assert caught.value.message_index == 1
