"""Declared functions as TypeScript."""

from typing import Any

import pytest

from tinsmith.renderers import RendererError
from tinsmith.renderers.typescript_tools import declare_typescript


def declared(parameters: Any, **function: Any) -> str:
    spec: Any = {"name": "f", "parameters": parameters, **function}
    text = declare_typescript([{"type": "function", "function": spec}])
    before, after = "# Tools\n\n## functions\nnamespace functions {\n", "\n}\n"
    assert text.startswith(before)
    assert text.endswith(after)
    return text[len(before) : -len(after)]


def field(schema: Any) -> str:
    """The type of one required property, and the comments above it."""
    text = declared({"type": "object", "properties": {"x": schema}, "required": ["x"]})
    return text.removeprefix("type f = (_: {\n").removesuffix("\n}) => any;")


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "string"}, "  x: string"),
        ({"type": "integer", "minimum": 0, "maximum": 9},
         "  // maximum: 9, minimum: 0\n  x: number"),
        ({"type": "string", "minLength": 1, "pattern": "a+", "format": "date"},
         "  // minLength: 1, pattern: a+\n  x: string"),
        ({"type": "boolean", "description": "One.\n\nTwo.", "default": False},
         "  // One.\n\n  // Two.\n  // Default: false\n  x: boolean"),
        ({"enum": ["a", 1, None]}, '  x: "a" | 1 | null'),
        ({"type": "string", "enum": ["é"], "minLength": 1}, '  x: "é"'),
        ({"type": ["string", "integer", "null"]}, "  x: string | number | null"),
        ({"anyOf": [{"type": "array"}, {"type": "null"}]}, "  x: Array<any> | null"),
        ({"type": "array", "items": {"type": "string"}, "minItems": 1},
         "  // minItems: 1\n  x: Array<string>"),
        ({"type": "array", "items": {"type": "object", "properties": {"y": {}}}},
         "  x: Array<{\n    y?: any\n  }>"),
        ({"type": "array", "items": {"type": "number", "description": "Each."}},
         "  x: Array<\n    // Each.\n    number\n  >"),
        ({"type": "object", "additionalProperties": False}, "  x: {\n    [k: string]: never\n  }"),
        ({"type": "object", "additionalProperties": {"type": "integer"}},
         "  x: {\n    [k: string]: number\n  }"),
        (True, "  x: any"),
        ({}, "  x: any"),
    ],
)  # fmt: skip
def test_a_schema_becomes_a_type(schema: Any, text: str) -> None:
    assert field(schema) == text


def test_required_properties_come_first_and_all_are_in_order() -> None:
    properties = {name: {"type": "string"} for name in "badc"}
    text = declared({"properties": properties, "required": ["d", "b"]}, description="Does it.")
    assert text == (
        "// Does it.\ntype f = (_: {\n  b: string,\n  d: string,\n  a?: string,\n  c?: string\n}) "
        "=> any;"
    )


def test_definitions_are_interfaces_and_a_schema_may_hold_itself() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}, "description": "N"}
    text = declared({"$defs": {"Node": node}, "properties": {"head": {"$ref": "#/$defs/Node"}}})
    assert text == (
        "// N\ninterface Node {\n  next?: Node\n}\ntype f = (_: {\n  head?: Node\n}) => any;"
    )
    again = declared({"properties": {"child": {"$ref": "#"}}})
    assert again == (
        "interface parameters {\n  child?: parameters\n}\ntype f = (_: parameters) => any;"
    )


@pytest.mark.parametrize(
    ("schema", "error"),
    [
        ({"$ref": "other.json"}, r"tools\[0\]: reference 'other.json' is neither"),
        ({"oneOf": []}, r"tools\[0\]: no type in the schema"),
    ],
)
def test_what_has_no_form_is_refused(schema: Any, error: str) -> None:
    with pytest.raises(RendererError, match=error):
        field(schema)
