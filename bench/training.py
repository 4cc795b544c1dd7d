"""Training: tokens per second against the bare loop, and many adapters against one.

Main names: `training_measurements`, `adapter_measurements`, with one custom step among the former.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from bench.batches import Example, datums, equal_examples, num_tokens, ragged_examples
from bench.engines import ADAM, EngineSide, check_same_gradient
from bench.measurement import Measurement, Setting
from bench.models import BenchModel
from bench.peer import Peer
from bench.results import Bound, Row
from bench.timing import compare

__all__ = ["adapter_measurements", "training_measurements"]

NUM_ADAPTERS = 8


class _Pair:
    """An engine and a peer with the same adapter."""

    def __init__(self, model: BenchModel, scratch: Path) -> None:
        self.model = model
        self.scratch = scratch

    @cached_property
    def sides(self) -> tuple[EngineSide, Peer]:
        """Both, once it is certain that they compute the same."""
        ours = EngineSide(self.model)
        examples = equal_examples(4, 32, self.model.vocab_size)
        directory = Path(tempfile.mkdtemp(dir=self.scratch)) / "adapter"
        adapter = ours.saved_after_a_step(examples, directory)
        peer = Peer.from_adapter(self.model.path, adapter, learning_rate=ADAM.learning_rate)
        check_same_gradient(ours, peer, examples)
        check_same_gradient(ours, peer, ragged_examples(0, self.model.vocab_size)[:8])
        return ours, peer

    def measure(self, name: str, batches: list[list[Example]], target: float) -> Row:
        """One step a batch, on both sides."""
        ours, peer = self.sides
        encoded = [{ours.adapter_ids[0]: datums(examples)} for examples in batches]
        comparison = compare(
            lambda: [ours.train_step(data) for data in encoded],
            lambda: [peer.train_step(examples) for examples in batches],
            rounds=self.model.rounds,
        )
        return comparison.row(
            name,
            self.model.name,
            amount=sum(map(num_tokens, batches)),
            unit="tokens/s",
            target=Bound("at least", target),
        )


def training_measurements(setting: Setting) -> Iterator[Measurement]:
    """forward_backward and optim_step against the bare loop."""
    count = 4 if setting.quick else 16
    for model in setting.models:
        pair = _Pair(model, setting.scratch)
        equal = [equal_examples(count, 128, model.vocab_size)]
        ragged = [ragged_examples(i, model.vocab_size) for i in range(model.ragged_batches)]
        for name, batches, target in (
            (f"training, {count} x 128 tokens", equal, 1.0),
            ("training, lengths of real chats", ragged, 1.5),
        ):
            yield Measurement(
                name,
                model.name,
                lambda name=name, batches=batches, target=target, pair=pair: pair.measure(
                    name, batches, target
                ),
            )
        yield _custom_measurement(model, count)


def _custom_measurement(model: BenchModel, count: int) -> Measurement:
    name = f"custom loss, {count} x 128 tokens, kept graph against two passes"
    return Measurement(name, model.name, lambda: _measure_custom(name, model, count))


def _measure_custom(name: str, model: BenchModel, count: int) -> Row:
    """A custom step is a forward, a loss elsewhere, and a backward; the loss is left out here."""
    side = EngineSide(model)
    examples = equal_examples(count, 128, model.vocab_size)
    data = datums(examples)
    comparison = compare(
        lambda: side.custom_step(data, keeps_graph=True),
        lambda: side.custom_step(data, keeps_graph=False),
        rounds=model.rounds,
    )
    return comparison.row(
        name,
        model.name,
        amount=num_tokens(examples),
        unit="tokens/s",
        target=Bound("at least", 1 / 0.75),  # a quarter of the time less
    )


def adapter_measurements(setting: Setting) -> Iterator[Measurement]:
    """Eight adapters in one pass against one adapter with all the work."""
    each = 1 if setting.quick else 4
    name = f"{NUM_ADAPTERS} adapters at once, against one"
    for model in setting.models:
        yield Measurement(
            name, model.name, lambda model=model: _measure_adapters(name, model, each)
        )


def _measure_adapters(name: str, model: BenchModel, each: int) -> Row:
    side = EngineSide(model, num_adapters=NUM_ADAPTERS)
    examples = equal_examples(each * NUM_ADAPTERS, 128, model.vocab_size)
    data = datums(examples)
    shared = {
        adapter_id: data[index * each : (index + 1) * each]
        for index, adapter_id in enumerate(side.adapter_ids)
    }
    alone = {side.adapter_ids[0]: data}
    comparison = compare(
        lambda: side.train_step(shared), lambda: side.train_step(alone), rounds=model.rounds
    )
    return comparison.row(
        name,
        model.name,
        amount=num_tokens(examples),
        unit="tokens/s",
        target=Bound("at least", 0.85),
    )
