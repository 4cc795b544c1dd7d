"""Data sets of the Hugging Face Hub, by id, preset, or a copy on disk, through `datasets`.

`hub_rows` gives the rows of one split as JSON values; `preset` tells how a well-known data set
names its columns. The package is the extra `data`; it is imported when a data set is asked for.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from tinsmith.core.errors import DataError, missing_extra, unknown_name
from tinsmith.data.rows import Row, RowParser, StoredRows, without_nulls

PREFIX = "hf:"
Kind = Literal["conversations", "comparisons", "prompts"]
_COLUMNS: Mapping[Kind, Sequence[str]] = {
    "conversations": ("messages", "tools", "functions", "system"),
    "comparisons": ("prompt", "chosen", "rejected"),
    "prompts": ("prompt", "question", "problem", "answer", "solution"),
}
_PRESETS = Path(__file__).with_name("presets.toml")
_SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
}


@dataclass(frozen=True)
class HubDataset:
    """Where a data set is, and how it names things.

    Attributes:
        hub: Hub id, or a directory: one that `save_to_disk` wrote, or one of data files.
        kind: What its rows are; None where nobody has said.
        train: Split to train on.
        test: Split to evaluate on, if it has one.
        config: Configuration of the data set, if it has several.
        form: `messages`, or `sharegpt` for lists of `from` and `value`.
        columns: Our field to the data set's column, where they differ.
        revision: Branch, tag or commit on the Hub.
    """

    hub: str
    kind: Kind | None = None
    train: str = "train"
    test: str | None = None
    config: str | None = None
    form: Literal["messages", "sharegpt"] = "messages"
    columns: Mapping[str, str] = field(default_factory=dict)
    revision: str | None = None


def list_presets() -> list[str]:
    """Names that `hf:NAME` understands without a Hub id."""
    return list(_presets())


def preset(name: str) -> HubDataset:
    """The data set of a preset.

    Raises:
        UnknownNameError: No such preset.
    """
    if name not in _presets():
        raise unknown_name("preset", name, _presets(), field="data")
    return _presets()[name]


def find_dataset(name: str) -> HubDataset:
    """A data set by preset, Hub id (`owner/name`, `@revision` after it) or directory.

    Raises:
        UnknownNameError: No such preset.
        DataError: The directory does not exist, or a revision of one is asked for.
    """
    if "/" not in name:
        return preset(name)
    if Path(name).expanduser().is_dir():
        return HubDataset(str(Path(name).expanduser()))
    hub, _, revision = name.partition("@")
    if Path(hub).expanduser().is_dir():
        raise DataError(
            f"data={PREFIX}{name}: a directory has no revision",
            field="data",
            hint="leave it out, or name the data set on the Hub",
        )
    if hub.startswith(("/", "./", "../", "~")):
        raise DataError(
            f"data={PREFIX}{name}: the directory does not exist",
            field="data",
            hint="check the path",
        )
    known = next((known for known in _presets().values() if known.hub == hub), HubDataset(hub))
    return replace(known, revision=revision or None)


def open_hub(
    name: str, kind: Kind, parse: RowParser[Row], problems: list[DataError] | None = None
) -> StoredRows[Row]:
    """Open the data set behind `hf:NAME` or `hf:NAME:SPLIT` and check every row.

    Args:
        name: With its prefix; the split is the one to train on where none is named.
        kind: What the rows have to be.
        parse: Makes a row of a JSON value.
        problems: Receives what is wrong with rows, which are then left out; none raises.

    Raises:
        DataError: It cannot be loaded, holds something else, or a row is wrong.
    """
    where, _, split = name.removeprefix(PREFIX).partition(":")
    source = find_dataset(where)
    if source.kind not in (kind, None):
        raise DataError(
            f"data={name}: holds {source.kind}, not {kind}",
            field="data",
            hint=f"choose a data set of {kind}",
        )
    values = hub_rows(replace(source, kind=kind), split or source.train)
    rows = StoredRows.spool(values, name, parse, problems)
    if not len(rows) and not problems:
        raise DataError(f"data={name}: the split is empty", field="data", hint="choose another")
    return rows


def hub_rows(source: HubDataset, split: str, *, limit: int | None = None) -> Iterator[Any]:
    """Rows of a split as JSON values, in our names and form.

    Args:
        source: The data set.
        split: Name of the split; `train[:1000]` as `datasets` understands it.
        limit: Rows to take from the start.

    Raises:
        DataError: It cannot be loaded; the reason is in the message.
        MissingExtraError: `datasets` is not installed.
    """
    names = dict(source.columns)
    table = _with_columns(load_split(source, split), source)
    for row in islice(table, limit):
        value = {**row, **{ours: row.get(theirs) for ours, theirs in names.items()}}
        if source.form == "sharegpt":
            value["messages"] = _from_sharegpt(value.get("messages"), value.get("system"))
        yield without_nulls(value)


def _with_columns(table: Any, source: HubDataset) -> Any:
    """A table's columns that its kind is made of, so that no other has to be read, or to be JSON.

    All of them where it has none of these, for the error to name.
    """
    # Any: a Dataset.
    if source.kind is None:
        return table
    renamed = dict(source.columns)
    wanted = {renamed.get(column, column) for column in _COLUMNS[source.kind]}
    found = [column for column in table.column_names if column in wanted]
    return table.select_columns(found) if found else table


def load_split(source: HubDataset, split: str) -> Iterable[Any]:
    """A split as `datasets` loads it: memory-mapped, so it may be larger than memory."""
    try:
        import datasets
    except ImportError as error:
        raise missing_extra("datasets", "data") from error
    try:
        folder = Path(source.hub)
        if (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists():
            return _saved(datasets.load_from_disk(str(folder)), split, source.train)
        return datasets.load_dataset(
            source.hub, source.config, split=split, revision=source.revision
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DataError(
            f"data={PREFIX}{source.hub}: split {split!r} could not be loaded: {reason}",
            field="data",
            hint="check name and split; offline, the data set has to be in the cache or on disk",
        ) from error


def _saved(found: Any, split: str, default: str) -> Any:
    """A split of what `save_to_disk` wrote, or a part of one (`train[:1000]`).

    A single table is the split that it says it is, and the one to train on.

    Raises:
        ValueError: No such split, or not the form of one.
    """
    import datasets

    # Any: a Dataset, or a DatasetDict of them.
    if isinstance(found, Mapping):
        tables: Mapping[str, Any] = found
    else:
        tables = {default: found, str(found.split or default): found}
    parts = [
        tables[part.splitname].select(range(part.from_, part.to))
        for part in datasets.ReadInstruction.from_spec(split).to_absolute(
            {name: len(table) for name, table in tables.items()}
        )
    ]
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def _from_sharegpt(turns: Any, system: Any) -> Any:
    """Turns of `from` and `value` as messages; what is no such turn is left to the checks."""
    if not isinstance(turns, list):
        return turns
    messages = [
        {
            "role": _SPEAKERS.get(str(turn.get("from")), str(turn.get("from"))),
            "content": turn.get("value"),
        }
        if isinstance(turn, Mapping)
        else turn
        for turn in turns
    ]
    return [{"role": "system", "content": system}, *messages] if system else messages


@cache
def _presets() -> dict[str, HubDataset]:
    rows = tomllib.loads(_PRESETS.read_text(encoding="utf-8"))
    return {name: HubDataset(**row) for name, row in rows.items()}
