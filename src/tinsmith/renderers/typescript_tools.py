"""Declared functions as TypeScript types, the way Kimi K2.5 reads them.

Each function is a type in one namespace; what a schema says beyond types stands in comments. Only
what the format knows is written: descriptions, defaults, bounds of numbers, lengths and patterns.

Source: the format of `tool_declaration_ts.py` beside the tokenizer of moonshotai/Kimi-K2.5.
Deviation: a schema that it cannot write is refused (the tokenizer falls back to JSON).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinsmith.renderers.messages import RendererError, ToolSpec
from tinsmith.renderers.schemas import check_whole_schema

Schema = Mapping[str, Any] | bool  # Any: JSON schema

_STEP = "  "
_BOUNDS = {
    "string": ("maxLength", "minLength", "pattern"),
    "number": ("maximum", "minimum"),
    "integer": ("maximum", "minimum"),
    "array": ("maxItems", "minItems"),
}
_IN_UNIONS = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "null": "null",
    "object": "{}",
    "array": "Array<any>",
}


@dataclass
class _Scope:
    """What a function's schemas define, and whether one of them refers to the whole."""

    definitions: dict[str, Schema] = field(default_factory=dict)
    refers_to_root: bool = False


class _NotWritableError(Exception):
    """A schema that has no TypeScript form here."""


def declare_typescript(tools: Sequence[ToolSpec]) -> str:
    """The declarations of all tools.

    Raises:
        RendererError: A schema that has no TypeScript form.
    """
    texts = []
    for place, tool in enumerate(tools):
        check_whole_schema(tool["function"].get("parameters"), place)
        try:
            texts.append(_function(tool["function"]))
        except _NotWritableError as error:
            raise RendererError(
                f"tools[{place}]: {error}",
                field=f"tools.{place}",
                hint='change the schema, or declare tools as JSON with tool_form="json"',
            ) from error
    functions = "\n".join(texts)
    return f"# Tools\n\n## functions\nnamespace functions {{\n{functions}\n}}\n"


def _function(function: Mapping[str, Any]) -> str:
    scope = _Scope()
    schema = function.get("parameters") or {}
    root = _object(schema, scope, "")
    lines = []
    if scope.refers_to_root:
        fields = _fields(schema, scope, _STEP)
        body = "\n" + ",\n".join(fields) + "\n" if fields else ""
        lines.append(f"interface parameters {{{body}}}")
        root = "parameters"
    for name, definition in list(scope.definitions.items()):
        text = _type(definition, scope, "")
        lines.append(f"{_description(definition, '')}interface {name} {text}")
    described = _description(function, "")
    lines.append(f"{described}type {function['name']} = (_: {root}) => any;")
    return "\n".join(lines)


def _type(schema: Schema, scope: _Scope, indent: str) -> str:
    """The type that a schema stands for."""
    if isinstance(schema, bool):
        return "any" if schema else "null"
    if "$ref" in schema:
        return _reference(schema["$ref"], scope)
    if "anyOf" in schema:
        return " | ".join(_type(one, scope, indent) for one in schema["anyOf"] or ())
    if "enum" in schema:
        return " | ".join(
            f'"{value}"' if isinstance(value, str) else json.dumps(value)
            for value in schema["enum"] or ()
        )
    kind = schema.get("type")
    if isinstance(kind, list) and all(one in _IN_UNIONS for one in kind):
        return " | ".join(_IN_UNIONS[one] for one in kind)
    if kind == "object":
        return _object(schema, scope, indent)
    if kind == "array":
        return _array(schema, scope, indent)
    if isinstance(kind, str):
        return "number" if kind == "integer" else kind
    if not schema:
        return "any"
    raise _NotWritableError(f"no type in the schema {json.dumps(schema, default=str)[:80]}")


def _reference(target: Any, scope: _Scope) -> str:
    if target == "#":
        scope.refers_to_root = True
        return "parameters"
    name = str(target).removeprefix("#/$defs/")
    if name not in scope.definitions:
        raise _NotWritableError(f"reference {target!r} is neither '#' nor one of $defs")
    return name


def _object(schema: Mapping[str, Any], scope: _Scope, indent: str) -> str:
    scope.definitions.update(schema.get("$defs") or {})
    required = set(schema.get("required") or ())
    names = sorted(schema.get("properties") or {}, key=lambda name: (name not in required, name))
    fields = _fields(schema, scope, indent + _STEP, names)
    others: Schema | None = schema.get("additionalProperties")
    if others is not None:
        if isinstance(others, bool):
            kind = "any" if others else "never"
        else:
            kind = _type(others, scope, indent + _STEP)
        fields.append(f"{indent}{_STEP}[k: string]: {kind}")
    return "{\n" + ",\n".join(fields) + f"\n{indent}}}" if fields else "{}"


def _fields(
    schema: Mapping[str, Any], scope: _Scope, indent: str, names: Sequence[str] | None = None
) -> list[str]:
    """The properties of an object, in the order of `names` or by name."""
    properties: Mapping[str, Schema] = schema.get("properties") or {}
    required = set(schema.get("required") or ())
    lines = []
    for name in sorted(properties) if names is None else names:
        given = properties[name]
        default = None if isinstance(given, bool) else given.get("default")
        said = _comments(given, indent)
        if default is not None:
            text = json.dumps(default, ensure_ascii=False, sort_keys=True)
            said += f"{indent}// Default: {text}\n"
        mark = "" if name in required else "?"
        lines.append(f"{said}{indent}{name}{mark}: {_type(given, scope, indent)}")
    return lines


def _array(schema: Mapping[str, Any], scope: _Scope, indent: str) -> str:
    item: Schema = schema.get("items") or {}
    said = _comments(item, indent + _STEP)
    if not said:
        return f"Array<{_type(item, scope, indent)}>"
    inner = indent + _STEP
    return f"Array<\n{said}{inner}{_type(item, scope, inner)}\n{indent}>"


def _description(schema: Schema, indent: str) -> str:
    """The lines of a description, each a comment; empty lines stay empty."""
    text = None if isinstance(schema, bool) else schema.get("description")
    if not text:
        return ""
    return "".join(f"{indent}// {line}\n" if line else "\n" for line in str(text).split("\n"))


def _comments(schema: Schema, indent: str) -> str:
    """A description, and the bounds of a value."""
    said = _description(schema, indent)
    if isinstance(schema, bool) or {"$ref", "anyOf", "enum"} & schema.keys():
        return said
    kind = schema.get("type")
    names = _BOUNDS.get(kind, ()) if isinstance(kind, str) else ()
    bounds = ", ".join(f"{name}: {schema[name]}" for name in names if name in schema)
    return said + (f"{indent}// {bounds}\n" if bounds else "")
