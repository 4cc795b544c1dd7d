"""Rows held out of a data set by seed, and held-out rows kept out of what is trained on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

import numpy as np

from tinsmith.core.errors import ConfigError
from tinsmith.data.rows import Row, View, fingerprints

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split(Generic[Row]):
    """Rows to train on and to hold out.

    Attributes:
        train: Training rows, in file order.
        test: Held-out rows, in file order.
        num_repeats_dropped: Left out because the file has them before.
        num_duplicates_dropped: Training rows left out because they are held out, too.
    """

    train: Sequence[Row]
    test: Sequence[Row]
    num_repeats_dropped: int = 0
    num_duplicates_dropped: int = 0


def split_rows(
    rows: Sequence[Row],
    *,
    test_size: float,
    seed: int,
    deduplicate: bool,
    name: str,
    noun: str = "conversations",
) -> Split[Row]:
    """Hold rows out, and leave out repeats where asked for; both are counted.

    Args:
        rows: All of them.
        test_size: Rows to hold out: a number of them, or a fraction below 1.
        seed: The first `test_size` of `numpy.random.default_rng(seed).permutation(n)` are held out.
        deduplicate: Keep only the first of rows that say the same.
        name: What errors call the data.
        noun: What errors call the rows.

    Raises:
        ConfigError: `test_size` leaves nothing to train on.
    """
    digests = fingerprints(rows)
    places = _first_places(digests) if deduplicate else list(range(len(rows)))
    num_repeats = len(rows) - len(places)
    num_test = _num_test(test_size, len(places), name, noun)
    drawn = np.random.default_rng(seed).permutation(len(places))[:num_test].tolist()
    held_out = {places[index] for index in drawn}
    unseen = {digests[place] for place in held_out}
    rest = [place for place in places if place not in held_out]
    train = [place for place in rest if digests[place] not in unseen]
    if not train:
        raise ConfigError(
            f"test_size={test_size}: all {noun} of {name} are also held out",
            field="test_size",
            hint="hold out fewer, or remove duplicates from the file",
        )
    num_dropped = len(rest) - len(train)
    if num_repeats:
        logger.warning("%s: %d %s repeat another and are left out", name, num_repeats, noun)
    if num_dropped:
        logger.warning(
            "%s: %d training %s equal a held-out one and are left out", name, num_dropped, noun
        )
    return Split(View(rows, train), View(rows, sorted(held_out)), num_repeats, num_dropped)


def _first_places(digests: Sequence[bytes]) -> list[int]:
    first: dict[bytes, int] = {}
    for place, found in enumerate(digests):
        first.setdefault(found, place)
    return list(first.values())


def _num_test(test_size: float, num_rows: int, name: str, noun: str) -> int:
    count = round(test_size * num_rows) if 0 < test_size < 1 else test_size
    if count != int(count) or count < 0:
        raise ConfigError(
            f"test_size={test_size}: must be a whole number of {noun} or a fraction below 1",
            field="test_size",
        )
    if count >= num_rows:
        raise ConfigError(
            f"test_size={test_size}: {name} has {num_rows} {noun}, so none would "
            "be left to train on",
            field="test_size",
            hint="hold out fewer",
        )
    return int(count)


def without_held_out(
    trains: Sequence[Sequence[Row]],
    held_out: Mapping[str, Sequence[Row]],
    data: str,
    noun: str = "conversations",
) -> tuple[list[Sequence[Row]], int]:
    """Training rows that no held-out set has, and how many one has."""
    unseen = {found for rows in held_out.values() for found in fingerprints(rows)}
    kept: list[Sequence[Row]] = []
    num_dropped = 0
    for train in trains:
        places = [i for i, found in enumerate(fingerprints(train)) if found not in unseen]
        if not places:
            raise ConfigError(
                f"test_data: all {noun} of {data} are also held out",
                field="test_data",
                hint="evaluate on other data",
            )
        num_dropped += len(train) - len(places)
        kept.append(train if len(places) == len(train) else View(train, places))
    if num_dropped:
        logger.warning(
            "%s: %d training %s equal a held-out one and are left out", data, num_dropped, noun
        )
    return kept, num_dropped
