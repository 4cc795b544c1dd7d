"""`tinsmith regularizers`: which there are, and what they did in a run."""

from pathlib import Path

import click

from tinsmith.cli.lazy import LazyCommand, LazyGroup
from tinsmith.cli.options import json_option
from tinsmith.cli.tables import print_json
from tinsmith.core.errors import DataError

__all__ = ["COMMANDS", "chart", "list_kinds", "regularizers"]

COMMANDS = {
    "list": LazyCommand("tinsmith.cli.regularizers:list_kinds", "List the kinds known here."),
    "chart": LazyCommand(
        "tinsmith.cli.regularizers:chart", "Draw what each term contributed to a run."
    ),
}


@click.group(cls=LazyGroup, lazy=COMMANDS)
def regularizers() -> None:
    """Look at terms of the loss and what they do."""


@click.command("list")
@json_option
def list_kinds(as_json: bool) -> None:
    """List the kinds known here."""
    from tinsmith.regularizers import list_regularizers

    kinds = list_regularizers()
    if as_json:
        print_json({"regularizers": kinds})
    else:
        for kind in kinds:
            print(kind)


@click.command()
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write the page; default: shares.html of the run.",
)
@json_option
def chart(run_dir: Path, out: Path | None, as_json: bool) -> None:
    """Draw what each term contributed to a run.

    RUN_DIR may be of a run that is still going on. With --json the data of the chart is printed and
    no page written.
    """
    from tinsmith.telemetry import read_metrics
    from tinsmith.training.run_dir import RunDir
    from tinsmith.training.share_chart import share_page, share_panels

    run = RunDir(run_dir)
    panels = share_panels(read_metrics(run.metrics))
    if not panels:
        raise DataError(
            f"{run.metrics}: holds no shares of regularizers",
            hint="name the directory of a run with regularizers, once it has done a step",
        )
    if as_json:
        print_json({"panels": [{"title": p.title, "lines": dict(p.lines)} for p in panels]})
        return
    page = out or run.shares
    page.write_text(share_page(panels, f"Run {run.path.name}"), encoding="utf-8")
    print(page)
