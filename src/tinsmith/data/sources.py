"""What a run trains on, by name: a file, a data set of the Hub, or a mixture of several.

`load_training_data` opens it, holds conversations out, mixes, and keeps held-out conversations out
of what is trained on. Names:

- `chats.jsonl`, `chats.parquet`: a file
- `hf:no_robots`, `hf:owner/name@revision:split`, `hf:./folder`: a preset, a Hub id, a copy on disk
- `mix.toml`: a mixture, `[[sources]]` with `data`, `weight` and perhaps `name`
"""

from __future__ import annotations

import hashlib
import logging
import re
import tomllib
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Generic

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tinsmith.core.errors import DataError
from tinsmith.data.comparisons import Comparison, read_comparisons
from tinsmith.data.conversations import (
    Conversation,
    conversation_parser,
    read_conversations,
)
from tinsmith.data.hub import PREFIX, open_hub
from tinsmith.data.mixtures import StopWhen, mixture_order
from tinsmith.data.rows import Row, View, content_sha256
from tinsmith.data.splits import split_rows, without_held_out

logger = logging.getLogger(__name__)


class MixtureSource(BaseModel):
    """One source of a mixture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    weight: float = Field(default=1.0, gt=0)
    name: str | None = None


class Mixture(BaseModel):
    """A mixture file: sources, and when the mixture ends."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: list[MixtureSource] = Field(min_length=1)
    stop_when: StopWhen = "first_exhausted"

    @classmethod
    def read(cls, path: Path) -> Mixture:
        """Read a TOML file; its relative paths start from its own folder.

        Raises:
            DataError: It is missing, not TOML, or not a mixture.
        """
        try:
            found = cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            problem = "does not exist" if isinstance(error, FileNotFoundError) else error.strerror
            raise _file_error(path, str(problem), "check the path") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise _file_error(path, f"not TOML: {error}", "mend that line") from error
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise _file_error(
                path, f"{place}: {first['msg']}", 'write [[sources]] with data = "..." and weight'
            ) from error
        sources = [
            source.model_copy(update={"data": _beside(path, source.data)})
            for source in found.sources
        ]
        return found.model_copy(update={"sources": sources})


@dataclass(frozen=True)
class TrainingData(Generic[Row]):
    """Rows of a run: conversations, or comparisons.

    Attributes:
        train: To train on.
        held_out: To evaluate on, by name; a single set that was held out of `data` is named "".
        sha256: Hash of all of them, in order, whatever files they are in.
        num_repeats_dropped: Left out because another row says the same.
        num_duplicates_dropped: Left out of training because they are held out, too.
    """

    train: Sequence[Row]
    held_out: Mapping[str, Sequence[Row]] = field(default_factory=dict[str, Sequence[Row]])
    sha256: str = ""
    num_repeats_dropped: int = 0
    num_duplicates_dropped: int = 0


def open_conversations(
    name: str, *, require_assistant: bool = True, problems: list[DataError] | None = None
) -> Sequence[Conversation]:
    """Open a file or a data set of the Hub and check every row.

    Args:
        name: A file, or `hf:` and a data set.
        require_assistant: Refuse a conversation in which the assistant says nothing.
        problems: Receives what is wrong with rows, which are then left out; none raises.

    Raises:
        DataError: `name:line: what is wrong`, with the cure.
    """
    if name.endswith(".toml"):
        raise _file_error(Path(name), "is a mixture", "name one of its sources")
    if not name.startswith(PREFIX):
        return read_conversations(name, require_assistant=require_assistant, problems=problems)
    parse = conversation_parser(require_assistant=require_assistant)
    return open_hub(name, "conversations", parse, problems)


def load_training_data(
    data: str,
    *,
    test_size: float = 0,
    test_data: Iterable[str] = (),
    seed: int = 0,
    require_assistant: bool = True,
    deduplicate: bool = False,
) -> TrainingData[Conversation]:
    """Open what a run trains on and hold out what it is evaluated on.

    Args:
        data: Name of a file, data set or mixture.
        test_size: Conversations to hold out of each source: a number, or a fraction below 1.
        test_data: Names of further files or data sets to evaluate on.
        seed: Seed of splits and mixtures.
        require_assistant: Refuse a conversation in which the assistant says nothing.
        deduplicate: Keep only the first of conversations that say the same.

    Raises:
        DataError: Something is wrong with the data; file and line are in the message.
        ConfigError: Nothing is left to train on.
    """
    is_mixture = data.endswith(".toml")
    mixture = (
        Mixture.read(Path(data)) if is_mixture else Mixture(sources=[MixtureSource(data=data)])
    )
    names = _names(source.name or _short_name(source.data) for source in mixture.sources)
    splits = [
        split_rows(
            open_conversations(source.data, require_assistant=require_assistant),
            test_size=test_size,
            seed=seed,
            deduplicate=deduplicate,
            name=source.data,
        )
        for source in mixture.sources
    ]
    held_out = {
        name if is_mixture else "": split.test
        for name, split in zip(names, splits, strict=True)
        if len(split.test)
    }
    test_sources = list(test_data)
    test_names = _names(map(_short_name, test_sources), taken=held_out)
    for name, source in zip(test_names, test_sources, strict=True):
        held_out[name] = open_conversations(source, require_assistant=require_assistant)
    trains, num_leaks = without_held_out([split.train for split in splits], held_out, data)
    train = _mixed(trains, mixture, seed) if is_mixture else trains[0]
    return TrainingData(
        train=train,
        held_out=held_out,
        sha256=_sha256([train, *held_out.values()]),
        num_repeats_dropped=sum(split.num_repeats_dropped for split in splits),
        num_duplicates_dropped=num_leaks + sum(split.num_duplicates_dropped for split in splits),
    )


def load_comparisons(
    data: str, *, test_size: float = 0, test_data: Iterable[str] = (), seed: int = 0
) -> TrainingData[Comparison]:
    """Open the comparisons of a run and hold out what it is evaluated on.

    Args:
        data: Name of a file or a data set.
        test_size: Comparisons to hold out: a number, or a fraction below 1.
        test_data: Names of further files or data sets to evaluate on.
        seed: Seed of the split.

    Raises:
        DataError: Something is wrong with the data; file and line are in the message.
        ConfigError: Nothing is left to train on.
    """
    noun = "comparisons"
    split = split_rows(
        read_comparisons(data),
        test_size=test_size,
        seed=seed,
        deduplicate=False,
        name=data,
        noun=noun,
    )
    held_out = {"": split.test} if len(split.test) else {}
    test_sources = list(test_data)
    for name, source in zip(_names(map(_short_name, test_sources)), test_sources, strict=True):
        held_out[name] = read_comparisons(source)
    [train], num_leaks = without_held_out([split.train], held_out, data, noun)
    return TrainingData(
        train=train,
        held_out=held_out,
        sha256=_sha256([train, *held_out.values()]),
        num_duplicates_dropped=num_leaks + split.num_duplicates_dropped,
    )


class _Concatenation(Sequence[Conversation]):
    """Several sequences, one after the other."""

    def __init__(self, parts: Sequence[Sequence[Conversation]]) -> None:
        self.parts = parts
        self.starts = [0, *accumulate(len(part) for part in parts)]

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, index: Any) -> Any:  # Any: an index is all that `View` asks with
        part = bisect_right(self.starts, index) - 1
        return self.parts[part][index - self.starts[part]]


def _mixed(
    trains: Sequence[Sequence[Conversation]], mixture: Mixture, seed: int
) -> Sequence[Conversation]:
    """Rows drawn by weight; each source is shuffled first, so that a part of it is a sample."""
    shuffled = [
        View(train, np.random.default_rng(seed).permutation(len(train)).tolist())
        for train in trains
    ]
    weights = [source.weight for source in mixture.sources]
    order = mixture_order([len(train) for train in trains], weights, seed, mixture.stop_when)
    counts = [sum(draw.source == place for draw in order) for place in range(len(trains))]
    for source, train, count in zip(mixture.sources, trains, counts, strict=True):
        logger.info("%s: %d conversations give %d rows", source.data, len(train), count)
    together = _Concatenation(shuffled)
    return View(together, [together.starts[draw.source] + draw.row for draw in order])


def _sha256(sequences: Iterable[Sequence[Any]]) -> str:
    return hashlib.sha256("".join(map(content_sha256, sequences)).encode()).hexdigest()


def _short_name(source: str) -> str:
    """What metrics call a source: the last part of its name."""
    bare = source.removeprefix(PREFIX).partition(":")[0].partition("@")[0]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(bare).stem).strip("-.") or "data"


def _names(wanted: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """Names that are all different."""
    given: list[str] = []
    used = set(taken)
    for name in wanted:
        number, unique = 2, name
        while unique in used:
            number, unique = number + 1, f"{name}-{number}"
        used.add(unique)
        given.append(unique)
    return given


def _beside(path: Path, data: str) -> str:
    if data.startswith(PREFIX):
        return data
    return str(path.parent / Path(data).expanduser())


def _file_error(path: Path, what: str, cure: str) -> DataError:
    return DataError(f"{path}: {what}", field="data", file=str(path), hint=cure)
