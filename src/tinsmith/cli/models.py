"""`tinsmith models`: the training runs that a service keeps, and the base models it offers.

A run is named as its model is.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from tinsmith.cli.catalog import open_rest, read_runs, title_of
from tinsmith.cli.lazy import LazyCommand, LazyGroup
from tinsmith.cli.options import accessible_option, base_url_option, json_option, limit_option
from tinsmith.cli.tables import (
    print_json,
    print_properties,
    print_table,
    relative_time,
    yes_or_no,
)
from tinsmith.cli.waiting import waiting_for
from tinsmith.core.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from tinsmith.types import AccessScope, TrainingRun

__all__ = ["COMMANDS", "info", "list_models", "models", "offered"]

COMMANDS = {
    "list": LazyCommand("tinsmith.cli.models:list_models", "List the service's training runs."),
    "info": LazyCommand("tinsmith.cli.models:info", "Say what is known of one training run."),
    "offered": LazyCommand("tinsmith.cli.models:offered", "List the base models on offer."),
}


def lora_text(run: "TrainingRun") -> str:
    """Say a run's rank, where it trains an adapter."""
    if not run.is_lora:
        return "no"
    return "yes" if run.lora_rank is None else f"rank {run.lora_rank}"


def checkpoint_id(run: "TrainingRun") -> str:
    """Say which checkpoint a run would resume from."""
    return run.last_checkpoint.checkpoint_id if run.last_checkpoint else "-"


COLUMNS: dict[str, tuple[str, Callable[["TrainingRun"], str]]] = {
    "id": ("Run", lambda run: run.training_run_id),
    "model": ("Base model", lambda run: run.base_model),
    "owner": ("Owner", lambda run: run.model_owner),
    "lora": ("LoRA", lora_text),
    "updated": ("Updated", lambda run: relative_time(run.last_request_time)),
    "status": ("Status", lambda run: "lost" if run.corrupted else "ok"),
    "checkpoint": ("Checkpoint", checkpoint_id),
    "checkpoint_time": (
        "Saved",
        lambda run: relative_time(run.last_checkpoint.time if run.last_checkpoint else None),
    ),
}
DEFAULT_COLUMNS: str = "id,model,lora,updated,status"


@click.group(cls=LazyGroup, lazy=COMMANDS)
def models() -> None:
    """Look at the service's training runs."""


def parse_columns(text: str) -> list[str]:
    """Return the names of the columns that a person asked for.

    Raises:
        ConfigError: one is unknown.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in COLUMNS:
            error = unknown_name("column", name, COLUMNS, field="columns")
            raise ConfigError(error.message, field="columns", hint=error.hint)
    return names or DEFAULT_COLUMNS.split(",")


@click.command("list")
@limit_option
@click.option(
    "-c",
    "--columns",
    default=DEFAULT_COLUMNS,
    show_default=True,
    metavar="NAMES",
    help=f"What the table shows, of {', '.join(COLUMNS)}.",
)
@click.option("--project-id", metavar="ID", help="Only the runs of a project.")
@accessible_option
@base_url_option
@json_option
def list_models(
    limit: int,
    columns: str,
    project_id: str | None,
    access_scope: "AccessScope",
    base_url: str | None,
    as_json: bool,
) -> None:
    """List the service's training runs."""
    shown = parse_columns(columns)
    with open_rest(base_url) as rest:
        runs = read_runs(rest, limit=limit, access_scope=access_scope, project_id=project_id)
    if as_json:
        print_json(
            {
                "training_runs": [run.model_dump(mode="json") for run in runs.items],
                "total_count": runs.total_count,
            }
        )
        return
    print_table(
        title_of("training run", len(runs.items), runs.total_count),
        [COLUMNS[name][0] for name in shown],
        [[COLUMNS[name][1](run) for name in shown] for run in runs.items],
    )


@click.command("info")
@click.argument("run")
@accessible_option
@base_url_option
@json_option
def info(run: str, access_scope: "AccessScope", base_url: str | None, as_json: bool) -> None:
    """Say what is known of one training run.

    RUN is its id, or the tinker:// address of a checkpoint of it.
    """
    with open_rest(base_url) as rest:
        asked = (
            rest.get_training_run_by_tinker_path(run, access_scope)
            if run.startswith("tinker://")
            else rest.get_training_run(run, access_scope)
        )
        found = asked.result()
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    print_properties(_properties(found))


@click.command()
@click.argument("part", default="")
@base_url_option
@json_option
def offered(part: str, base_url: str | None, as_json: bool) -> None:
    """List the base models on offer.

    With PART only those with this in their names, in upper or lower case.
    """
    with open_rest(base_url) as rest, waiting_for("reading models"):
        supported = rest.get_server_capabilities().result().supported_models
    found = [model for model in supported if part.lower() in (model.model_name or "").lower()]
    if as_json:
        print_json({"models": [model.model_dump(mode="json") for model in found]})
        return
    print_table(
        title_of("base model", len(found), len(found)),
        ("Model", "Context", "Trainable", "Sampleable"),
        [
            (
                model.model_name or "-",
                "-" if model.max_context_length is None else f"{model.max_context_length:,}",
                _known(model.trainable),
                _known(model.sampleable),
            )
            for model in found
        ],
    )


def _known(answer: bool | None) -> str:
    return "-" if answer is None else yes_or_no(answer)


def _properties(run: "TrainingRun") -> list[tuple[str, str]]:
    rows = [
        ("Run", run.training_run_id),
        ("Base model", run.base_model),
        ("Owner", run.model_owner),
        ("LoRA", lora_text(run)),
        ("Updated", f"{relative_time(run.last_request_time)} ({run.last_request_time})"),
        ("Lost", yes_or_no(run.corrupted)),
    ]
    for name, saved in (
        ("Resume from", run.last_checkpoint),
        ("Sample from", run.last_sampler_checkpoint),
    ):
        text = f"{saved.tinker_path} ({relative_time(saved.time)})" if saved else "-"
        rows.append((name, text))
    # Any: the user's own JSON
    metadata: dict[str, Any] = run.user_metadata or {}
    return rows + [(f"metadata {key}", str(value)) for key, value in metadata.items()]
