"""`tinsmith runs list`."""

import click

from tinsmith.cli.options import json_option, limit_option
from tinsmith.cli.runs.choosing import opened_store, short_id, store_option
from tinsmith.cli.runs.views import moment, progress_words, to_json
from tinsmith.cli.tables import print_json, print_table, relative_time

__all__ = ["list_runs"]

STATUSES = ["created", "running", "paused", "finished", "failed", "crashed", "archived"]


@click.command("list")
@click.option("--project", help="Only runs of this project.")
@click.option("--group", help="Only runs of this group.")
@click.option("--name", help="Only runs of this name.")
@click.option("--status", type=click.Choice(STATUSES), help="Only runs in this state.")
@click.option("--tag", "tags", multiple=True, help="Only runs with this tag; may be repeated.")
@limit_option
@store_option
@json_option
def list_runs(
    project: str | None,
    group: str | None,
    name: str | None,
    status: str | None,
    tags: tuple[str, ...],
    limit: int,
    store: str | None,
    as_json: bool,
) -> None:
    """List recorded runs, the newest first."""
    from tinsmith.telemetry.model import RunFilter, RunStatus, run_times

    where = RunFilter(
        project=project,
        group=group,
        name=name,
        status=None if status is None else RunStatus(status),
        tags=tags,
        limit=limit + 1 if limit else None,
    )
    with opened_store(store) as opened:
        found = opened.list_runs(where)
        is_cut = bool(limit) and len(found) > limit
        found = found[:limit] if limit else found
        if as_json:
            print_json({"runs": [to_json(run) for run in found], "is_cut": is_cut})
            return
        rows = [
            (
                short_id(run.run_id),
                run.name,
                run.project,
                run.group or "-",
                progress_words(
                    run, opened.attempts(run.run_id), run_times(opened.intervals(run.run_id))
                ),
                relative_time(moment(run.created_ns)),
                ", ".join(run.tags) or "-",
            )
            for run in found
        ]
    title = f"{len(found)} run{'' if len(found) == 1 else 's'}"
    print_table(
        f"{title} (more not shown; --limit 0: all)" if is_cut else title,
        ("Run", "Name", "Project", "Group", "State", "Created", "Tags"),
        rows,
    )
