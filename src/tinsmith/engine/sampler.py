"""Continuous batching: sequences of all adapters decoded together, entering and leaving any time.

`Sampler.step` does a little of everything that is due: prefills waiting prompts (each once,
whatever its number of samples), lets samples enter free rows, and draws one token for every row.
Finished rows leave at once. The caller interleaves steps with other work.

What fixes a sample is (seed, sample index, prompt, adapter): its random numbers are counted by its
own position, so neither batch mates nor the time of admission change its tokens. Logits themselves
differ by rounding with the shape of a batch: about 1e-6 in float32, which next to never changes a
token, about 1e-2 in bfloat16, which now and then does. What a job asks about its prompt is computed
apart from others, and is the same to the bit whatever else runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from tinsmith.core.errors import TinsmithError, UserError
from tinsmith.engine.adapters import AdapterSnapshot
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.decode_rows import DecodeRows, Entry, Start, best_table, drawing_rows
from tinsmith.engine.decoder import DecodeBatch, SharedPrompt, SnapshotRows
from tinsmith.engine.decoder_choice import make_decoder
from tinsmith.engine.fair_queue import FairQueue
from tinsmith.engine.jobs import EngineLimits, SampledToken, SampleJob, SampleResult
from tinsmith.engine.kv_cache import SlotCache, bucket
from tinsmith.engine.prefill import Prefill
from tinsmith.engine.sample_state import JobState, check_request
from tinsmith.engine.stopping import StopTexts, end_tokens
from tinsmith.engine.token_choice import BestTokens, Chosen, choose_tokens, uniforms
from tinsmith.types import SampledSequence, StopReason

__all__ = ["Sampler"]

_LENGTH_STEP = 8  # attention covers the longest row, rounded up to this
_MIN_COPIED = 256  # positions that samples would copy before they share the prompt instead
_KEPT_CACHE_BYTES = 2**28  # kept for the next rows when the last one leaves
_LIVE_CHUNK_SHARE = 4  # a long prompt's chunk is that much smaller while rows wait for their token


class Sampler:
    """Samples from a base model under any number of adapter snapshots.

    Args:
        base: the model, shared with training.
        snapshots: loaded snapshots by id; looked up when a job is submitted, and kept by the job.
        limits: bounds on rows, prefill and cache.

    Raises:
        ConfigError: the model cannot be decoded step by step.
    """

    def __init__(
        self,
        base: BaseModel,
        snapshots: Mapping[str, AdapterSnapshot],
        limits: EngineLimits | None = None,
    ) -> None:
        limits = limits or EngineLimits()
        self._info = base.info
        self._snapshots = snapshots
        self._limits = limits
        self._decoder = make_decoder(base, limits)
        self._cache = SlotCache(self._decoder.shape)
        self._rows = DecodeRows(limits.max_decode_rows)
        self._prefill = Prefill(
            self._decoder,
            max_tokens=limits.max_prefill_tokens,
            max_head_rows=max(1, limits.max_head_elements // base.info.vocab_size),
        )
        self._texts = StopTexts(
            base.info.tokenizer_id, end_tokens(base.model, base.info.tokenizer_id)
        )
        self._waiting: FairQueue[JobState] = FairQueue()
        self._ready: deque[JobState] = deque()
        """Prefilled jobs some of whose samples have not started."""
        self._done: list[SampleResult] = []
        self._told: list[SampledToken] = []
        self._routing: object = None
        self._shared: list[SharedPrompt] = []

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._waiting or self._ready or self._done or len(self._rows))

    def submit(self, job: SampleJob) -> None:
        """Queue a job. A bad one is answered by an error from the next step, alone."""
        try:
            state = check_request(job, self._info, self._snapshots, self._texts)
            copied = (job.num_samples - 1) * state.prompt.size
            state.shares_block = self._decoder.shares_prompts and copied >= _MIN_COPIED
            self._waiting.append(state, owner=job.snapshot_id, cost=job.num_samples)
        except TinsmithError as error:
            self._done.append(SampleResult(job.job_id, error=error))

    def cancel(self, job_id: str) -> None:
        """Forget a job wherever it stands; its rows are free at once. Unknown ids are ignored."""
        self._waiting.remove(lambda state: state.job.job_id == job_id)
        self._ready = deque(s for s in self._ready if s.job.job_id != job_id)
        self._done = [result for result in self._done if result.job_id != job_id]
        self._told = [token for token in self._told if token.job_id != job_id]
        entries = self._rows.live()
        self._change([i for i, e in enumerate(entries) if e.state.job.job_id == job_id], [])

    def step(self) -> list[SampleResult]:
        """Prefill what waits, admit samples to free rows, draw one token for each row.

        Returns:
            Jobs that finished or failed, each once.
        """
        with torch.inference_mode():
            self._run_prefill()
            self._start_samples()
            if len(self._rows):
                self._decode()
        done, self._done = self._done, []
        return done

    def take_tokens(self) -> list[SampledToken]:
        """Tokens of jobs that stream, drawn since the last call, in the order of drawing."""
        told, self._told = self._told, []
        return told

    def _run_prefill(self) -> None:
        """Prompts of jobs whose samples find room, up to the limit of one step."""
        free = self._rows.num_free - sum(state.num_waiting for state in self._ready)
        budget = self._limits.max_prefill_tokens
        live_chunk = max(1, budget // _LIVE_CHUNK_SHARE)
        if len(self._rows) or self._ready:
            budget = live_chunk
        short: list[JobState] = []
        while self._waiting and free > 0 and budget > 0:
            state = self._waiting.first
            # Scores may not depend on who else is there, so the chunks may not either.
            chunk = live_chunk if state.is_scored else budget
            if state.num_prefilled or state.prompt.size > min(chunk, budget):
                if not short and self._prefill.run_chunk(state, chunk):
                    self._ready.append(self._waiting.take())
                break
            short.append(self._waiting.take())
            budget -= state.prompt.size
            free -= state.job.num_samples
        if short:
            self._prefill.run_short(short)
            self._ready.extend(short)

    def _start_samples(self) -> None:
        """First tokens of as many samples as find room; those that go on enter rows."""
        entries: list[Entry] = []
        logits: list[Tensor] = []
        while self._ready and len(entries) < self._rows.num_free:
            state = self._ready[0]
            count = min(state.num_waiting, self._rows.num_free - len(entries))
            count = min(count, self._room_for(state, entries))
            if count == 0:
                break
            assert state.last_logits is not None
            entries += [Entry(state, state.num_started + index) for index in range(count)]
            logits.append(state.last_logits.expand(count, -1))
            state.num_started += count
            if state.num_waiting == 0:
                self._ready.popleft()
        if not entries:
            return
        settings, seeds, samples = drawing_rows(entries)
        uniform = uniforms(seeds, samples, np.zeros_like(seeds))
        chosen = choose_tokens(torch.cat(logits), settings, uniform)
        starts: list[Start] = []
        drawn = zip(entries, chosen.tokens.tolist(), chosen.logprobs.tolist(), strict=True)
        for row, (entry, token, logprob) in enumerate(drawn):
            start = self._first_token(entry, token, logprob, chosen.best.get(row))
            if start is not None:
                starts.append(start)
        self._change([], starts)
        for state in {id(entry.state): entry.state for entry in entries}.values():
            if state.num_waiting == 0:
                state.last_logits = None
                if not state.shares_block:
                    state.block = None

    def _first_token(
        self, entry: Entry, token: int, logprob: float, best: BestTokens | None
    ) -> Start | None:
        """Finish a sample at its first token, or return what enters a row."""
        state = entry.state
        if state.error is not None:
            return None
        if not np.isfinite(logprob):
            self._fail(state)
            return None
        watch = None if state.rules.make_watch is None else state.rules.make_watch()
        stopped = token in state.rules.tokens or (watch is not None and watch.push(token))
        goes_on = not stopped and state.max_new > 1
        reason: StopReason = "stop" if stopped else "length"
        if state.job.stream:
            last = None if goes_on else reason
            told = SampledToken(state.job.job_id, entry.sample, token, logprob, last)
            self._told.append(told)
        if goes_on:
            return Start(entry, watch, token, logprob, best)
        sequence = SampledSequence(
            stop_reason=reason,
            tokens_np=[token],
            logprobs_np=[logprob],
            topk_logprobs_np=None if best is None else best_table([best]),
        )
        self._finish(entry, sequence)
        return None

    def _room_for(self, state: JobState, starting: Sequence[Entry]) -> int:
        """How many samples of a job the cache has room for; at least one when it is empty."""
        rows = len(self._rows) + len(starting)
        states = {id(state): state, **{id(entry.state): entry.state for entry in starting}}
        needed = [self._rows.positions_needed()]
        needed += [other.num_in_slot + other.max_new for other in states.values()]
        positions = max(bucket(max(needed), 64), self._cache.num_positions if rows else 0)
        blocks = [prompt.block for prompt in self._rows.shared_prompts()]
        blocks += [s.block for s in states.values() if s.shares_block and s.block is not None]
        shared = {id(block): block.num_bytes for block in blocks}
        slot_bytes = self._decoder.shape.bytes_per_position * positions
        room = (self._limits.max_cache_bytes - sum(shared.values())) // slot_bytes - rows
        return max(room, 0 if rows else 1)

    def _decode(self) -> None:
        rows, device = self._rows, self._decoder.shape.device
        order = rows.order
        places = rows.lengths[order] - rows.offsets[order]
        longest = int(places.max()) + 1
        self._cache.reserve(len(rows), longest, max_slots=rows.capacity)
        length = min(-(-longest // _LENGTH_STEP) * _LENGTH_STEP, self._cache.num_positions)
        packed = np.stack((rows.last[order], rows.lengths[order], places))
        tokens, positions, place = torch.from_numpy(packed).to(device).unbind(0)
        self._cache.mask[torch.arange(len(rows), device=device), place] = 0
        if self._routing is None:
            groups = [SnapshotRows(a, b, state.snapshot) for a, b, state in rows.groups()]
            self._routing = self._decoder.route(groups, len(rows))
            self._shared = rows.shared_prompts()
        batch = DecodeBatch(tokens, positions, place, length, self._shared)
        hidden = self._decoder.decode(batch, self._cache, self._routing)
        logits = self._decoder.logits(hidden, self._routing)
        chosen = choose_tokens(logits, rows.settings, rows.uniforms())
        ended, stopped = rows.push(chosen)
        stops = dict(zip(ended.tolist(), stopped.tolist(), strict=True))
        self._tell(chosen, stops)
        broken = np.flatnonzero(~np.isfinite(chosen.logprobs))
        if ended.size or broken.size:
            self._leave(stops, broken.tolist())

    def _tell(self, chosen: Chosen, ended: Mapping[int, bool]) -> None:
        """Note the tokens of rows whose jobs stream."""
        for slot, entry in self._rows.streaming:
            token, logprob = int(chosen.tokens[slot]), float(chosen.logprobs[slot])
            if np.isfinite(logprob):  # else the job fails in this step
                reason: StopReason = "stop" if ended.get(slot) else "length"
                last = reason if slot in ended else None
                job_id = entry.state.job.job_id
                self._told.append(SampledToken(job_id, entry.sample, token, logprob, last))

    def _leave(self, ended: Mapping[int, bool], broken: Sequence[int]) -> None:
        """Finish the samples in ended slots; fail jobs whose logits are not finite."""
        live = self._rows.live()
        for slot in broken:
            self._fail(live[slot].state)
        failed = [slot for slot, entry in enumerate(live) if entry.state.error is not None]
        for slot in failed:
            self._cache.erase(slot)
        for slot, was_stop in ended.items():
            if live[slot].state.error is None:
                self._finish(live[slot], self._rows.sequence(slot, stopped=was_stop))
        self._change(sorted({*ended, *failed}), [])

    def _change(self, removed: Sequence[int], starts: Sequence[Start]) -> None:
        """Change which samples are in rows, and the cache with them."""
        if not (removed or starts):
            return
        with torch.inference_mode():
            count = len(self._rows) - len(removed) + len(starts)
            longest = max((start.entry.state.num_in_slot + 1 for start in starts), default=0)
            self._cache.reserve(count, longest, max_slots=self._rows.capacity)
            moves = self._rows.change(removed, starts)
            self._cache.move(moves.sources, moves.targets)
            for start, slot in zip(starts, moves.entered, strict=True):
                state = start.entry.state
                self._cache.write(slot, None if state.shares_block else state.block)
            if count == 0 and self._cache.num_bytes > _KEPT_CACHE_BYTES:
                self._cache.clear()
        self._routing = None
        self._shared = []

    def _finish(self, entry: Entry, sequence: SampledSequence) -> None:
        state = entry.state
        state.finish(entry.sample, sequence)
        if state.num_done == state.job.num_samples:
            self._done.append(state.result())

    def _fail(self, state: JobState) -> None:
        if state.error is not None:
            return
        state.error = UserError(
            f"snapshot_id={state.job.snapshot_id!r}: the model's logits are not finite",
            field="snapshot_id",
            hint="the adapter's weights have diverged; sample an earlier checkpoint",
        )
        self._ready = deque(other for other in self._ready if other is not state)
        self._done.append(state.result())
