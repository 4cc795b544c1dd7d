"""The rows being decoded: who is in which slot, what each has drawn, and when it ends.

A row keeps one storage index for life; `order` says which storage index is in which slot. Slots of
one snapshot lie side by side, and within them those of one shared prompt; membership changes move
as few of them as possible. All state that a step touches is in NumPy arrays over storage indices,
so a step has no loop over rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tinsmith.engine.decoder import SharedPrompt
from tinsmith.engine.sample_state import JobState
from tinsmith.engine.stopping import TextWatch
from tinsmith.engine.token_choice import BestTokens, ChoiceSettings, Chosen, uniforms
from tinsmith.types import SampledSequence, TopkLogprobs

__all__ = ["DecodeRows", "Entry", "Moves", "Start", "best_table", "drawing_rows"]

IntArray = npt.NDArray[np.int64]

_FIRST_OUTPUTS = 64


class Entry(NamedTuple):
    """One sample of one job."""

    state: JobState
    sample: int


class Start(NamedTuple):
    """A sample that has drawn its first token and goes on."""

    entry: Entry
    watch: TextWatch | None
    token: int
    logprob: float
    best: BestTokens | None = None


class Moves(NamedTuple):
    """Slots whose contents move, and slots that new rows take."""

    sources: list[int]
    targets: list[int]
    entered: list[int]
    """Slot of each new row, in the order given."""


@dataclass
class _Batch:
    """Per-row constants in slot order, kept until membership changes."""

    settings: ChoiceSettings
    seeds: npt.NDArray[np.uint64]
    samples: npt.NDArray[np.uint64]
    stops: IntArray
    watches: list[tuple[int, TextWatch]]
    streaming: list[tuple[int, Entry]]


class DecodeRows:
    """At most `capacity` rows."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.order: IntArray = np.empty(0, np.int64)
        """Storage index of each slot."""
        self.entries: list[Entry | None] = [None] * capacity
        """By storage index."""
        self.lengths: IntArray = np.zeros(capacity, np.int64)
        """Positions that each row has in the cache (its next token's position)."""
        self.offsets: IntArray = np.zeros(capacity, np.int64)
        """Positions of each row that lie in a shared prompt rather than in its slot."""
        self.last: IntArray = np.zeros(capacity, np.int64)
        """Token drawn last, not in the cache yet."""
        self._counts: IntArray = np.zeros(capacity, np.int64)
        self._limits: IntArray = np.zeros(capacity, np.int64)
        self._tokens: IntArray = np.zeros((capacity, _FIRST_OUTPUTS), np.int64)
        self._logprobs = np.zeros((capacity, _FIRST_OUTPUTS), np.float32)
        self._watches: list[TextWatch | None] = [None] * capacity
        self._best: dict[int, list[BestTokens]] = {}
        """By storage index, of the rows that ask for likeliest tokens: a table each, growing."""
        self._batch: _Batch | None = None

    def __len__(self) -> int:
        return self.order.size

    @property
    def num_free(self) -> int:
        """Rows that may still enter."""
        return self.capacity - len(self)

    def live(self) -> list[Entry]:
        """Entries in slot order."""
        return [entry for index in self.order if (entry := self.entries[index]) is not None]

    def groups(self) -> list[tuple[int, int, JobState]]:
        """[start, stop) slots of each snapshot, with one of its jobs."""
        runs: list[tuple[int, int, JobState]] = []
        for slot, entry in enumerate(self.live()):
            if runs and runs[-1][2].group == entry.state.group:
                runs[-1] = (runs[-1][0], slot + 1, runs[-1][2])
            else:
                runs.append((slot, slot + 1, entry.state))
        return runs

    def change(self, removed: Iterable[int], added: Sequence[Start]) -> Moves:
        """Take out rows by slot and put in new ones; slots of a snapshot stay side by side."""
        gone = set(removed)
        kept = [(slot, int(index)) for slot, index in enumerate(self.order) if slot not in gone]
        for slot in gone:
            self.entries[self.order[slot]] = None
            self._watches[self.order[slot]] = None
            self._best.pop(int(self.order[slot]), None)
        free = iter([index for index, entry in enumerate(self.entries) if entry is None])
        new: list[int] = []
        for entry, watch, token, logprob, best in added:
            index = next(free)
            if best is not None:
                self._best[index] = [best]
            self.entries[index] = entry
            self._watches[index] = watch
            self._tokens[index, 0] = self.last[index] = token
            self._logprobs[index, 0] = logprob
            self._counts[index] = 1
            self._limits[index] = entry.state.max_new
            self.lengths[index] = entry.state.prompt.size
            self.offsets[index] = entry.state.prompt.size - entry.state.num_in_slot
            new.append(index)
        moves, self.order = self._arrange(kept, new)
        self._batch = None
        return moves

    def positions_needed(self) -> int:
        """Positions of a slot that the longest row will take at most."""
        live = self.order
        if live.size == 0:
            return 0
        own = self.lengths[live] - self.offsets[live]
        return int((own + self._limits[live] - self._counts[live]).max())

    def shared_prompts(self) -> list[SharedPrompt]:
        """Rows that read their prompt from one block."""
        runs: list[SharedPrompt] = []
        for slot, entry in enumerate(self.live()):
            block = entry.state.block
            if not entry.state.shares_block or block is None:
                continue
            if runs and runs[-1].block is block:
                runs[-1] = SharedPrompt(runs[-1].start, slot + 1, block)
            else:
                runs.append(SharedPrompt(slot, slot + 1, block))
        return runs

    def uniforms(self) -> npt.NDArray[np.float64]:
        """Each slot's random number for its next token."""
        batch = self._constants()
        counts = self._counts[self.order].astype(np.uint64)
        return uniforms(batch.seeds, batch.samples, counts)

    @property
    def settings(self) -> ChoiceSettings:
        """How each slot draws."""
        return self._constants().settings

    @property
    def streaming(self) -> list[tuple[int, Entry]]:
        """Slots whose jobs want each token at once."""
        return self._constants().streaming

    def push(self, chosen: Chosen) -> tuple[IntArray, npt.NDArray[np.bool_]]:
        """Append one token to every row; the one before it is in the cache by now.

        Returns:
            Slots that end with this token, and for each of them whether a stop ended it.
        """
        batch, order = self._constants(), self.order
        counts = self._counts[order]
        if counts.size and int(counts.max()) >= self._tokens.shape[1]:
            self._widen()
        self._tokens[order, counts] = chosen.tokens
        self._logprobs[order, counts] = chosen.logprobs
        self._counts[order] = counts + 1
        for slot, best in chosen.best.items():
            self._best[int(order[slot])].append(best)
        self.last[order] = chosen.tokens
        self.lengths[order] += 1
        stopped = (batch.stops == chosen.tokens[:, None]).any(1)
        for slot, watch in batch.watches:
            if watch.push(int(chosen.tokens[slot])):
                stopped[slot] = True
        ended = np.flatnonzero(stopped | (counts + 1 >= self._limits[order]))
        return ended, stopped[ended]

    def sequence(self, slot: int, *, stopped: bool) -> SampledSequence:
        """What the row in a slot has drawn."""
        index = self.order[slot]
        count = self._counts[index]
        return SampledSequence(
            stop_reason="stop" if stopped else "length",
            tokens_np=self._tokens[index, :count].astype(np.int32),
            logprobs_np=self._logprobs[index, :count].copy(),
            topk_logprobs_np=best_table(self._best.get(int(index), [])),
        )

    def _constants(self) -> _Batch:
        if self._batch is None:
            live = self.live()
            settings, seeds, samples = drawing_rows(live)
            width = max((len(entry.state.rules.tokens) for entry in live), default=0)
            stops = np.full((len(live), max(1, width)), -1, np.int64)
            watches: list[tuple[int, TextWatch]] = []
            for slot, (entry, index) in enumerate(zip(live, self.order, strict=True)):
                tokens = entry.state.rules.tokens
                stops[slot, : len(tokens)] = list(tokens)
                watch = self._watches[index]
                if watch is not None:
                    watches.append((slot, watch))
            streaming = [(i, entry) for i, entry in enumerate(live) if entry.state.job.stream]
            self._batch = _Batch(settings, seeds, samples, stops, watches, streaming)
        return self._batch

    def _arrange(
        self, kept: Sequence[tuple[int, int]], new: Sequence[int]
    ) -> tuple[Moves, IntArray]:
        """Lay groups out one after another, leaving rows where they are if they may stay."""
        groups: dict[str, dict[str, list[tuple[int | None, int]]]] = {}
        for slot, index in [*kept, *[(None, index) for index in new]]:
            entry = self.entries[index]
            assert entry is not None
            state = entry.state
            sharing = state.job.job_id if state.shares_block else ""
            groups.setdefault(state.group, {}).setdefault(sharing, []).append((slot, index))
        members = [rows for group in groups.values() for rows in group.values()]
        order = np.empty(len(kept) + len(new), np.int64)
        moves = Moves([], [], [])
        entered: dict[int, int] = {}
        start = 0
        for rows in members:
            free = set(range(start, start + len(rows)))
            free -= {slot for slot, _ in rows if slot is not None}
            targets = iter(sorted(free))
            for slot, index in rows:
                stays = slot is not None and start <= slot < start + len(rows)
                place = slot if stays else next(targets)
                assert place is not None
                order[place] = index
                if slot is None:
                    entered[index] = place
                elif not stays:
                    moves.sources.append(slot)
                    moves.targets.append(place)
            start += len(rows)
        moves.entered.extend(entered[index] for index in new)
        return moves, order

    def _widen(self) -> None:
        padding = ((0, 0), (0, self._tokens.shape[1]))
        self._tokens = np.pad(self._tokens, padding)
        self._logprobs = np.pad(self._logprobs, padding)


def best_table(rows: Sequence[BestTokens]) -> TopkLogprobs | None:
    """The likeliest tokens of a sequence, one row a position; None if there are no rows."""
    if not rows:
        return None
    return TopkLogprobs(np.stack([r.tokens for r in rows]), np.stack([r.logprobs for r in rows]))


def drawing_rows(
    entries: Sequence[Entry],
) -> tuple[ChoiceSettings, npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Settings, seeds and sample indices of some samples."""
    params = [entry.state.job.params for entry in entries]
    num_best = np.array([entry.state.job.topk_sample_logprobs for entry in entries], np.int64)
    settings = ChoiceSettings(
        temperature=np.array([p.temperature for p in params], np.float64),
        top_k=np.array([p.top_k for p in params], np.int64),
        top_p=np.array([p.top_p for p in params], np.float64),
        num_best=num_best if num_best.any() else None,
    )
    seeds = np.array([entry.state.seed for entry in entries], np.uint64)
    return settings, seeds, np.array([entry.sample for entry in entries], np.uint64)
