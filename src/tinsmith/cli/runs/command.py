"""`tinsmith runs`: the table of its commands."""

import click

from tinsmith.cli.lazy import LazyCommand, LazyGroup

__all__ = ["COMMANDS", "runs"]

COMMANDS = {
    "list": LazyCommand("tinsmith.cli.runs.listing:list_runs", "List recorded runs."),
    "show": LazyCommand("tinsmith.cli.runs.show:show", "Show one run: state, metrics, a chart."),
    "tail": LazyCommand("tinsmith.cli.runs.tail:tail", "Follow a run as it is recorded."),
    "diff": LazyCommand("tinsmith.cli.runs.diff:diff", "Say in what two runs differ."),
    "query": LazyCommand("tinsmith.cli.runs.query:query_runs", "Ask recorded runs by SQL."),
    "seal": LazyCommand("tinsmith.cli.runs.seal:seal", "Copy ended runs to Parquet files."),
    "export": LazyCommand(
        "tinsmith.cli.runs.exchange:export", "Write a run as CSV, JSONL or Parquet."
    ),
    "import": LazyCommand(
        "tinsmith.cli.runs.exchange:import_runs", "Read runs of this and other recorders."
    ),
    "convert": LazyCommand(
        "tinsmith.cli.runs.exchange:convert_table", "Convert a table: CSV, JSONL, Parquet."
    ),
}


@click.group(cls=LazyGroup, lazy=COMMANDS)
def runs() -> None:
    """Look at recorded runs.

    RUN is a run's id, a part of it, a run's name (the newest of that name), or `latest`.
    """
