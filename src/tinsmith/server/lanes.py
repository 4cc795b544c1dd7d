"""Ordered lanes: one a model, requests executed by `seq_id` whatever order they arrive in.

A lane is plain data with no clock and no tasks. A submission is answered at once; it becomes
*ready* when every smaller sequence number has been accepted, refused (`skip`) or given up
(`give_up`, after the service's gap timeout). Equal numbers with equal content are one request.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

from tinsmith.server.errors import RequestError

ItemT = TypeVar("ItemT")

REMEMBERED_SEQ_IDS = 4096
"""How many past sequence numbers a lane can recognise as repeated submissions."""

MAX_SEQ_ID_DISTANCE = 1_000_000
"""How far ahead of the next expected number a submission may be."""


class Lane(Generic[ItemT]):
    """The requests of one model in sequence order."""

    def __init__(self, lane_id: str, session_id: str, *, first_seq_id: int = 1) -> None:
        self.lane_id = lane_id
        self.session_id = session_id
        self.next_seq_id = first_seq_id
        self.ready: deque[ItemT] = deque()
        self._waiting: dict[int, ItemT | None] = {}
        self._known: OrderedDict[int, tuple[str, str]] = OrderedDict()

    @property
    def missing_seq_id(self) -> int | None:
        """The number that later arrivals wait for, or None when nothing waits."""
        return self.next_seq_id if self.num_waiting else None

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a smaller sequence number."""
        return sum(item is not None for item in self._waiting.values())

    def find(self, seq_id: int, digest: str) -> str | None:
        """Looks for an earlier submission of this number.

        Returns:
            The request id first given for the same content, or None when the number is new.

        Raises:
            RequestError: the number is taken by different content, was refused, or is out of
                range.
        """
        known = self._known.get(seq_id)
        if known is not None:
            if known[1] == digest:
                return known[0]
            raise RequestError(
                f"seq_id={seq_id}: already used by a different request of "
                f"model_id={self.lane_id!r}",
                field="seq_id",
                hint="give every new request of a model the next sequence number",
            )
        if seq_id < self.next_seq_id or seq_id in self._waiting:
            raise RequestError(
                f"seq_id={seq_id}: already consumed; model_id={self.lane_id!r} expects "
                f"{self.next_seq_id} or later",
                field="seq_id",
                hint="a refused request uses up its number: send the corrected one with a new one",
            )
        if seq_id - self.next_seq_id > MAX_SEQ_ID_DISTANCE:
            raise RequestError(
                f"seq_id={seq_id}: model_id={self.lane_id!r} expects {self.next_seq_id}; must be "
                f"at most {MAX_SEQ_ID_DISTANCE} ahead",
                field="seq_id",
            )
        return None

    def put(self, seq_id: int, item: ItemT, *, request_id: str, digest: str) -> None:
        """Accepts a request for which `find` returned None."""
        self._known[seq_id] = (request_id, digest)
        if len(self._known) > REMEMBERED_SEQ_IDS:
            self._known.popitem(last=False)
        self._waiting[seq_id] = item
        self._advance()

    def skip(self, seq_id: int) -> None:
        """Counts a refused request's number as consumed; harmless for a number in use."""
        distance = seq_id - self.next_seq_id
        if 0 <= distance <= MAX_SEQ_ID_DISTANCE and seq_id not in self._waiting:
            self._waiting[seq_id] = None
            self._advance()

    def give_up(self) -> list[ItemT]:
        """Drops everything behind the gap and goes on after it; returns what was dropped."""
        dropped = [item for _, item in sorted(self._waiting.items()) if item is not None]
        if self._waiting:
            self.next_seq_id = max(self._waiting) + 1
            self._waiting.clear()
        return dropped

    def clear(self) -> list[ItemT]:
        """Empties the lane, ready and waiting; returns what was in it, in order."""
        dropped = [*self.ready, *self.give_up()]
        self.ready.clear()
        return dropped

    def _advance(self) -> None:
        while self.next_seq_id in self._waiting:
            item = self._waiting.pop(self.next_seq_id)
            self.next_seq_id += 1
            if item is not None:
                self.ready.append(item)
