"""`tinsmith checkpoints download`: a checkpoint's files, in a directory named after it."""

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tinsmith.cli.catalog import open_rest
from tinsmith.cli.options import base_url_option, json_option
from tinsmith.cli.tables import print_json, size_text
from tinsmith.core.errors import AlreadyExistsError

if TYPE_CHECKING:
    from tinsmith.client import RestClient
    from tinsmith.client.downloads import Download, Progress

__all__ = ["directory_name", "download", "fetch_archive"]

GIB = 2**30


@click.command("download")
@click.argument("path")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    metavar="DIR",
    help="Where the checkpoint's directory is made; default: here.",
)
@click.option("--force", is_flag=True, help="Replace the directory if it is there.")
@click.option(
    "--max-gib",
    type=click.FloatRange(0, min_open=True),
    default=100.0,
    show_default=True,
    help="Refuse what is larger.",
)
@base_url_option
@json_option
def download(
    path: str, output: Path, force: bool, max_gib: float, base_url: str | None, as_json: bool
) -> None:
    """Fetch a checkpoint's files.

    PATH is its tinker:// address. The directory is named after it and appears when all files are
    there; a download that fails leaves nothing behind.
    """
    directory = output.expanduser() / directory_name(path)
    with open_rest(base_url) as rest:
        done = fetch_archive(rest, path, directory, overwrite=force, max_bytes=int(max_gib * GIB))
    if as_json:
        print_json(
            {
                "checkpoint_path": path,
                "destination": str(directory.resolve()),
                "file_size_bytes": done.file_bytes,
            }
        )
        return
    print(f"{directory} ({size_text(done.file_bytes)})")


def directory_name(tinker_path: str) -> str:
    """Return the name of the directory that a checkpoint is fetched into.

    Example:
        >>> directory_name("tinker://7c1e:train:0/weights/step-10")
        '7c1e_train_0_weights_step-10'

    Raises:
        UserError: it is no checkpoint's address.
    """
    from tinsmith.types import ParsedCheckpointTinkerPath

    parsed = ParsedCheckpointTinkerPath.from_tinker_path(tinker_path)
    # A colon is no letter of a file name on Windows, and says "another machine" to scp.
    name = re.sub(r"[^\w.-]", "_", f"{parsed.training_run_id}_{parsed.checkpoint_id}")
    return name.lstrip(".") or "checkpoint"


def fetch_archive(
    rest: "RestClient", path: str, directory: Path, *, overwrite: bool, max_bytes: int
) -> "Download":
    """Fetch a checkpoint's archive into a new directory, with progress on a terminal."""
    from tinsmith.client.archives import ArchiveLimits
    from tinsmith.client.downloads import download_checkpoint

    def find_link() -> str:
        return rest.get_checkpoint_archive_url_from_tinker_path(path).result().url

    try:
        with progress_shown(directory.name) as progress:
            return download_checkpoint(
                find_link,
                directory,
                overwrite=overwrite,
                limits=ArchiveLimits(max_bytes=max_bytes),
                progress=progress,
            )
    except AlreadyExistsError as error:
        error.hint = f"--force replaces it; --output puts {shlex.quote(directory.name)} elsewhere"
        raise


@contextmanager
def progress_shown(what: str) -> Iterator[Callable[["Progress"], None]]:
    """Show how far a download is: on stderr, and only on a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Display

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Display(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task(what, total=None)
        yield lambda now: display.update(task, completed=now.num_bytes, total=now.total_bytes)
