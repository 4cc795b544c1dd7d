"""`tinsmith renderers`: which there are, what they make of a conversation, and whether exactly."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tinsmith.cli.lazy import LazyCommand, LazyGroup
from tinsmith.cli.options import json_option
from tinsmith.cli.tables import print_json, print_table
from tinsmith.core.errors import DataError

if TYPE_CHECKING:
    from tinsmith.renderers import Renderer
    from tinsmith.renderers.verification import Comparison, Verification

__all__ = ["COMMANDS", "list_names", "renderers", "show", "verify"]

COMMANDS = {
    "list": LazyCommand("tinsmith.cli.renderers:list_names", "List the chat formats known here."),
    "show": LazyCommand(
        "tinsmith.cli.renderers:show", "Show a conversation's tokens and which are trained."
    ),
    "verify": LazyCommand(
        "tinsmith.cli.renderers:verify", "Compare a renderer with a model's own chat template."
    ),
}


@click.group(cls=LazyGroup, lazy=COMMANDS)
def renderers() -> None:
    """Look at how conversations become tokens."""


@click.command("list")
@json_option
def list_names(as_json: bool) -> None:
    """List the chat formats known here."""
    from tinsmith.renderers.registry import describe_renderers

    rows = describe_renderers()
    if as_json:
        print_json({"renderers": [{"name": row.name, "about": row.about} for row in rows]})
    else:
        print_table(f"{len(rows)} renderers", ("Name", "For"), rows)


model_argument = click.argument("model")
renderer_option = click.option(
    "--renderer", metavar="NAME", help="A name of `renderers list`; default: the one that fits."
)
option_option = click.option(
    "--option",
    "options",
    multiple=True,
    metavar="NAME=VALUE",
    help="An option of the renderer, such as date=today; may be repeated.",
)
revision_option = click.option(
    "--revision", metavar="REV", help="Branch, tag or commit of the model on the Hub."
)


@click.command()
@model_argument
@renderer_option
@option_option
@revision_option
@click.option(
    "--template-option",
    "template_options",
    multiple=True,
    metavar="NAME=VALUE",
    help="A variable of the template, such as enable_thinking=false; may be repeated.",
)
@json_option
def verify(
    model: str,
    renderer: str | None,
    options: tuple[str, ...],
    revision: str | None,
    template_options: tuple[str, ...],
    as_json: bool,
) -> None:
    """Compare a renderer with a model's own chat template.

    MODEL is a folder or a Hub name. Every conversation of a built-in battery is rendered by both,
    as a prompt and as a whole; exit status 1 where any token differs.
    """
    from tinsmith.renderers import get_tokenizer
    from tinsmith.renderers.verification import require_template, verify_renderer

    require_template(get_tokenizer(model, revision=revision))
    chosen = _open(model, renderer, revision, {"special_text": "control", **_values(options)})
    result = verify_renderer(chosen, template_options=_values(template_options))
    if as_json:
        print_json(_as_json(result))
    else:
        _print_verification(model, result)
    if not result.is_proved:
        click.get_current_context().exit(1)


@click.command()
@model_argument
@renderer_option
@option_option
@revision_option
@click.option(
    "--data",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help='JSON or JSONL with "messages" and perhaps "tools"; default: a small conversation.',
)
@click.option("--line", type=click.IntRange(1), default=1, help="Line of a JSONL file.")
@click.option(
    "--train-on-what",
    default="all_assistant_messages",
    show_default=True,
    metavar="WHAT",
    help="Which messages carry loss weight.",
)
@json_option
def show(
    model: str,
    renderer: str | None,
    options: tuple[str, ...],
    revision: str | None,
    data: Path | None,
    line: int,
    train_on_what: str,
    as_json: bool,
) -> None:
    """Show a conversation's tokens and which are trained.

    Token boundaries are bars; trained tokens stand in colour, or between « and » where the output
    is no terminal.
    """
    from tinsmith.cli.token_view import print_tokens, token_rows
    from tinsmith.data.rows import row_error
    from tinsmith.renderers import RendererError

    chosen = _open(model, renderer, revision, _values(options))
    what = _what(train_on_what)
    messages, tools = _conversation(data, line)
    try:
        example = chosen.build_supervised_example(messages, what, tools=tools)
    except RendererError as error:
        if data is None:
            raise
        raise row_error(str(data), line, error.message, error.hint) from error
    rows = token_rows(chosen.tokenizer, example)
    if as_json:
        print_json({"renderer": chosen.name, "tokens": [row._asdict() for row in rows]})
    else:
        print_tokens(chosen.name, rows)


def _open(
    model: str, name: str | None, revision: str | None, options: dict[str, Any]
) -> "Renderer":
    from tinsmith.renderers import get_renderer, get_tokenizer, recommended_renderer

    tokenizer = get_tokenizer(model, revision=revision)
    return get_renderer(name or recommended_renderer(model, tokenizer), tokenizer, **options)


def _what(name: str) -> Any:
    from tinsmith.core.errors import unknown_name
    from tinsmith.renderers import TrainOnWhat

    if name not in list(TrainOnWhat):
        raise unknown_name("train_on_what", name, list(TrainOnWhat), field="train_on_what")
    return TrainOnWhat(name)


def _values(pairs: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` pairs; a value is JSON where it is JSON, and text otherwise."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{pair!r}: must be NAME=VALUE")
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    return values


def _conversation(path: Path | None, line: int) -> tuple[list[Any], list[Any]]:
    if path is None:
        from tinsmith.renderers.verification import battery

        chat = next(chat for chat in battery() if chat.name == "system and turns")
        return chat.messages, []
    from tinsmith.data.conversations import conversation_parser
    from tinsmith.data.rows import read_row

    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", hint="check the path") from error
    if path.suffix == ".jsonl":
        lines = raw.removesuffix(b"\n").split(b"\n")
        if line > len(lines):
            raise DataError(f"{path}: has {len(lines)} lines, --line {line} is none of them")
        raw = lines[line - 1]
    parse = conversation_parser(require_assistant=False)

    def parse_any(value: Any, name: str, place: int) -> Any:  # a list is the messages themselves
        return parse({"messages": value} if isinstance(value, list) else value, name, place)

    found = read_row(raw, str(path), line, parse_any)
    return list(found.messages), list(found.tools)


# ----------------------------------------------------------------------------- verification


def _as_json(result: "Verification") -> dict[str, Any]:
    return {
        "renderer": result.renderer,
        "is_proved": result.is_proved,
        "counts": {verdict.value: number for verdict, number in result.counts.items()},
        "num_tokens": sum(c.num_tokens for c in result.comparisons),
        "comparisons": [
            {
                "conversation": c.name,
                "opens_reply": c.opens_reply,
                "verdict": c.verdict.value,
                "first_difference": c.first_difference,
                "ours": c.ours,
                "template": c.theirs,
            }
            for c in result.comparisons
        ],
    }


def _print_verification(model: str, result: "Verification") -> None:
    from tinsmith.renderers.verification import Verdict

    for comparison in result.comparisons:
        form = "prompt" if comparison.opens_reply else "whole"
        if comparison.verdict is Verdict.DIFFERENT:
            _print_difference(comparison, form)
        elif comparison.verdict is Verdict.RENDERER_REFUSES:
            click.echo(f"refused    {comparison.name} ({form}): {comparison.ours}")
    counts = ", ".join(f"{number} {verdict.value}" for verdict, number in result.counts.items())
    num_tokens = sum(c.num_tokens for c in result.comparisons)
    click.echo(f"{result.renderer} on {model}: {counts}; {num_tokens} tokens compared")


def _print_difference(comparison: "Comparison", form: str) -> None:
    click.secho(f"different  {comparison.name} ({form})", fg="red", bold=True)
    place = _first_difference(comparison.ours, comparison.theirs)
    if place is None:
        click.echo(
            f"  the texts are equal, the tokens differ from token {comparison.first_difference} on"
        )
        place = 0
    start = max(0, place - 40)
    for who, text in (("renderer", comparison.ours), ("template", comparison.theirs)):
        before, after = text[start:place], text[place : place + 60]
        dots = "..." if start else ""
        mark = click.style(repr(after)[1:-1], fg="red")
        click.echo(f"  {who}: {dots}{repr(before)[1:-1]}>>>{mark}")


def _first_difference(ours: str, theirs: str) -> int | None:
    for place, (mine, other) in enumerate(zip(ours, theirs, strict=False)):
        if mine != other:
            return place
    return None if len(ours) == len(theirs) else min(len(ours), len(theirs))
