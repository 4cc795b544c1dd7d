"""What a service keeps, read for the commands that list and look after it.

Main names: `open_rest`, `read_runs`, `read_checkpoints`, `find_checkpoint`.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from tinsmith.cli.waiting import waiting_for
from tinsmith.core import environment
from tinsmith.core.errors import UserError

if TYPE_CHECKING:
    from tinsmith.client import RestClient
    from tinsmith.types import AccessScope, Checkpoint, Cursor, TrainingRun

__all__ = [
    "Checkpoints",
    "Runs",
    "find_checkpoint",
    "open_rest",
    "read_checkpoints",
    "read_runs",
    "title_of",
]

RUNS_PAGE, CHECKPOINTS_PAGE = 100, 1000

T = TypeVar("T")


class Runs(NamedTuple):
    """The first of the training runs, and how many there are."""

    items: list["TrainingRun"]
    total_count: int


class Checkpoints(NamedTuple):
    """The first of the checkpoints, and how many there are."""

    items: list["Checkpoint"]
    total_count: int


@contextmanager
def open_rest(base_url: str | None) -> Iterator["RestClient"]:
    """A client of the named service, or of the embedded one, closed with the block."""
    from tinsmith.client import RestClient

    with RestClient(base_url=base_url) as rest:
        if (base_url or environment.base_url()) is None:
            with waiting_for("waiting for the service"):  # it may have to be started
                rest.get_server_capabilities().result()
        yield rest


def read_runs(
    rest: "RestClient",
    *,
    limit: int,
    access_scope: "AccessScope" = "owned",
    project_id: str | None = None,
) -> Runs:
    """Read training runs, the one last worked on first; a limit of 0 reads all."""

    def page(size: int, offset: int) -> tuple[Sequence["TrainingRun"], "Cursor | None"]:
        answer = rest.list_training_runs(size, offset, access_scope, project_id).result()
        return answer.training_runs, answer.cursor

    with waiting_for("reading training runs"):
        items, total_count = _read(page, limit=limit, page_size=RUNS_PAGE)
    return Runs(items, total_count)


def read_checkpoints(
    rest: "RestClient", *, limit: int = 0, run_id: str | None = None
) -> Checkpoints:
    """Read checkpoints, newest first: those of a run, or of all; a limit of 0 reads all."""
    with waiting_for("reading checkpoints"):
        if run_id is not None:
            found = rest.list_checkpoints(run_id).result().checkpoints
            found = sorted(found, key=lambda checkpoint: checkpoint.time, reverse=True)
            return Checkpoints(found[:limit] if limit else found, len(found))

        def page(size: int, offset: int) -> tuple[Sequence["Checkpoint"], "Cursor | None"]:
            answer = rest.list_user_checkpoints(size, offset).result()
            return answer.checkpoints, answer.cursor

        items, total_count = _read(page, limit=limit, page_size=CHECKPOINTS_PAGE)
    return Checkpoints(items, total_count)


def find_checkpoint(rest: "RestClient", tinker_path: str) -> "Checkpoint":
    """Return the checkpoint of an address.

    Raises:
        UserError: its run has none of that name.
    """
    from tinsmith.types import ParsedCheckpointTinkerPath

    run_id = ParsedCheckpointTinkerPath.from_tinker_path(tinker_path).training_run_id
    for checkpoint in read_checkpoints(rest, run_id=run_id).items:
        if checkpoint.tinker_path == tinker_path:
            return checkpoint
    raise UserError(
        f"path={tinker_path!r}: the run has no such checkpoint",
        field="path",
        hint=f"tinsmith checkpoints list --run-id {run_id}",
    )


def title_of(noun: str, num_shown: int, total_count: int) -> str:
    """Say how many there are, and how to see those that are not shown."""
    title = f"{num_shown} {noun}{'' if num_shown == 1 else 's'}"
    num_hidden = total_count - num_shown
    return title if num_hidden <= 0 else f"{title} ({num_hidden} more not shown; --limit 0: all)"


def _read(
    page: Callable[[int, int], tuple[Sequence[T], "Cursor | None"]], *, limit: int, page_size: int
) -> tuple[list[T], int]:
    items: list[T] = []
    while True:
        wanted = min(page_size, limit - len(items)) if limit else page_size
        found, cursor = page(wanted, len(items))
        items += itertools.islice(found, wanted)
        total_count = max(cursor.total_count, len(items)) if cursor else len(items)
        is_last = len(items) >= total_count if cursor else len(found) < wanted
        if not found or is_last or (limit and len(items) >= limit):
            return items, total_count
