"""`tinsmith checkpoints`: look at saved weights, share them, and say how long they are kept."""

import re
from typing import TYPE_CHECKING

import click

from tinsmith.cli.catalog import find_checkpoint, open_rest, read_checkpoints, title_of
from tinsmith.cli.lazy import LazyCommand, LazyGroup
from tinsmith.cli.options import base_url_option, json_option, limit_option
from tinsmith.cli.tables import (
    print_json,
    print_properties,
    print_table,
    relative_time,
    size_text,
    yes_or_no,
)
from tinsmith.core.errors import ConfigError

if TYPE_CHECKING:
    from tinsmith.types import Checkpoint, WeightsInfoResponse

__all__ = ["COMMANDS", "checkpoints", "parse_duration_s"]

COMMANDS = {
    "list": LazyCommand("tinsmith.cli.checkpoints:list_checkpoints", "List checkpoints."),
    "info": LazyCommand("tinsmith.cli.checkpoints:info", "Say what a checkpoint holds."),
    "download": LazyCommand(
        "tinsmith.cli.checkpoints_download:download", "Fetch a checkpoint's files."
    ),
    "export": LazyCommand(
        "tinsmith.cli.checkpoints_export:export", "Write a checkpoint's weights for use elsewhere."
    ),
    "push-hf": LazyCommand(
        "tinsmith.cli.checkpoints_push:push_hf",
        "Put a checkpoint's adapter on the Hugging Face Hub.",
    ),
    "publish": LazyCommand(
        "tinsmith.cli.checkpoints:publish", "Let other accounts load a checkpoint."
    ),
    "unpublish": LazyCommand(
        "tinsmith.cli.checkpoints:unpublish", "Take a checkpoint back from other accounts."
    ),
    "ttl": LazyCommand("tinsmith.cli.checkpoints:ttl", "Say how long a checkpoint is kept."),
    "delete": LazyCommand("tinsmith.cli.checkpoints_delete:delete", "Delete checkpoints."),
}

UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


@click.group(cls=LazyGroup, lazy=COMMANDS)
def checkpoints() -> None:
    """Look after saved weights."""


@click.command("list")
@click.option("--run-id", metavar="RUN", help="Only the checkpoints of a training run.")
@limit_option
@base_url_option
@json_option
def list_checkpoints(run_id: str | None, limit: int, base_url: str | None, as_json: bool) -> None:
    """List checkpoints, newest first."""
    with open_rest(base_url) as rest:
        found = read_checkpoints(rest, limit=limit, run_id=run_id)
    if as_json:
        of_run = {} if run_id is None else {"run_id": run_id}
        rows = [checkpoint.model_dump(mode="json") for checkpoint in found.items]
        print_json({**of_run, "checkpoints": rows, "total_count": found.total_count})
        return
    print_table(
        title_of("checkpoint", len(found.items), found.total_count),
        ("Checkpoint", "Type", "Size", "Public", "Created", "Expires", "Path"),
        [_row(checkpoint) for checkpoint in found.items],
    )


@click.command("info")
@click.argument("path")
@base_url_option
@json_option
def info(path: str, base_url: str | None, as_json: bool) -> None:
    """Say what a checkpoint holds.

    PATH is its tinker:// address.
    """
    with open_rest(base_url) as rest:
        checkpoint = find_checkpoint(rest, path)
        weights = rest.get_weights_info_by_tinker_path(path).result()
    if as_json:
        print_json({**checkpoint.model_dump(mode="json"), **weights.model_dump(mode="json")})
        return
    print_properties(_properties(checkpoint, weights))


@click.command("publish")
@click.argument("path")
@base_url_option
def publish(path: str, base_url: str | None) -> None:
    """Let other accounts load a checkpoint.

    One that is public already stays so.
    """
    with open_rest(base_url) as rest:
        rest.publish_checkpoint_from_tinker_path(path).result()


@click.command("unpublish")
@click.argument("path")
@base_url_option
def unpublish(path: str, base_url: str | None) -> None:
    """Take a checkpoint back from other accounts."""
    with open_rest(base_url) as rest:
        rest.unpublish_checkpoint_from_tinker_path(path).result()


@click.command("ttl")
@click.argument("path")
@click.option("--ttl", "text", metavar="TIME", help="From now: seconds, or as in 90m, 12h, 7d, 2w.")
@click.option("--remove", is_flag=True, help="Keep it for good.")
@base_url_option
def ttl(path: str, text: str | None, remove: bool, base_url: str | None) -> None:
    """Say how long a checkpoint is kept."""
    if (text is None) != remove:
        raise click.UsageError("give either --ttl TIME or --remove")
    seconds = None if text is None else parse_duration_s(text)
    with open_rest(base_url) as rest:
        rest.set_checkpoint_ttl_from_tinker_path(path, seconds).result()


def parse_duration_s(text: str) -> int:
    """Return the seconds of a text such as `3600` or `7d`.

    Raises:
        ConfigError: it is no such text, or zero.
    """
    found = re.fullmatch(r"([0-9]{1,12})([smhdw]?)", text.strip().lower())
    seconds = int(found[1]) * UNITS_S[found[2] or "s"] if found else 0
    if seconds == 0:
        raise ConfigError(
            f"ttl={text!r}: must be a number of seconds above 0, or of minutes, hours, days, weeks",
            field="ttl",
            hint="try 3600, 90m, 12h, 7d or 2w; --remove keeps the checkpoint",
        )
    return seconds


def _row(checkpoint: "Checkpoint") -> tuple[str, ...]:
    return (
        checkpoint.checkpoint_id,
        checkpoint.checkpoint_type,
        size_text(checkpoint.size_bytes),
        yes_or_no(checkpoint.public),
        relative_time(checkpoint.time),
        _expiry(checkpoint),
        checkpoint.tinker_path,
    )


def _expiry(checkpoint: "Checkpoint") -> str:
    return "never" if checkpoint.expires_at is None else relative_time(checkpoint.expires_at)


def _properties(checkpoint: "Checkpoint", weights: "WeightsInfoResponse") -> list[tuple[str, str]]:
    parts = {
        "attention": weights.train_attn,
        "MLP": weights.train_mlp,
        "unembedding": weights.train_unembed,
    }
    trained = [name for name, is_trained in parts.items() if is_trained]
    rows = [
        ("Path", checkpoint.tinker_path),
        ("Type", checkpoint.checkpoint_type),
        ("Base model", weights.base_model),
        ("LoRA rank", "-" if weights.lora_rank is None else str(weights.lora_rank)),
        ("Trained", ", ".join(trained) or "-"),
        ("Size", size_text(checkpoint.size_bytes)),
        ("Public", yes_or_no(checkpoint.public)),
        ("Created", f"{relative_time(checkpoint.time)} ({checkpoint.time})"),
        ("Expires", _expiry(checkpoint)),
    ]
    metadata = checkpoint.user_metadata or {}
    return rows + [(f"metadata {key}", str(value)) for key, value in metadata.items()]
