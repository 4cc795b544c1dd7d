"""Results of training and sampling as JSON, for clients that do not read protobuf.

Results are kept in their binary form. Early releases of the official client ask for
`Accept: application/json` when they fetch one, and can read nothing else. The values are the same;
a number that JSON lacks goes by its name, "NaN", "Infinity" or "-Infinity".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import TypeAdapter

from tinsmith.core.errors import ServerError
from tinsmith.server.futures import PROTOBUF_TYPE, SAMPLE_TYPE, TRAINING_TYPE, Outcome
from tinsmith.types import SampledSequence, SampleResponse, TensorData
from tinsmith.types.codec import decode_forward_backward_output, decode_sample_response

__all__ = ["as_json", "takes_protobuf"]

_PROTOBUF_RANGES = frozenset((PROTOBUF_TYPE, "application/protobuf", "application/*", "*/*"))


def takes_protobuf(accept: str | None) -> bool:
    """Whether a request's Accept header lets a binary result through; without one, it does."""
    if not accept:
        return True
    names = (part.partition(";")[0].strip() for part in accept.lower().split(","))
    return not _PROTOBUF_RANGES.isdisjoint(names)


def as_json(outcome: Outcome) -> Outcome:
    """The same result in JSON.

    Raises:
        ServerError: it is of a kind that has no JSON form.
    """
    if outcome.media_type == TRAINING_TYPE:
        output = decode_forward_backward_output(outcome.body)
        metrics = {name: _number(value) for name, value in output.metrics.items()}
        return Outcome.from_json({**output.model_dump(mode="json"), "metrics": metrics})
    if outcome.media_type == SAMPLE_TYPE:
        return Outcome.from_json(_sample(decode_sample_response(outcome.body)))
    raise ServerError(
        f"this result is {outcome.content_type}: it has no JSON form",
        hint="send Accept: application/x-protobuf",
    )


def _sample(response: SampleResponse) -> dict[str, object]:
    told: dict[str, object] = {
        "type": "sample",
        "sequences": [_sequence(sequence) for sequence in response.sequences],
        "prompt_logprobs": _numbers(response.prompt_logprobs),
        "topk_prompt_logprobs": _table(response.topk_prompt_logprobs),
        "prompt_cache_hit_tokens": response.prompt_cache_hit_tokens,
    }
    if response.target_prompt_logprobs is not None:
        told["target_prompt_logprobs"] = _tensor(response.target_prompt_logprobs)
    if response.prompt_alt_tokens is not None:
        table = response.prompt_alt_tokens
        tensors = {"tokens": _tensor(table.tokens), "logprobs": _tensor(table.logprobs)}
        told["prompt_alt_tokens"] = tensors
    return told


def _sequence(sequence: SampledSequence) -> dict[str, object]:
    told: dict[str, object] = {
        "stop_reason": sequence.stop_reason,
        "tokens": sequence.tokens,
        "logprobs": _numbers(sequence.logprobs),
    }
    if sequence.topk_logprobs_np is not None:
        told["topk_logprobs"] = _table(sequence.topk_logprobs)
    return told


_TENSOR = TypeAdapter(TensorData)


def _tensor(tensor: TensorData) -> object:
    return _TENSOR.dump_python(tensor, mode="json")


def _numbers(values: Sequence[float | None] | None) -> list[float | str | None] | None:
    return None if values is None else [_number(value) for value in values]


def _number(value: float | None) -> float | str | None:
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _table(
    rows: Sequence[Sequence[tuple[int, float]] | None] | None,
) -> list[list[list[object]] | None] | None:
    if rows is None:
        return None
    return [
        None if row is None else [[token, _number(logprob)] for token, logprob in row]
        for row in rows
    ]
