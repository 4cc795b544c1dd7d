"""Writes the reference pages that are made from the code, where they are out of date.

`docs/reference/wire.md` from the types and the `.proto` file, `docs/reference/sdk-api.md` from the
clients' signatures, `docs/reference/events.md` from the recorder's catalogue, and the table of
methods in `docs/reference/compatibility.md` from the record of the official package and the list of
differences. A test compares; after a change, or a conflict in one of them:

    python -m tools.reference_pages
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import tinsmith
import tinsmith.types
from tests.tinker_surface import CLIENTS
from tinsmith.server import requests as server_requests
from tinsmith.telemetry import EventSpec, events
from tinsmith.telemetry.catalogue import UNITS
from tinsmith.types import RequestModel, ResponseModel

REPOSITORY = Path(__file__).resolve().parents[1]
REFERENCE = REPOSITORY / "docs" / "reference"
GOLDEN = REPOSITORY / "tests" / "golden"
PROTO = REPOSITORY / "src/tinsmith/types/proto/tinsmith.proto"
BEGIN, END = "<!-- methods:begin -->", "<!-- methods:end -->"
MADE = "This page is made from the code by `python -m tools.reference_pages`."

Schema = dict[str, Any]  # Any: JSON


def main() -> int:
    """Write the pages."""
    for path, text in pages().items():
        if path.read_text(encoding="utf-8") != text if path.exists() else True:
            path.write_text(text, encoding="utf-8", newline="\n")
            print(f"wrote {path.relative_to(REPOSITORY)}")
    return 0


def pages() -> dict[Path, str]:
    """What each page should hold."""
    compatibility = REFERENCE / "compatibility.md"
    return {
        REFERENCE / "wire.md": wire_page(),
        REFERENCE / "sdk-api.md": sdk_page(),
        REFERENCE / "events.md": events_page(),
        compatibility: with_methods(compatibility.read_text(encoding="utf-8")),
    }


# ---------------------------------------------------------------------------------------- wire


def wire_page() -> str:
    """Fields of every JSON body, and the binary messages."""
    lines = ["# The wire, field by field", "", MADE]
    lines += [
        "[The service's endpoints](service.md) says which endpoint takes which body. A body with a",
        "field that does not stand here is refused by the field's name; of what the service",
        "answers, a client ignores what it does not know. A field without a default has to be",
        "given.",
        "",
    ]
    for title, base, modules in (
        ("Requests", RequestModel, (tinsmith.types, server_requests)),
        ("Answers", ResponseModel, (tinsmith.types,)),
    ):
        lines += [f"## {title}", ""]
        for model in _models(base, modules):
            lines += _model_section(model)
    lines += ["## Binary messages", "", "```proto", PROTO.read_text(encoding="utf-8").rstrip()]
    return "\n".join([*lines, "```", ""])


def _models(base: type[BaseModel], modules: tuple[Any, ...]) -> list[type[BaseModel]]:
    found = {
        value.__name__: value
        for module in modules
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, base) and value is not base
    }
    return [found[name] for name in sorted(found)]


def _model_section(model: type[BaseModel]) -> Iterator[str]:
    yield from (f"### {model.__name__}", "", _first_line(model), "")
    if not model.model_fields:
        return
    try:
        schema = model.model_json_schema()
    except Exception as error:  # a page with a hole is worse than none
        raise RuntimeError(f"{model.__name__}: has no JSON schema: {error}") from error
    notes = _field_notes(model)
    yield from ("| Field | Is | Default | |", "|---|---|---|---|")
    for name, field in model.model_fields.items():
        told = schema["properties"].get(field.alias or name, {})
        default = "" if field.is_required() else f"`{_default(field)}`"
        kind = _kind(told).replace("|", "\\|")
        yield f"| `{field.alias or name}` | {kind} | {default} | {notes.get(name, '')} |"
    yield ""


def _default(field: Any) -> str:  # Any: pydantic's FieldInfo
    value = field.default if field.default is not PydanticUndefined else field.default_factory()
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value)


def _kind(schema: Schema) -> str:
    """A JSON schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"`{name}`"
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        return " or ".join(dict.fromkeys(_kind(option) for option in options))
    kind = schema.get("type", "any JSON")
    if kind == "array" and "items" in schema:
        return f"list of {_kind(schema['items'])}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"map to {_kind(schema['additionalProperties'])}"
    return kind + _bounds(schema)


def _bounds(schema: Schema) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    told = [f"{sign} {schema[key]}" for key, sign in signs.items() if key in schema]
    return f" {', '.join(told)}" if told else ""


def _field_notes(model: type[BaseModel]) -> dict[str, str]:
    """The text under each field, those of base classes included."""
    notes: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        if not (issubclass(owner, BaseModel) and owner.__module__.startswith("tinsmith")):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                value = text.value
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    assert isinstance(field.target, ast.Name)
                    notes[field.target.id] = _cell(value.value)
    return notes


# ----------------------------------------------------------------------------------------- SDK


def sdk_page() -> str:
    """Every public method and attribute of the clients, with its signature.

    Blocks are `py`: `python` is for examples, which the tests run.
    """
    lines = ["# The SDK, method by method", "", MADE, "[The SDK](sdk.md) explains it.", ""]
    for name in CLIENTS:
        owner = getattr(tinsmith, name)
        lines += [f"## {name}", "", _first_line(owner), ""]
        signature = _signature(owner, name)
        lines += ["```py", signature, "```", ""]
        for method, value in _public_members(owner):
            if isinstance(value, property):
                lines += [f"- `.{method}`: {_first_line(value)}"]
            else:
                lines += ["", "```py", _signature(value, method), "```", "", _first_line(value)]
        lines.append("")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def _public_members(owner: type) -> list[tuple[str, Any]]:
    members = [(n, inspect.getattr_static(owner, n)) for n in dir(owner) if not n.startswith("_")]
    usable = [
        (name, value.__func__ if isinstance(value, classmethod | staticmethod) else value)
        for name, value in members
    ]
    attributes = [(name, value) for name, value in usable if isinstance(value, property)]
    return attributes + [(name, value) for name, value in usable if inspect.isfunction(value)]


def _signature(value: Any, name: str) -> str:
    """A signature as one reads it in the source, broken into lines where it is long."""
    told = inspect.signature(value)
    parameters = [p for p in told.parameters.values() if p.name not in ("self", "cls")]
    plain = told.replace(parameters=parameters)
    text = _plain(f"{name}{plain}")
    if len(text) <= 100:
        return text
    parts = [_plain(str(told.replace(parameters=[p], return_annotation=told.empty)))[1:-1]
             for p in parameters]  # fmt: skip
    starts_keywords = next((i for i, p in enumerate(parameters) if p.kind is p.KEYWORD_ONLY), None)
    parts = [part.removeprefix("*, ") for part in parts]
    has_star = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if starts_keywords is not None and not has_star:
        parts.insert(starts_keywords, "*")
    given = told.return_annotation
    returns = given if isinstance(given, str) else inspect.formatannotation(given)
    end = ")" if given is told.empty else f") -> {_plain(returns)}"
    return f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + end


def _plain(text: str) -> str:
    text = re.sub(r"'([A-Za-z_][^']*)'", lambda m: m[1] if _is_annotation(m) else m[0], text)
    text = re.sub(r"<object object at 0x[0-9a-f]+>", "...", text)
    return re.sub(r"\btinsmith\.[a-z_.]+\.(?=[A-Z])", "", text)


def _is_annotation(match: re.Match[str]) -> bool:
    """Whether quoted text stands where an annotation does: after a colon or an arrow."""
    return match.string[: match.start()].endswith((": ", "-> "))


# -------------------------------------------------------------------------------------- events


def events_page() -> str:
    """Every event of the catalogue, with its measurements, their units, and other names."""
    specs = [value for value in vars(events).values() if isinstance(value, EventSpec)]
    lines = ["# Events of the recorder", "", MADE, "", *EVENTS_INTRODUCTION, ""]
    lines += ["## Units", "", "| Unit | Is |", "|---|---|"]
    lines += [f"| `{unit}` | {meaning} |" for unit, meaning in UNITS.items()]
    for category in dict.fromkeys(spec.category for spec in specs):
        lines += ["", f"## {category}"]
        for spec in specs:
            if spec.category == category:
                lines += ["", *_event_section(spec)]
    return "\n".join([*lines, ""])


EVENTS_INTRODUCTION = """
A name is `<domain>.<object>` or `<domain>.<object>.<phase>`. A moment is one record; a span is one
record too, written when it ends, with its duration. Beside each span `x.y` there are the moments
`x.y.started` (with `announce=True`) and `x.y.exception`. A measurement with a dimension ends in its
unit. Every event carries run, attempt, rank, step, trace, span and parent ids, wall-clock and
monotonic time.

In Python the constants of `tinsmith.telemetry.events` stand for the names. Events of your own are
made known with `tinsmith.telemetry.register`; one that is not is recorded with a warning, and is an
error where `TINSMITH_RECORD_STRICT=1` is set, as it should be in tests.
""".strip("\n").splitlines()


def _event_section(spec: EventSpec) -> Iterator[str]:
    kind = "span" if spec.is_span else "moment"
    yield from (f"### {spec.name}", "", f"{spec.description} A {kind}, version {spec.version}.")
    if spec.metadata:
        yield from ("", f"Metadata: {', '.join(f'`{name}`' for name in spec.metadata)}.")
    if spec.also_known_as:
        names = ", ".join(f"`{name}`" for name in spec.also_known_as)
        yield from ("", f"In crucible_telemetry and its sister packages: {names}.")
    if spec.measurements:
        yield from ("", "| Measurement | Unit | |", "|---|---|---|")
        for one in spec.measurements:
            yield f"| `{one.name}` | {one.unit} | {one.description} |"


# ------------------------------------------------------------------------------- compatibility


def with_methods(page: str) -> str:
    """The page of compatibility with its table of methods as the tests know it.

    Raises:
        ValueError: the markers are not there.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"compatibility.md: holds no {BEGIN} ... {END}")
    official = json.loads((GOLDEN / "tinker_surface.json").read_text(encoding="utf-8"))
    better = _named_in_first_column(before)
    lines = ["", "| Method | Here | Why |", "|---|---|---|"]
    for owner in CLIENTS:
        for method in official["classes"][owner]["methods"]:
            verdict, why = _verdict(owner, method, better)
            lines.append(f"| `{owner}.{method}` | {verdict} | {why} |")
    return before + begin + "\n".join(lines) + "\n" + end + after


def _verdict(owner: str, method: str, better: set[str]) -> tuple[str, str]:
    groups = json.loads((GOLDEN / "tinker_deviations.json").read_text(encoding="utf-8"))
    place = f"{owner}.{method}"
    for group in groups:
        for listed in group["places"]:
            if listed == place or listed.startswith(f"{place}("):
                kind, colon, reason = group["reason"].partition(": ")
                if not colon:
                    return "absent", group["reason"]
                return ("not public" if kind == "internal there" else kind), reason
    names = {method, method.removesuffix("_async"), place}
    if method == "__init__":
        names = {owner}
    if names & better or (method.startswith("create_") and "create_" in better):
        return "better", "see above"
    return "equal", ""


def _named_in_first_column(page: str) -> set[str]:
    """Methods and classes that the table of what is better names, written as code."""
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("|")]
    return set(re.findall(r"`([A-Za-z_.]+)", "\n".join(cells)))


def _first_line(value: Any) -> str:
    text = inspect.getdoc(value) or ""
    return " ".join(text.partition("\n\n")[0].split())


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
