"""`tinsmith data`: look at training data before it is trained on."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from tinsmith.cli.lazy import LazyCommand, LazyGroup
from tinsmith.cli.options import json_option, renderer_option
from tinsmith.cli.tables import print_json, print_properties, safe_text

if TYPE_CHECKING:
    from tinsmith.data.report import DataReport

__all__ = ["COMMANDS", "check", "data"]

COMMANDS = {
    "check": LazyCommand("tinsmith.cli.data:check", "Examine conversations, row by row."),
}
BAR_WIDTH = 40
PROBLEMS_SHOWN = 20


@click.group(cls=LazyGroup, lazy=COMMANDS)
def data() -> None:
    """Look at training data."""


@click.command()
@click.argument("source", metavar="DATA")
@click.option(
    "-m",
    "--model",
    default="tinsmith/tiny",
    show_default=True,
    help="The base model whose tokens count.",
)
@renderer_option
@click.option(
    "--train-on-what",
    default="all_assistant_messages",
    show_default=True,
    help="Messages that carry loss weight.",
)
@click.option(
    "--max-length", type=click.IntRange(2), default=2048, show_default=True, help="In tokens."
)
@json_option
def check(
    source: str,
    model: str,
    renderer: str | None,
    train_on_what: str,
    max_length: int,
    as_json: bool,
) -> int:
    """Examine conversations, row by row.

    DATA is a file (JSONL, Parquet) or a data set (hf:NAME). The exit code is 1 if a row cannot be
    trained on.
    """
    report = _examine(source, model, renderer, train_on_what, max_length)
    if as_json:
        print_json(_json(report))
    else:
        _print(report)
    return 1 if report.num_problems else 0


def _examine(
    source: str, model: str, renderer: str | None, train_on_what: str, max_length: int
) -> "DataReport":
    from tinsmith.core.errors import DataError, unknown_name
    from tinsmith.data import open_conversations
    from tinsmith.data.report import examine
    from tinsmith.data.supervised import ExampleFormat
    from tinsmith.renderers import (
        TrainOnWhat,
        get_renderer,
        get_tokenizer,
        recommended_renderer,
    )

    known = [what.value for what in TrainOnWhat]
    if train_on_what not in known:
        raise unknown_name("train_on_what", train_on_what, known)
    what = TrainOnWhat(train_on_what)
    tokenizer = get_tokenizer(model)
    name = renderer or recommended_renderer(model, tokenizer)
    form = ExampleFormat(get_renderer(name, tokenizer), what, max_length)
    problems: list[DataError] = []
    conversations = open_conversations(
        source, require_assistant="assistant" in what.value, problems=problems
    )
    return examine(conversations, form, problems)


def _json(report: "DataReport") -> dict[str, Any]:
    values = asdict(report)
    values["lengths"] = [bin_._asdict() for bin_ in report.lengths]
    values["examples"] = [
        {"line": example.line, "pieces": [piece._asdict() for piece in example.pieces]}
        for example in report.examples
    ]
    values["problems"] = [
        {"file": error.file, "line": error.line, "message": error.message, "hint": error.hint}
        for error in report.problems
    ]
    return values


def _print(report: "DataReport") -> None:
    share = report.num_loss_tokens / max(report.num_tokens, 1)
    roles = ", ".join(f"{count:,} {role}" for role, count in report.messages_by_role.items())
    print_properties(
        [
            ("renderer", report.renderer),
            ("conversations", f"{report.num_conversations:,}"),
            ("problems", f"{report.num_problems:,}"),
            ("repeats", f"{report.num_repeats:,}"),
            ("with tools", f"{report.num_with_tools:,}"),
            ("messages", roles or "none"),
            ("tokens", f"{report.num_tokens:,}"),
            ("trained", f"{report.num_loss_tokens:,} ({share:.1%})"),
            ("without loss", f"{report.num_without_loss:,}"),
            ("too long", _too_long(report)),
        ]
    )
    _print_lengths(report)
    for example in report.examples:
        _print_example(example)
    for error in report.problems[:PROBLEMS_SHOWN]:
        print(f"\n{safe_text(error.message)}\n  {safe_text(error.hint or '')}")
    hidden = report.num_problems - PROBLEMS_SHOWN
    if hidden > 0:
        print(f"\n{hidden:,} more problems; --json lists all")


def _too_long(report: "DataReport") -> str:
    if not report.num_too_long:
        return f"0 (max_length {report.max_length:,})"
    return (
        f"{report.num_too_long:,} (max_length {report.max_length:,}): cutting them loses "
        f"{report.num_tokens_beyond:,} tokens, {report.num_loss_tokens_beyond:,} of them trained"
    )


def _print_lengths(report: "DataReport") -> None:
    if not report.lengths:
        return
    found = report.length_percentiles
    print(
        f"\nlength in tokens: {found['p0']} to {found['p100']}, median {found['p50']}, "
        f"90% up to {found['p90']}, 99% up to {found['p99']}"
    )
    most = max(bin_.num_conversations for bin_ in report.lengths)
    width = len(f"{report.lengths[-1].end - 1:,}")
    for bin_ in report.lengths:
        bar = "█" * round(BAR_WIDTH * bin_.num_conversations / most)
        span = f"{bin_.start:>{width},} - {bin_.end - 1:<{width},}"
        print(f"{span} {bin_.num_conversations:>7,} {bar}".rstrip())


def _print_example(example: Any) -> None:
    """Trained text between «» and, on a terminal, in green."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)
    text = Text()
    for piece in example.pieces:
        shown = "\n".join(map(safe_text, piece.text.split("\n")))
        text.append(
            f"«{shown}»" if piece.is_trained else shown, "green" if piece.is_trained else ""
        )
    console.print(Text(f"\nrow {example.line}, what is trained between «»:", "bold"))
    console.print(text, soft_wrap=True)
