"""Sampling: tokens per second against `transformers.generate` on the PEFT model.

Both sides continue the same prompts by the same number of tokens at temperature 1, and nothing
stops a sequence early. Main name: `sampling_measurements`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from bench.batches import equal_examples
from bench.engines import ADAM, EngineSide
from bench.measurement import Measurement, Setting
from bench.models import BenchModel
from bench.peer import Peer
from bench.results import Bound, Row
from bench.timing import compare

__all__ = ["sampling_measurements"]

LOGPROB_TOLERANCE = 1e-3


@dataclass(frozen=True)
class _Case:
    name: str
    num_prompts: int
    prompt_tokens: int
    copies: int
    """Samples of each prompt."""
    num_tokens: int
    """New tokens of each sample."""
    target: float
    is_long: bool = False


CASES = (
    _Case("sampling, 1 sequence", 1, 64, 1, 64, 2.0),
    _Case("sampling, 16 sequences", 16, 64, 1, 64, 2.0),
    _Case("sampling, 64 sequences", 64, 64, 1, 64, 1.5, is_long=True),
    _Case("16 samples of a 512-token prompt", 1, 512, 16, 64, 3.0, is_long=True),
)


class _Sides(NamedTuple):
    ours: EngineSide
    snapshot_id: str
    peer: Peer


class _Pair:
    """A sampler and a peer with the same adapter."""

    def __init__(self, model: BenchModel, setting: Setting) -> None:
        self.model = model
        self.setting = setting

    @cached_property
    def sides(self) -> _Sides:
        """Both, once it is certain that they compute the same."""
        ours = EngineSide(self.model)
        directory = Path(tempfile.mkdtemp(dir=self.setting.scratch)) / "adapter"
        examples = equal_examples(4, 32, self.model.vocab_size)
        adapter = ours.saved_after_a_step(examples, directory)
        peer = Peer.from_adapter(self.model.path, adapter, learning_rate=ADAM.learning_rate)
        sides = _Sides(ours, ours.engine.load_snapshot(adapter), peer.for_sampling())
        self._check(sides, examples[0].tokens)
        return sides

    def measure(self, case: _Case) -> Row:
        """Both sides on one case."""
        ours, snapshot_id, peer = self.sides
        num_tokens = 8 if self.setting.quick else case.num_tokens
        examples = equal_examples(case.num_prompts, case.prompt_tokens - 1, self.model.vocab_size)
        prompts = [example.tokens for example in examples]
        comparison = compare(
            lambda: ours.sample(
                prompts, snapshot_id=snapshot_id, num_tokens=num_tokens, copies=case.copies
            ),
            lambda: peer.generate(prompts, num_tokens=num_tokens, copies=case.copies),
            rounds=self.model.long_rounds if case.is_long else self.model.rounds,
        )
        return comparison.row(
            case.name,
            self.model.name,
            amount=case.num_prompts * case.copies * num_tokens,
            unit="tokens/s",
            target=Bound("at least", case.target),
        )

    def _check(self, sides: _Sides, prompt: list[int]) -> None:
        """Compare the logprobs of sampled tokens, and the number of tokens.

        Raises:
            RuntimeError: they differ.
        """
        count = 8
        (response,) = sides.ours.sample(
            [prompt], snapshot_id=sides.snapshot_id, num_tokens=count, copies=1
        )
        tokens = list(response.sequences[0].tokens)
        num_theirs = sides.peer.generate([prompt], num_tokens=count, copies=1).shape[1]
        if not len(tokens) == num_theirs == count:
            raise RuntimeError(
                f"asked for {count} tokens: {len(tokens)} here, {num_theirs} at the peer"
            )
        theirs = sides.peer.logprobs([*prompt, *tokens])[-count:].tolist()
        ours = response.sequences[0].logprobs or []
        gap = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
        if gap > LOGPROB_TOLERANCE:
            raise RuntimeError(f"logprobs differ from the peer's by up to {gap:.2g}")


def sampling_measurements(setting: Setting) -> Iterator[Measurement]:
    """Every case on every model."""
    for model in setting.models:
        pair = _Pair(model, setting)
        for case in CASES:
            yield Measurement(
                case.name, model.name, lambda pair=pair, case=case: pair.measure(case)
            )
