"""`tinsmith checkpoints export`: an adapter, or the whole model, in the Hugging Face layout."""

import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tinsmith.cli.catalog import open_rest
from tinsmith.cli.checkpoints_download import directory_name, fetch_archive
from tinsmith.cli.options import base_url_option, json_option
from tinsmith.cli.tables import print_json, size_text
from tinsmith.cli.waiting import waiting_for
from tinsmith.core.errors import AlreadyExistsError, DataError, TinsmithError, missing_extra

if TYPE_CHECKING:
    from tinsmith.client import RestClient

__all__ = ["ADAPTER_FILES", "adapter_of", "base_model_of", "export"]

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
RECORD_FILE = "checkpoint.json"
TEMPORARY_TTL_S = 3600
MAX_BYTES = 100 * 2**30


@click.command("export")
@click.argument("path")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="The directory to make; default: named after the checkpoint, here.",
)
@click.option("--merged", is_flag=True, help="The whole model with the adapter folded in.")
@click.option(
    "--base-model",
    metavar="MODEL",
    help="Where the base model is on this machine, for --merged; default: as the adapter names it.",
)
@click.option("--force", is_flag=True, help="Replace the directory if it is there.")
@base_url_option
@json_option
def export(
    path: str,
    output: Path | None,
    merged: bool,
    base_model: str | None,
    force: bool,
    base_url: str | None,
    as_json: bool,
) -> None:
    """Write a checkpoint's weights for use elsewhere.

    PATH is its tinker:// address. Without --merged the directory is a PEFT adapter; with it a full
    model that transformers loads, made on this machine, which must have the base model.
    """
    if base_model is not None and not merged:
        raise click.UsageError("--base-model goes with --merged")
    directory = (output or Path(directory_name(path))).expanduser()
    if directory.exists() and not force:
        raise AlreadyExistsError(
            f"path={str(directory)!r}: exists already",
            field="path",
            hint="--force replaces it; --output names another",
        )
    with open_rest(base_url) as rest, adapter_of(rest, path, base_url) as adapter:
        if merged:
            _merge(adapter, directory, base_model or base_model_of(adapter))
        else:
            _place(adapter, directory)
    num_bytes = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    if as_json:
        told = {"checkpoint_path": path, "destination": str(directory.resolve())}
        print_json({**told, "merged": merged, "file_size_bytes": num_bytes})
        return
    print(f"{directory} ({size_text(num_bytes)})")


@contextmanager
def adapter_of(rest: "RestClient", path: str, base_url: str | None) -> Iterator[Path]:
    """A checkpoint's PEFT adapter in a temporary directory.

    Training state has no adapter files: it is loaded into a new run, exported from there, and the
    export is deleted when it was fetched.

    Raises:
        UserError: it is no checkpoint's address.
        DataError: the checkpoint has no adapter, or an encrypted one.
    """
    from tinsmith.types import ParsedCheckpointTinkerPath

    kind = ParsedCheckpointTinkerPath.from_tinker_path(path).checkpoint_type
    with contextlib.ExitStack() as stack:
        parent = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tinsmith-")))
        source = stack.enter_context(_exported(path, base_url)) if kind == "training" else path
        directory = parent / "adapter"
        fetch_archive(rest, source, directory, overwrite=False, max_bytes=MAX_BYTES)
        (directory / RECORD_FILE).unlink(missing_ok=True)  # the service's own, not the adapter's
        missing = [name for name in ADAPTER_FILES if not (directory / name).is_file()]
        if missing:
            found = ", ".join(sorted(file.name for file in directory.iterdir())) or "nothing"
            is_sealed = any(file.suffix == ".age" for file in directory.iterdir())
            raise DataError(
                f"path={path!r}: holds no {missing[0]}; it holds {found}",
                field="path",
                hint="it is encrypted: download it and use your age key"
                if is_sealed
                else "export a checkpoint of save_state or save_weights_for_sampler",
            )
        yield directory


def base_model_of(adapter: Path) -> str:
    """The base model that an adapter names."""
    config = json.loads((adapter / ADAPTER_FILES[0]).read_text(encoding="utf-8"))
    return str(config["base_model_name_or_path"])


@contextmanager
def _exported(path: str, base_url: str | None) -> Iterator[str]:
    """Training state as an export of a run made for it, deleted with the block."""
    from tinsmith.client import ServiceClient

    metadata = {"created_by": "tinsmith checkpoints export"}
    with (
        ServiceClient(user_metadata=metadata, base_url=base_url) as service,
        waiting_for("exporting the adapter"),
    ):
        client = service.create_training_client_from_state(path, user_metadata=metadata).result()
        saved = client.save_weights_external("export", ttl_seconds=TEMPORARY_TTL_S).result().path
        try:
            yield saved
        finally:
            try:
                service.create_rest_client().delete_checkpoint_from_tinker_path(saved).result()
            except TinsmithError as error:
                left = f"{saved} could not be deleted and expires in an hour: {error}"
                print(f"warning: {left}", file=sys.stderr)


def _place(adapter: Path, directory: Path) -> None:
    from tinsmith.core.paths import atomic_directory

    with atomic_directory(directory, overwrite=True) as staging:
        shutil.copytree(adapter, staging, dirs_exist_ok=True)


def _merge(adapter: Path, directory: Path, base_model: str) -> None:
    try:
        from tinsmith.engine.merging import merge_adapter
    except ImportError as error:
        raise missing_extra("torch", "engine") from error
    if not sys.stderr.isatty():
        from transformers.utils import logging

        logging.disable_progress_bar()
    try:
        with waiting_for("merging"):
            merge_adapter(adapter, directory, base_model=base_model, overwrite=True)
    except TinsmithError as error:
        error.hint = error.hint or "--base-model says where the base model is on this machine"
        raise
