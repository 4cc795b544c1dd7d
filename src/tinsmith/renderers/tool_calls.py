"""Arguments and calls as JSON, the way chat templates write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tinsmith.renderers.messages import RendererError, ToolCall, UnparsedToolCall


def to_json(value: Any) -> str:
    """JSON as `tojson` writes it in chat templates: spaces after separators, letters as they are.

    Source: `apply_chat_template` of transformers, `json.dumps(ensure_ascii=False)`.
    """
    return json.dumps(value, ensure_ascii=False)


def arguments_text(call: ToolCall) -> str:
    """Arguments as JSON text; text is taken as it is."""
    arguments = call["function"]["arguments"]
    return arguments if isinstance(arguments, str) else to_json(arguments)


def arguments_object(call: ToolCall, index: int) -> Mapping[str, Any]:
    """Arguments as an object, for formats that write each argument by itself.

    Raises:
        RendererError: They are text that is no JSON object.
    """
    arguments = call["function"]["arguments"]
    if not isinstance(arguments, str):
        return arguments
    try:
        found = json.loads(arguments or "{}")
    except ValueError as error:
        found = error
    if not isinstance(found, Mapping):
        raise RendererError(
            f"message {index}: the arguments of {call['function']['name']} are no JSON object",
            field="tool_calls",
            hint='give an object, {"x": 1}, or the JSON text of one',
            message_index=index,
        )
    return found


def made_call(name: str, arguments: str, call_id: str | None = None) -> ToolCall:
    """A call that was read from a reply."""
    call: ToolCall = {"type": "function", "function": {"name": name, "arguments": arguments}}
    if call_id is not None:
        call["id"] = call_id
    return call


def unparsed(raw_text: str, error: str) -> UnparsedToolCall:
    """A call that could not be read."""
    return {"raw_text": raw_text, "error": error}


def read_json_call(text: str, *, arguments_key: str = "arguments") -> ToolCall | UnparsedToolCall:
    """Read `{"name": ..., "arguments": {...}}`; the arguments' text is kept as it was written."""
    try:
        found = json.loads(text)
    except ValueError as error:
        return unparsed(text, f"not JSON: {error}")
    if not isinstance(found, Mapping) or not isinstance(found.get("name"), str):
        return unparsed(text, "no function name: an object with a name is needed")
    arguments = found.get(arguments_key, {})
    if isinstance(arguments, str):
        return made_call(found["name"], arguments)
    if not isinstance(arguments, Mapping):
        return unparsed(text, f"{arguments_key} is no object")
    return made_call(found["name"], to_json(arguments))


def read_named_call(
    name: str, arguments: str, *, raw_text: str, call_id: str | None = None
) -> ToolCall | UnparsedToolCall:
    """A call whose name stands apart from its arguments, which must be a JSON object."""
    try:
        found = json.loads(arguments)
    except ValueError as error:
        return unparsed(raw_text, f"arguments are not JSON: {error}")
    if not isinstance(found, Mapping):
        return unparsed(raw_text, "arguments are no JSON object")
    return made_call(name, arguments.strip(), call_id)
