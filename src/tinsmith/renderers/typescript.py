"""JSON schemas of function parameters as TypeScript, the way gpt-oss' template declares tools.

Source: the macros of openai/gpt-oss-20b's chat template, their blanks and line breaks included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tinsmith.renderers.messages import ToolSpec
from tinsmith.renderers.schemas import check_whole_schema
from tinsmith.renderers.tool_calls import to_json

Schema = Mapping[str, Any] | bool

_PLAIN = {"number": "number", "integer": "number", "boolean": "boolean"}
_LISTS = {"string": "string[]", "number": "number[]", "integer": "number[]", "boolean": "boolean[]"}
_MAX_INNER_LENGTH = 50
_INDENT = 16 * " "


def namespace(name: str, tools: Sequence[ToolSpec]) -> str:
    """Declarations of functions in one namespace.

    Raises:
        RendererError: A schema that cannot be walked through.
    """
    for place, tool in enumerate(tools):
        check_whole_schema(tool["function"].get("parameters"), place)
    declared = "".join(map(_function, tools))
    return f"## {name}\n\nnamespace {name} {{\n\n{declared}}} // namespace {name}"


def type_of(schema: Schema) -> str:
    """The type of one value; `true` says nothing, and so does `false` to the template."""
    if isinstance(schema, bool):
        return "any"
    kind = schema.get("type")
    null = " | null" if schema.get("nullable") else ""
    if kind == "array":
        return _list_type(schema) + null
    if isinstance(kind, Sequence) and not isinstance(kind, str) and kind:
        return " | ".join(map(str, kind))
    if schema.get("oneOf"):
        return _union(schema["oneOf"])
    if kind == "string":
        if schema.get("enum"):
            return '"' + '" | "'.join(map(str, schema["enum"])) + '"'
        return "string" + null
    if kind == "object":
        return _object_type(schema)
    return _PLAIN.get(str(kind), "any")


def _function(tool: ToolSpec) -> str:
    function = tool["function"]
    parameters = function.get("parameters") or {}
    properties = parameters.get("properties") or {}
    lines = "".join(
        _parameter(name, schema, is_required=name in (parameters.get("required") or ()))
        for name, schema in properties.items()
    )
    taken = f"(_: {{\n{lines}}})" if properties else "()"
    description = function.get("description")
    comment = f"// {description}\n" if description else ""
    return f"{comment}type {function['name']} = {taken} => any;\n\n"


def _parameter(name: str, schema: Schema, *, is_required: bool) -> str:
    said: Mapping[str, Any] = {} if isinstance(schema, bool) else schema
    comment = f"// {said['description']}\n" if said.get("description") else ""
    mark = "" if is_required else "?"
    return f"{comment}{name}{mark}: {type_of(said)}{_default(said)},\n"


def _default(schema: Mapping[str, Any]) -> str:
    if "default" not in schema:
        return ""
    default = schema["default"]
    if schema.get("enum"):
        return f", // default: {default}"
    if schema.get("oneOf"):
        return f"// default: {default}"
    return f", // default: {to_json(default)}"


def _list_type(schema: Mapping[str, Any]) -> str:
    items = schema.get("items")
    if not items or isinstance(items, bool):
        return "any[]"
    plain = _LISTS.get(str(items.get("type")))
    if plain is not None:
        return plain
    inner = type_of(items)
    is_long = inner == "object | object" or len(inner) > _MAX_INNER_LENGTH
    return "any[]" if is_long else f"{inner}[]"


def _object_type(schema: Mapping[str, Any]) -> str:
    properties = schema.get("properties")
    if not properties:
        return "object"
    required = schema.get("required") or ()
    fields = [
        f"{name}{'' if name in required else '?'}: \n{_INDENT}{type_of(inner)}"
        for name, inner in properties.items()
    ]
    return "{\n" + ", ".join(fields) + "}"


def _union(variants: Sequence[Schema]) -> str:
    # The template means to write `any` for several with an object among them, and never does: its
    # flag is set inside a loop, which Jinja forgets.
    return " | \n".join(map(_variant, variants))


def _variant(schema: Schema) -> str:
    if isinstance(schema, bool):
        return type_of(schema)
    comment = f"// {schema['description']}" if schema.get("description") else ""
    default = ""
    if "default" in schema:
        default = f"{_INDENT}    // default: {to_json(schema['default'])}"
    return type_of(schema) + comment + default
