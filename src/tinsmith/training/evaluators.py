"""Evaluators: what a loop measures between steps, without touching what is trained.

`NLLEvaluator` measures held-out data by forward passes; evaluators that need samples are in
`sampling_evaluators`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tinsmith.data.supervised import SupervisedDataset
from tinsmith.training import names
from tinsmith.types import Datum, ForwardBackwardOutput, LossFnOutput

if TYPE_CHECKING:
    from tinsmith.client import TrainingClient


class Evaluator(Protocol):
    """Measures the current weights."""

    async def __call__(self, client: TrainingClient) -> Mapping[str, float]:
        """Metrics of the weights as they are now."""
        ...


def sum_nll(data: Sequence[Datum], outputs: Sequence[LossFnOutput]) -> tuple[float, int]:
    """Sum of the trained tokens' negative log-likelihoods, in nats and float64, and their number.

    A token is trained if its weight is not 0; how much it weighs in the loss does not matter here.
    """
    nll = 0.0
    num_tokens = 0
    for datum, result in zip(data, outputs, strict=True):
        trained = datum.loss_fn_inputs["weights"].to_numpy() != 0
        logprobs = result["logprobs"].to_numpy()[trained]
        nll -= float(logprobs.sum(dtype=np.float64))
        num_tokens += int(trained.sum())
    return nll, num_tokens


class TextSpan(NamedTuple):
    """The text among a datum's trained targets: everything but control tokens.

    Attributes:
        is_text: One truth value a target.
        num_bytes: UTF-8 bytes of that text.
    """

    is_text: NDArray[np.bool_]
    num_bytes: int


class _Sums(NamedTuple):
    """Sums over data, in nats and float64."""

    nll: float = 0.0
    num_tokens: int = 0
    text_nll: float = 0.0
    num_bytes: int = 0


@dataclass(frozen=True)
class HeldOutSet:
    """One set of held-out data, ready to be sent.

    Attributes:
        batches: Datums with weights 0 or 1.
        spans: The text of every datum; None leaves bits per byte out.
    """

    batches: tuple[tuple[Datum, ...], ...]
    spans: tuple[tuple[TextSpan, ...], ...] | None = None

    @classmethod
    def from_dataset(cls, dataset: SupervisedDataset, batch_size: int) -> HeldOutSet:
        tokenizer = dataset.form.renderer.tokenizer
        datums = [built.datum for built in dataset.build(range(len(dataset)))]
        starts = range(0, len(datums), batch_size)
        batches = tuple(tuple(datums[start : start + batch_size]) for start in starts)
        spans = tuple(tuple(text_span(datum, tokenizer) for datum in batch) for batch in batches)
        return cls(batches, spans)

    def sums(self, outputs: Sequence[ForwardBackwardOutput]) -> _Sums:
        nll, num_tokens, text_nll, num_bytes = 0.0, 0, 0.0, 0
        for place, (batch, output) in enumerate(zip(self.batches, outputs, strict=True)):
            batch_nll, batch_tokens = sum_nll(batch, output.loss_fn_outputs)
            nll, num_tokens = nll + batch_nll, num_tokens + batch_tokens
            if self.spans is None:
                continue
            for span, result in zip(self.spans[place], output.loss_fn_outputs, strict=True):
                logprobs = result["logprobs"].to_numpy()[span.is_text]
                text_nll -= float(logprobs.sum(dtype=np.float64))
                num_bytes += span.num_bytes
        return _Sums(nll, num_tokens, text_nll, num_bytes)


def text_span(datum: Datum, tokenizer: Any) -> TextSpan:
    """Find the text among a datum's trained targets, and count its bytes.

    A text that was cut inside a character counts the three bytes of the replacement character.
    """
    targets = datum.loss_fn_inputs["target_tokens"].to_numpy()
    control = [*getattr(tokenizer, "all_special_ids", ()), *tokenizer.get_added_vocab().values()]
    is_text = (datum.loss_fn_inputs["weights"].to_numpy() != 0) & ~np.isin(targets, control)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], is_text.astype(np.int8), [0]])))
    num_bytes = sum(
        len(tokenizer.decode(targets[start:end].tolist(), skip_special_tokens=False).encode())
        for start, end in zip(edges[::2], edges[1::2], strict=True)
    )
    return TextSpan(is_text, num_bytes)


@dataclass(frozen=True)
class NLLEvaluator:
    """Mean negative log-likelihood of the trained tokens of held-out data.

    Runs forward passes only: no gradient is accumulated, so training goes on as if it had not been
    asked. Bits per byte leave control tokens out, in the likelihood and in the bytes, so that chat
    formats and vocabularies can be compared.

    Attributes:
        sets: Held-out sets by name. Each named set has metrics of its own, `eval/NAME/nll`; those
            without a name are over all sets together.
    """

    sets: Mapping[str, HeldOutSet]

    @classmethod
    def from_dataset(cls, dataset: SupervisedDataset, batch_size: int) -> NLLEvaluator:
        """One set, without a name."""
        return cls.from_datasets({"": dataset}, batch_size)

    @classmethod
    def from_datasets(
        cls, datasets: Mapping[str, SupervisedDataset], batch_size: int
    ) -> NLLEvaluator:
        """Sets by name; empty ones are left out."""
        return cls(
            {
                name: HeldOutSet.from_dataset(dataset, batch_size)
                for name, dataset in datasets.items()
                if len(dataset)
            }
        )

    async def __call__(self, client: TrainingClient) -> Mapping[str, float]:
        asked = {
            name: [client.forward(list(batch), "cross_entropy") for batch in held_out.batches]
            for name, held_out in self.sets.items()
        }
        sums = {
            name: self.sets[name].sums([await future for future in futures])
            for name, futures in asked.items()
        }
        metrics = _metrics("", _Sums(*(sum(column) for column in zip(*sums.values(), strict=True))))
        for name, found in sums.items():
            if name:
                metrics |= _metrics(name, found)
        return metrics


def _metrics(name: str, sums: _Sums) -> dict[str, float]:
    metrics: dict[str, float] = {
        names.EVAL_NLL: sums.nll / sums.num_tokens,
        names.EVAL_NUM_LOSS_TOKENS: sums.num_tokens,
    }
    if sums.num_bytes:
        metrics[names.EVAL_BITS_PER_BYTE] = sums.text_nll / math.log(2) / sums.num_bytes
    return {names.of_set(key, name): value for key, value in metrics.items()}
