"""What sampling returns: NumPy arrays inside, plain lists for people.

An absent log-probability is NaN in the array and None in the list; an absent cell of a top-k table
is (0, -99999.0) and is left out of the list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from tinsmith.core.errors import DataError
from tinsmith.types._arrays import FloatArray, arrays_equal, frozen_array, to_token_array
from tinsmith.types.tensor_data import TensorData

__all__ = [
    "EMPTY_LOGPROB",
    "PromptAltTokens",
    "SampleResponse",
    "SampledSequence",
    "StopReason",
    "TopkLogprobs",
]

StopReason = Literal["stop", "length"]
"""Why a sequence ended: at a stop text or token, or at its greatest length."""

EMPTY_LOGPROB = -99999.0
"""Marks an empty cell of a top-k table, together with token 0."""

TokenLogprob = tuple[int, float]


@dataclass(frozen=True, eq=False)
class TopkLogprobs:
    """The k likeliest tokens at each of n positions, likeliest first.

    Attributes:
        token_ids: int32 [n, k].
        logprobs: float32 [n, k].
    """

    token_ids: npt.NDArray[np.int32]
    logprobs: FloatArray

    def __post_init__(self) -> None:
        token_ids = np.asarray(self.token_ids)
        flat = to_token_array(token_ids.reshape(-1), field="token_ids")
        logprobs = np.asarray(self.logprobs, np.float32)
        if token_ids.ndim != 2 or logprobs.shape != token_ids.shape:
            raise DataError(
                f"token_ids {token_ids.shape} and logprobs {logprobs.shape}: must be [n, k], alike",
                field="token_ids",
            )
        object.__setattr__(self, "token_ids", frozen_array(flat.reshape(token_ids.shape)))
        object.__setattr__(self, "logprobs", frozen_array(logprobs))

    def tolist(self) -> list[list[TokenLogprob] | None]:
        """Return (token, logprob) pairs at each position; None where there are none."""
        rows: list[list[TokenLogprob] | None] = []
        for tokens, logprobs in zip(self.token_ids.tolist(), self.logprobs.tolist(), strict=True):
            pairs = cast("list[TokenLogprob]", list(zip(tokens, logprobs, strict=True)))
            while pairs and pairs[-1] == (0, EMPTY_LOGPROB):
                pairs.pop()
            rows.append(pairs if pairs and pairs[0] != (0, EMPTY_LOGPROB) else None)
        return rows

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TopkLogprobs):
            return NotImplemented
        return arrays_equal(self.token_ids, other.token_ids) and arrays_equal(
            self.logprobs, other.logprobs
        )

    __hash__ = None  # type: ignore[assignment]  # arrays are not hashable


@dataclass(frozen=True)
class PromptAltTokens:
    """Other tokens that the model might have read at each position of a prompt of L tokens.

    Attributes:
        tokens: int64 [L - 1, k].
        logprobs: float32 [L - 1, k].
    """

    tokens: TensorData
    logprobs: TensorData


class SampledSequence:
    """One continuation of a prompt. Arrays may be given under either name.

    Attributes:
        stop_reason: "stop" or "length".
        sequence_id: the service's name for it, if it has one.
        tokens_np: int32 [n], the end token included if one was drawn.
        logprobs_np: float32 [n], of each token when it was drawn; None if absent.
        topk_logprobs_np: the likeliest tokens at each position; None if not asked for.
    """

    __slots__ = ("logprobs_np", "sequence_id", "stop_reason", "tokens_np", "topk_logprobs_np")

    stop_reason: StopReason
    sequence_id: str
    tokens_np: npt.NDArray[np.int32]
    logprobs_np: FloatArray | None
    topk_logprobs_np: TopkLogprobs | None

    def __init__(
        self,
        stop_reason: StopReason,
        sequence_id: str = "",
        tokens_np: npt.ArrayLike | None = None,
        logprobs_np: npt.ArrayLike | None = None,
        topk_logprobs_np: TopkLogprobs | None = None,
        *,
        tokens: npt.ArrayLike | None = None,
        logprobs: npt.ArrayLike | None = None,
    ) -> None:
        if stop_reason not in ("stop", "length"):
            raise DataError(
                f"stop_reason={stop_reason!r}: must be 'stop' or 'length'", field="stop_reason"
            )
        given = tokens_np if tokens_np is not None else tokens
        token_array = to_token_array([] if given is None else given)
        logprob_array = _logprob_array(logprobs_np if logprobs_np is not None else logprobs)
        if logprob_array is not None and logprob_array.size != token_array.size:
            raise DataError(
                f"logprobs: {logprob_array.size} for {token_array.size} tokens", field="logprobs"
            )
        for name, value in (
            ("stop_reason", stop_reason),
            ("sequence_id", sequence_id),
            ("tokens_np", frozen_array(token_array)),
            ("logprobs_np", logprob_array),
            ("topk_logprobs_np", topk_logprobs_np),
        ):
            object.__setattr__(self, name, value)

    @property
    def tokens(self) -> list[int]:
        return self.tokens_np.tolist()

    @property
    def logprobs(self) -> list[float] | None:
        return None if self.logprobs_np is None else self.logprobs_np.tolist()

    @property
    def topk_logprobs(self) -> list[list[TokenLogprob] | None] | None:
        return None if self.topk_logprobs_np is None else self.topk_logprobs_np.tolist()

    def with_sequence_id(self, sequence_id: str) -> SampledSequence:
        """Return the same sequence under the service's name for it."""
        return SampledSequence(
            stop_reason=self.stop_reason,
            sequence_id=sequence_id,
            tokens_np=self.tokens_np,
            logprobs_np=self.logprobs_np,
            topk_logprobs_np=self.topk_logprobs_np,
        )

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"SampledSequence is frozen: cannot set {name!r}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SampledSequence):
            return NotImplemented
        return (
            self.stop_reason == other.stop_reason
            and self.sequence_id == other.sequence_id
            and arrays_equal(self.tokens_np, other.tokens_np)
            and arrays_equal(self.logprobs_np, other.logprobs_np)
            and self.topk_logprobs_np == other.topk_logprobs_np
        )

    __hash__ = None  # type: ignore[assignment]  # arrays are not hashable

    def __reduce__(self) -> tuple[Any, ...]:  # Any: the protocol of pickle
        return _rebuild_sequence, (
            self.stop_reason,
            self.tokens_np,
            self.logprobs_np,
            self.topk_logprobs_np,
            self.sequence_id,
        )

    def __repr__(self) -> str:
        head = ", ".join(map(str, self.tokens_np[:6].tolist()))
        more = ", ..." if self.tokens_np.size > 6 else ""
        return (
            f"SampledSequence({self.tokens_np.size} tokens: {head}{more}; "
            f"stop_reason={self.stop_reason!r})"
        )


def _rebuild_sequence(
    stop_reason: StopReason,
    tokens: npt.NDArray[np.int32],
    logprobs: FloatArray | None,
    topk_logprobs: TopkLogprobs | None,
    sequence_id: str,
) -> SampledSequence:
    return SampledSequence(
        stop_reason=stop_reason,
        tokens_np=tokens,
        logprobs_np=logprobs,
        topk_logprobs_np=topk_logprobs,
        sequence_id=sequence_id,
    )


@dataclass(frozen=True, eq=False)
class SampleResponse:
    """Continuations of one prompt of L tokens, and what was asked about the prompt itself.

    Attributes:
        sequences: one for each sample asked for.
        prompt_logprobs_np: float32 [L]; NaN where absent, as for the first token.
        topk_prompt_logprobs_np: the likeliest tokens at each position of the prompt.
        target_prompt_logprobs: log-probabilities of tokens that the request named.
        prompt_alt_tokens: other tokens at each position of the prompt.
        prompt_cache_hit_tokens: tokens of the prompt that were not computed again.
    """

    sequences: list[SampledSequence]
    prompt_logprobs_np: FloatArray | None = None
    topk_prompt_logprobs_np: TopkLogprobs | None = None
    target_prompt_logprobs: TensorData | None = None
    prompt_cache_hit_tokens: int = 0
    prompt_alt_tokens: PromptAltTokens | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt_logprobs_np", _logprob_array(self.prompt_logprobs_np))

    @property
    def prompt_logprobs(self) -> list[float | None] | None:
        """Log-probability of each token of the prompt; None where there is none."""
        if self.prompt_logprobs_np is None:
            return None
        values = cast("list[float]", self.prompt_logprobs_np.tolist())
        return [None if value != value else value for value in values]  # NaN differs from itself

    @property
    def topk_prompt_logprobs(self) -> list[list[TokenLogprob] | None] | None:
        table = self.topk_prompt_logprobs_np
        return None if table is None else table.tolist()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SampleResponse):
            return NotImplemented
        return (
            self.sequences == other.sequences
            and arrays_equal(self.prompt_logprobs_np, other.prompt_logprobs_np)
            and self.topk_prompt_logprobs_np == other.topk_prompt_logprobs_np
            and self.target_prompt_logprobs == other.target_prompt_logprobs
            and self.prompt_alt_tokens == other.prompt_alt_tokens
            and self.prompt_cache_hit_tokens == other.prompt_cache_hit_tokens
        )

    __hash__ = None  # type: ignore[assignment]  # arrays are not hashable


def _logprob_array(value: npt.ArrayLike | None) -> FloatArray | None:
    if value is None:
        return None
    try:
        array = np.asarray(value, np.float32)  # None in a list becomes NaN
    except (ValueError, TypeError) as error:
        raise DataError(f"logprobs: not numbers: {error}", field="logprobs") from error
    if array.ndim != 1:
        raise DataError(f"logprobs: {array.ndim} dimensions; must be flat", field="logprobs")
    return frozen_array(array)
