"""JSON schemas of function parameters, checked as far as a chat format looks into them.

A format that copies a schema as JSON takes any; one that writes it as types or tags walks through
it, and what it cannot walk is refused with its place instead of half a declaration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinsmith.renderers.messages import RendererError

_SCHEMAS = ("properties", "$defs")
"""Keys that hold schemas by name."""
_LISTS = ("anyOf", "oneOf")
"""Keys that hold a list of schemas."""
_NESTED = ("items", "additionalProperties")
"""Keys that hold one schema."""


def check_parameters(schema: Any, place: int) -> None:
    """Check the outermost level of a function's parameters.

    Args:
        schema: What stands in `parameters`; None where the function takes nothing.
        place: The function's place among the tools, for errors.

    Raises:
        RendererError: It is not a schema of an object.
    """
    if schema is None:
        return
    where = f"tools[{place}].parameters"
    if not isinstance(schema, Mapping):
        raise _refused(where, schema, "an object", place)
    _check_names(schema, where, place)


def check_whole_schema(schema: Any, place: int) -> None:
    """Check every level, for a format that writes them all.

    Raises:
        RendererError: A schema, a list of them or a list of names is something else.
    """
    _check(schema, f"tools[{place}].parameters", place)


def _check(schema: Any, where: str, place: int) -> None:
    if schema is None or isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        raise _refused(where, schema, "a schema", place)
    _check_names(schema, where, place)
    _check_type(schema.get("type"), f"{where}.type", place)
    for key in _SCHEMAS:
        for name, inner in (schema.get(key) or {}).items():
            _check(inner, f"{where}.{key}.{name}", place)
    for key in _LISTS:
        if not isinstance(schema.get(key) or [], list | tuple):
            raise _refused(f"{where}.{key}", schema[key], "a list", place)
        for number, inner in enumerate(schema.get(key) or ()):
            _check(inner, f"{where}.{key}[{number}]", place)
    for key in _NESTED:
        _check(schema.get(key), f"{where}.{key}", place)
    if not isinstance(schema.get("enum") or [], list | tuple):
        raise _refused(f"{where}.enum", schema["enum"], "a list", place)


def _check_names(schema: Mapping[str, Any], where: str, place: int) -> None:
    for key in _SCHEMAS:
        named = schema.get(key) or {}
        if not isinstance(named, Mapping):
            raise _refused(f"{where}.{key}", named, "an object", place)
        for name, inner in named.items():
            if not isinstance(inner, Mapping | bool):
                raise _refused(f"{where}.{key}.{name}", inner, "a schema", place)
    required = schema.get("required") or []
    if not isinstance(required, list | tuple) or not all(isinstance(n, str) for n in required):
        raise _refused(f"{where}.required", required, "a list of names", place)


def _check_type(kind: Any, where: str, place: int) -> None:
    kinds = kind if isinstance(kind, list | tuple) else [kind]
    if not all(isinstance(one, str) or one is None for one in kinds):
        raise _refused(where, kind, "a name or a list of names", place)


def _refused(where: str, value: Any, wanted: str, place: int) -> RendererError:
    return RendererError(
        f"{where}={value!r}: must be {wanted}",
        field=f"tools.{place}",
        hint='such as {"type": "object", "properties": {"x": {"type": "string"}}}',
    )
