r"""Tool calls as nested tags: `<function=name>`, and a `<parameter=name>` block for each argument.

Qwen3-Coder, Qwen3.5 and later, and Nemotron 3 write calls this way; they differ in how an argument
that is no text is written. Types are not part of the format, so a reply's argument is read as JSON
where it is JSON (or Python's True, False, None) and as text otherwise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from tinsmith.renderers.messages import ToolCall, ToolSpec, UnparsedToolCall
from tinsmith.renderers.tool_calls import arguments_object, made_call, to_json, unparsed

CALL_TAGS = ("<tool_call>", "</tool_call>")
CALL_INSTRUCTIONS = (
    "\n\nIf you choose to call a function ONLY reply in the following format with NO suffix:\n\n"
    "<tool_call>\n<function=example_function_name>\n<parameter=example_parameter_1>\nvalue_1\n"
    "</parameter>\n<parameter=example_parameter_2>\nThis is the value for the second parameter\n"
    "that can span\nmultiple lines\n</parameter>\n</function>\n</tool_call>\n\n<IMPORTANT>\n"
    "Reminder:\n- Function calls MUST follow the specified format: an inner "
    "<function=...></function> block must be nested within <tool_call></tool_call> XML tags\n"
    "- Required parameters MUST be specified\n- You may provide optional reasoning for your "
    "function call in natural language BEFORE the function call, but NOT after\n- If there is no "
    "function call available, answer the question like normal with your current knowledge and do "
    "not tell the user about function calls\n</IMPORTANT>"
)
"""What Qwen's templates write after the declarations."""

WriteValue = Callable[[Any], str]


def json_unless_scalar(value: Any) -> str:
    """Objects and lists as JSON, anything else as Python writes it (Qwen3.5, Nemotron 3)."""
    return to_json(value) if isinstance(value, Mapping | list | tuple) else str(value)


def json_unless_text(value: Any) -> str:
    """Text as it is, anything else as JSON (Qwen3.6 and later)."""
    return value if isinstance(value, str) else to_json(value)


def json_if_object(value: Any) -> str:
    """Objects as JSON, anything else as Python writes it, lists too (Qwen3-Coder)."""
    return to_json(value) if isinstance(value, Mapping) else str(value)


def xml_function(tool: ToolSpec, write_value: WriteValue, *, has_lists: bool = False) -> str:
    """The declaration of a function, in nested tags.

    Args:
        tool: The function.
        write_value: How values of a schema are written.
        has_lists: Whether choices and required names are JSON lists in tags of their own.
    """
    function: Mapping[str, Any] = tool["function"]
    text = f"\n<function>\n<name>{function['name']}</name>"
    if "description" in function:
        text += f"\n<description>{str(function['description']).strip()}</description>"
    text += "\n<parameters>"
    parameters = function.get("parameters")
    if isinstance(parameters, Mapping):
        properties = parameters.get("properties")
        if isinstance(properties, Mapping):
            text += "".join(
                _xml_parameter(name, fields, write_value, has_enum=has_lists)
                for name, fields in properties.items()
            )
        last = {"required"} if has_lists else set[str]()
        text += _extra_keys(parameters, {"type", "properties"} | last, write_value)
        if has_lists and "required" in parameters:
            text += f"\n<required>{to_json(parameters['required'])}</required>"
    text += "\n</parameters>"
    known = {"type", "name", "description", "parameters"}
    return f"{text}{_extra_keys(function, known, write_value)}\n</function>"


def _xml_parameter(
    name: str, fields: Mapping[str, Any], write_value: WriteValue, *, has_enum: bool = False
) -> str:
    """The declaration of one parameter; with `has_enum` its choices have a tag of their own."""
    if not isinstance(fields, Mapping):  # a schema may be `true`, which says nothing
        fields = {}
    text = f"\n<parameter>\n<name>{name}</name>"
    known = {"name", "type", "description"}
    if "type" in fields:
        text += f"\n<type>{fields['type']}</type>"
    if "description" in fields:
        text += f"\n<description>{str(fields['description']).strip()}</description>"
    if has_enum:
        known.add("enum")
        if "enum" in fields:
            text += f"\n<enum>{to_json(fields['enum'])}</enum>"
    return f"{text}{_extra_keys(fields, known, write_value)}\n</parameter>"


def _extra_keys(fields: Mapping[str, Any], known: set[str], write_value: WriteValue) -> str:
    """Whatever else a schema says, each key between tags."""
    return "".join(
        f"\n<{key}>{write_value(value)}</{key}>"
        for key, value in fields.items()
        if key not in known
    )


def xml_call(call: ToolCall, index: int, write_value: WriteValue) -> str:
    """A call between its tags, without what separates it from its neighbours.

    Raises:
        RendererError: The arguments are text that is no JSON object.
    """
    parameters = "".join(
        f"<parameter={name}>\n{write_value(value)}\n</parameter>\n"
        for name, value in arguments_object(call, index).items()
    )
    name = call["function"]["name"]
    return f"<tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call>"


_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>(.*)</function>\s*", re.DOTALL)
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]+)>(.*?)</parameter>\s*", re.DOTALL)


def read_xml_call(text: str) -> list[ToolCall | UnparsedToolCall]:
    """Read what stands between the tags of a call."""
    function = _FUNCTION.fullmatch(text)
    if function is None:
        return [unparsed(text, "no function: <function=name>...</function> is needed")]
    arguments: dict[str, Any] = {}
    place = 0
    body = function[2]
    while place < len(body):
        parameter = _PARAMETER.match(body, place)
        if parameter is None:
            if body[place:].strip():
                rest = body[place:].strip()[:40]
                return [unparsed(text, f"not a parameter: {rest!r}")]
            break
        arguments[parameter[1]] = _value(parameter[2].removeprefix("\n").removesuffix("\n"))
        place = parameter.end()
    return [made_call(function[1], to_json(arguments))]


_PYTHON_WORDS = {"True": True, "False": False, "None": None}


def _value(text: str) -> Any:
    if text in _PYTHON_WORDS:
        return _PYTHON_WORDS[text]
    try:
        return json.loads(text)
    except ValueError:
        return text
