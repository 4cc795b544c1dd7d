"""What a sample may ask about its prompt and its tokens: the rules, without torch.

The service checks a request by them before it accepts it, the engine once more before it runs.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from tinsmith.core.errors import UserError
from tinsmith.types import TensorData

__all__ = ["SampleOptions", "check_sample_options", "target_rows"]


class SampleOptions(Protocol):
    """The options of a request or a job, under the protocol's names."""

    @property
    def prompt_logprobs(self) -> bool: ...
    @property
    def topk_prompt_logprobs(self) -> int: ...
    @property
    def topk_sample_logprobs(self) -> int: ...
    @property
    def prompt_alt_tokens_k(self) -> int: ...
    @property
    def prompt_logprobs_last_n(self) -> int | None: ...
    @property
    def target_prompt_logprobs(self) -> TensorData | None: ...


def check_sample_options(
    options: SampleOptions, *, prompt_length: int, vocab_size: int, max_width: int
) -> None:
    """Check what is asked beside the tokens.

    Args:
        options: of the request.
        prompt_length: tokens of the prompt, at least 1.
        vocab_size: token ids are below it.
        max_width: most tokens that may be asked for at one position.

    Raises:
        UserError: naming the option.
    """
    for name in ("topk_prompt_logprobs", "topk_sample_logprobs", "prompt_alt_tokens_k"):
        width = getattr(options, name)
        # Draws repeat, likeliest tokens do not.
        limit = max_width if name == "prompt_alt_tokens_k" else min(max_width, vocab_size)
        if not 0 <= width <= limit:
            why = f", the size of the vocabulary {vocab_size}" if limit == vocab_size else ""
            raise UserError(f"{name}={width}: must be 0..{limit}{why}", field=name)
    if options.prompt_logprobs_last_n is not None:
        _check_last_n(options.prompt_logprobs_last_n, options.prompt_logprobs, prompt_length)
    if options.target_prompt_logprobs is not None:
        _check_targets(options.target_prompt_logprobs, prompt_length, vocab_size)


def _check_last_n(last_n: int, prompt_logprobs: bool, prompt_length: int) -> None:
    field = "prompt_logprobs_last_n"
    if not prompt_logprobs:
        raise UserError(
            f"{field}={last_n}: there are no prompt logprobs to leave out",
            field=field,
            hint="set prompt_logprobs (include_prompt_logprobs in the SDK)",
        )
    if prompt_length == 1:
        raise UserError(
            f"{field}={last_n}: the only token of the prompt has nothing before it",
            field=field,
            hint=f"leave {field} out",
        )
    if not 1 <= last_n < prompt_length:
        raise UserError(
            f"{field}={last_n}: must be 1..{prompt_length - 1}, the prompt's {prompt_length} "
            "tokens without the first",
            field=field,
        )


def _check_targets(targets: TensorData, prompt_length: int, vocab_size: int) -> None:
    field = "target_prompt_logprobs"
    rows = prompt_length - 1
    if targets.dtype != "int64" or len(targets.shape) != 2 or targets.shape[0] != rows:
        raise UserError(
            f"{field}: {targets.dtype} of shape {targets.shape}; must be int64 of shape "
            f"[{rows}, k] for a prompt of {prompt_length} tokens",
            field=field,
            hint="row i names tokens at prompt position i + 1; -1 leaves a cell out",
        )
    outside = np.flatnonzero((targets.values < -1) | (targets.values >= vocab_size))
    if outside.size:
        token = int(targets.values.flat[outside[0]])
        raise UserError(
            f"{field}: token {token} in row {target_rows(targets)[outside[0]]} must be "
            f"0..{vocab_size - 1}, or -1 for none",
            field=field,
        )
    if not (targets.values >= 0).any():
        raise UserError(
            f"{field}: names no token; at least one cell must not be -1",
            field=field,
            hint=f"leave {field} out",
        )


def target_rows(targets: TensorData) -> np.ndarray:
    """Row of each stored value of a 2-D tensor, dense or sparse, in storage order."""
    rows = np.arange(targets.shape[0])
    if targets.sparse_crow_indices is None:
        return np.repeat(rows, targets.shape[1])
    return np.repeat(rows, np.diff(targets.sparse_crow_indices))
