"""`tinsmith checkpoints delete`: the named ones, or those that a filter finds, after a question."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import click

from tinsmith.cli.asking import is_confirmed, require_terminal
from tinsmith.cli.catalog import open_rest, read_checkpoints
from tinsmith.cli.options import base_url_option, json_option
from tinsmith.cli.tables import print_json, relative_time, safe_text, size_text
from tinsmith.cli.waiting import waiting_for
from tinsmith.core.errors import ConfigError, TinsmithError

if TYPE_CHECKING:
    from tinsmith.client import RestClient
    from tinsmith.types import Checkpoint

__all__ = ["Filter", "delete", "parse_date"]

NUM_PARALLEL = 32
NUM_LISTED = 20
"""Checkpoints that the question names; of the others it says the number."""
TYPES = {
    "weights": "training",
    "training": "training",
    "sampler_weights": "sampler",
    "sampler": "sampler",
    "external_weights": "external",
    "external": "external",
}


class Filter(NamedTuple):
    """Which checkpoints are meant where none is named."""

    run_id: str | None = None
    checkpoint_type: str | None = None
    before: datetime | None = None
    after: datetime | None = None

    @property
    def is_empty(self) -> bool:
        return self == Filter()

    def matches(self, checkpoint: "Checkpoint") -> bool:
        """Whether a checkpoint of the right run is meant."""
        saved = checkpoint.time
        saved = saved if saved.tzinfo is not None else saved.replace(tzinfo=UTC)
        return (
            self.checkpoint_type in (None, checkpoint.checkpoint_type)
            and (self.before is None or saved < self.before)
            and (self.after is None or saved >= self.after)
        )


class Doomed(NamedTuple):
    """What is to be deleted, with what the service says of it."""

    path: str
    checkpoint: "Checkpoint | None"


@click.command("delete")
@click.argument("paths", nargs=-1)
@click.option("--run-id", metavar="RUN", help="Those of a training run.")
@click.option(
    "--type",
    "kind",
    type=click.Choice(list(TYPES)),
    metavar="TYPE",
    help="Those of a type: training, sampler or external.",
)
@click.option("--before", metavar="DATE", help="Those saved before a day or time (ISO 8601, UTC).")
@click.option("--after", metavar="DATE", help="Those saved at or after it.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@base_url_option
@json_option
def delete(
    paths: tuple[str, ...],
    run_id: str | None,
    kind: str | None,
    before: str | None,
    after: str | None,
    yes: bool,
    base_url: str | None,
    as_json: bool,
) -> int:
    """Delete checkpoints.

    PATHS are tinker:// addresses; without any, the filters say which are meant, and all of them
    must hold. Asks before anything is deleted.
    """
    wanted = Filter(
        run_id,
        TYPES[kind] if kind else None,
        parse_date("before", before),
        parse_date("after", after),
    )
    if bool(paths) != wanted.is_empty:
        raise click.UsageError("give either addresses or filters (--run-id, --type, ...)")
    with open_rest(base_url) as rest:
        doomed = _named(rest, paths, is_told=not yes) if paths else _found(rest, wanted)
        if doomed and not yes and not _is_confirmed(doomed):
            print("nothing was deleted", file=sys.stderr)
            return 1
        failed = _delete(rest, [each.path for each in doomed])
    num_deleted = len(doomed) - len(failed)
    if as_json:
        told = [{"tinker_path": path, "error": message} for path, message in failed]
        print_json({"deleted_count": num_deleted, "failed": told})
    else:
        print(f"deleted {_count(num_deleted)}")
        for path, message in failed:
            print(f"error: {path}: {safe_text(message)}", file=sys.stderr)
    return 1 if failed else 0


def parse_date(field: str, text: str | None) -> datetime | None:
    """Return the moment of a text such as `2026-11-21` or `2026-11-21T08:30`; UTC unless it says.

    Raises:
        ConfigError: it is no date.
    """
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(
            f"{field}={text!r}: must be a date in the form of ISO 8601",
            field=field,
            hint="try 2026-11-21 or 2026-11-21T08:30",
        ) from error
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _named(rest: "RestClient", paths: Sequence[str], *, is_told: bool) -> list[Doomed]:
    """Check every address before anything is deleted; for the question, look the sizes up too."""
    from tinsmith.types import ParsedCheckpointTinkerPath

    parsed = [ParsedCheckpointTinkerPath.from_tinker_path(path) for path in dict.fromkeys(paths)]
    known: dict[str, Checkpoint] = {}
    if is_told:
        for run_id in dict.fromkeys(each.training_run_id for each in parsed):
            for checkpoint in read_checkpoints(rest, run_id=run_id).items:
                known[checkpoint.tinker_path] = checkpoint
    return [Doomed(each.tinker_path, known.get(each.tinker_path)) for each in parsed]


def _found(rest: "RestClient", wanted: Filter) -> list[Doomed]:
    found = read_checkpoints(rest, run_id=wanted.run_id).items
    return [Doomed(each.tinker_path, each) for each in found if wanted.matches(each)]


def _is_confirmed(doomed: Sequence[Doomed]) -> bool:
    """Ask on stderr, where there is somebody to answer.

    Raises:
        UserError: there is nobody.
    """
    what = f"{_count(len(doomed))} would be deleted"
    require_terminal(what)  # before the list: it leads up to the question
    for path, checkpoint in doomed[:NUM_LISTED]:
        details = (
            f"{size_text(checkpoint.size_bytes)}, {relative_time(checkpoint.time)}"
            if checkpoint
            else "unknown to the service"
        )
        print(f"  {safe_text(path)} ({details})", file=sys.stderr)
    if len(doomed) > NUM_LISTED:
        print(f"  and {len(doomed) - NUM_LISTED} more", file=sys.stderr)
    sizes = [each.checkpoint.size_bytes or 0 for each in doomed if each.checkpoint]
    question = f"Delete {_count(len(doomed))}, {size_text(sum(sizes))}? This cannot be undone."
    return is_confirmed(question, what=what)


def _delete(rest: "RestClient", paths: Sequence[str]) -> list[tuple[str, str]]:
    """Delete side by side; gives what failed, and why."""
    failed = []
    with waiting_for(f"deleting {_count(len(paths))}"):
        for start in range(0, len(paths), NUM_PARALLEL):
            batch = paths[start : start + NUM_PARALLEL]
            for path, future in [
                (path, rest.delete_checkpoint_from_tinker_path(path)) for path in batch
            ]:
                try:
                    future.result()
                except TinsmithError as error:
                    failed.append((path, error.message))
    return failed


def _count(number: int) -> str:
    return f"{number} checkpoint{'' if number == 1 else 's'}"
