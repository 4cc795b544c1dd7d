"""Does a renderer write what a tokenizer's own chat template writes? Tried, not guessed by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tinsmith.core.errors import UserError
from tinsmith.renderers.base import RendererFactory
from tinsmith.renderers.chats import Feature
from tinsmith.renderers.messages import Message
from tinsmith.renderers.tool_calls import arguments_text

_PLAIN: list[Message] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "Sure?"},
]
_WITHOUT_SYSTEM: list[Message] = [*_PLAIN[1:], {"role": "assistant", "content": "Yes."}]
_THOUGHT: list[Message] = [
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "reasoning_content": "Easy.", "content": "4"},
    {"role": "user", "content": "And 3 + 3?"},
]
# Keys in order: some tokenizers sort them before their template sees the tools.
_TOOL: dict[str, Any] = {
    "function": {
        "description": "Add two numbers.",
        "name": "add",
        "parameters": {
            "properties": {"a": {"description": "One number.", "type": "integer"}},
            "required": ["a"],
            "type": "object",
        },
    },
    "type": "function",
}
_CALLED: list[Message] = [
    {"role": "user", "content": "What is 2 + 2?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "type": "function",
                "id": "functions.add:0",
                "function": {"name": "add", "arguments": {"a": 2}},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "functions.add:0", "name": "add", "content": "4"},
]

Probe = tuple[Sequence[Message], Sequence[Mapping[str, Any]], bool]
"""Messages, tools, and whether a reply is opened."""


def probes(features: frozenset[Feature]) -> list[Probe]:
    """Conversations with everything that a format of these features can express."""
    found: list[Probe] = [(_PLAIN, (), True), (_WITHOUT_SYSTEM, (), False)]
    if Feature.THINKING in features:
        # Thinking as history: of a final thought some templates lose what training needs.
        found += [(_THOUGHT, (), True)]
    if Feature.TOOLS in features:
        found += [(_CALLED, (_TOOL,), True), (_CALLED[:2], (_TOOL,), False)]
    return found


def writes_template_of(tokenizer: Any, factory: RendererFactory) -> bool:
    """Whether a renderer and the tokenizer's template write the same text for every probe.

    A probe that the renderer refuses says nothing; the plain ones every renderer takes.
    """
    try:
        renderer = factory(tokenizer)
    except UserError:  # a control token is missing
        return False
    num_equal = 0
    for messages, tools, opens in probes(renderer.features):
        expected = template_text(tokenizer, messages, tools, opens_reply=opens)
        if tools and expected == template_text(tokenizer, messages, (), opens_reply=opens):
            tools = ()  # the template declares none, so that any way to declare them is as good
        try:
            text = renderer.render_text(messages, tools=tools, add_generation_prompt=opens)
        except UserError:
            continue
        if text != expected:
            return False
        num_equal += 1
    return num_equal > 0


def template_text(
    tokenizer: Any,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] = (),
    *,
    opens_reply: bool = False,
    options: Mapping[str, Any] | None = None,
) -> str | None:
    """What the tokenizer's own template writes; None where it refuses the conversation."""
    from jinja2 import TemplateError

    for form in (_as_given, _with_argument_text):
        try:
            return tokenizer.apply_chat_template(
                [form(message) for message in messages],
                tools=[dict(tool) for tool in tools] or None,
                add_generation_prompt=opens_reply,
                tokenize=False,
                **(options or {}),
            )
        except (TemplateError, TypeError, ValueError):
            # A template may fail in any of these ways on what it does not know, such as a tool.
            continue
    return None


def _as_given(message: Message) -> dict[str, Any]:
    return dict(message)


def _with_argument_text(message: Message) -> dict[str, Any]:
    """The form of DeepSeek's templates: arguments as JSON text."""
    calls = message.get("tool_calls")
    if not calls:
        return dict(message)
    return {
        **message,
        "tool_calls": [
            {**call, "function": {**call["function"], "arguments": arguments_text(call)}}
            for call in calls
        ],
    }
