"""A reply in pieces as it is produced, and the message that the pieces make.

`stream_parse` yields deltas; joined in order they are the message that `parse_response` returns,
since that message is made from the same deltas.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tinsmith.renderers.messages import (
    ContentPart,
    Message,
    ToolCall,
    UnparsedToolCall,
)


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the text."""

    text: str


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    """More of the thinking."""

    thinking: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A tool call, whole."""

    tool_call: ToolCall


@dataclass(frozen=True, slots=True)
class UnparsedToolCallDelta:
    """A tool call that could not be read, whole."""

    unparsed: UnparsedToolCall


Delta = TextDelta | ThinkingDelta | ToolCallDelta | UnparsedToolCallDelta


def message_of(deltas: Iterable[Delta]) -> Message:
    """The assistant's message that deltas make.

    Content is text where nothing was thought, otherwise a list of thinking and text parts in the
    order of the reply.
    """
    parts: list[tuple[str, list[str]]] = []
    calls: list[ToolCall] = []
    unparsed: list[UnparsedToolCall] = []
    for delta in deltas:
        match delta:
            case TextDelta(text):
                _append(parts, "text", text)
            case ThinkingDelta(thinking):
                _append(parts, "thinking", thinking)
            case ToolCallDelta(call):
                calls.append(call)
            case UnparsedToolCallDelta(raw):
                unparsed.append(raw)
    message: Message = {"role": "assistant", "content": _content(parts)}
    if calls:
        message["tool_calls"] = calls
    if unparsed:
        message["unparsed_tool_calls"] = unparsed
    return message


def _append(parts: list[tuple[str, list[str]]], kind: str, text: str) -> None:
    if parts and parts[-1][0] == kind:
        parts[-1][1].append(text)
    else:
        parts.append((kind, [text]))


def _content(parts: list[tuple[str, list[str]]]) -> str | list[ContentPart]:
    if all(kind == "text" for kind, _ in parts):
        return "".join(text for _, texts in parts for text in texts)
    content: list[ContentPart] = []
    for kind, texts in parts:
        if kind == "text":
            content.append({"type": "text", "text": "".join(texts)})
        else:
            content.append({"type": "thinking", "thinking": "".join(texts)})
    return content
