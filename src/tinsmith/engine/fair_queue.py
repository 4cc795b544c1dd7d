"""A queue in which owners take turns: who asks for a thousand things delays nobody by a thousand.

Start-time fair queueing: each owner has a clock of its own, which its items push on by their cost;
the item that starts earliest is next. One owner alone is served first come, first served.

Source: Goyal, Vin and Cheng 1996, with costs known beforehand and equal weights.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

__all__ = ["FairQueue"]

ItemT = TypeVar("ItemT")


class _Place(NamedTuple):
    start: int
    arrival: int


class FairQueue(Generic[ItemT]):
    """Items, their owners taking turns.

    Example:
        >>> queue = FairQueue()
        >>> for item, owner in (("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b")):
        ...     queue.append(item, owner=owner)
        >>> [queue.take() for _ in range(4)]
        ['a1', 'b1', 'a2', 'a3']
    """

    def __init__(self) -> None:
        self._heap: list[_Place] = []
        self._items: dict[_Place, ItemT] = {}
        self._clocks: dict[Hashable, int] = {}
        """Where each owner's next item starts; owners that are not ahead of `_now` are dropped."""
        self._now = 0
        self._arrivals = itertools.count()
        self._shown: _Place | None = None

    def __len__(self) -> int:
        return len(self._items)

    def append(self, item: ItemT, *, owner: Hashable, cost: int = 1) -> None:
        """Put an item behind its owner's others; `cost` is how long a turn it takes."""
        start = max(self._now, self._clocks.get(owner, 0))
        self._clocks[owner] = start + cost
        place = _Place(start, next(self._arrivals))
        self._items[place] = item
        heapq.heappush(self._heap, place)

    @property
    def first(self) -> ItemT:
        """The item whose turn it is; once shown, it stays the first until it is taken.

        Raises:
            IndexError: the queue is empty.
        """
        return self._items[self._first_place()]

    def take(self) -> ItemT:
        """Take the first item out.

        Raises:
            IndexError: the queue is empty.
        """
        place = self._first_place()
        self._shown = None
        self._now = max(self._now, place.start)
        self._clocks = {owner: clock for owner, clock in self._clocks.items() if clock > self._now}
        return self._items.pop(place)

    def remove(self, is_wanted: Callable[[ItemT], bool]) -> None:
        """Take out all items of a kind; their owners' clocks stay as they are."""
        gone = [place for place, item in self._items.items() if is_wanted(item)]
        for place in gone:
            del self._items[place]
        if self._shown in gone:
            self._shown = None

    def _first_place(self) -> _Place:
        if self._shown is None:
            while self._heap and self._heap[0] not in self._items:  # removed meanwhile
                heapq.heappop(self._heap)
            self._shown = heapq.heappop(self._heap)
        return self._shown
