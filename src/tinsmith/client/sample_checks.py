"""What may be asked of a sampler, and whether it was answered: pure functions.

A service that does not know an option ignores it and samples without; that is said instead of
handing back half an answer. Main names: `check_prompt`, `check_options`,
`check_answer`.
"""

from __future__ import annotations

import numpy as np

from tinsmith.client.errors import APIResponseValidationError
from tinsmith.core.errors import UserError
from tinsmith.types import ModelInput, SampleRequest, SampleResponse, TensorData


def check_prompt(prompt: object) -> None:
    """Refuse what is no prompt.

    Raises:
        UserError: it is of another type.
    """
    if not isinstance(prompt, ModelInput):
        raise UserError(
            f"prompt: a {type(prompt).__name__}; must be a ModelInput",
            field="prompt",
            hint="ModelInput.from_ints(tokens) makes one of token ids",
        )


def check_options(
    *,
    include_prompt_logprobs: bool,
    target_prompt_logprobs: TensorData | None,
    prompt_logprobs_last_n: int | None,
) -> None:
    """Refuse what no service could answer.

    Raises:
        UserError: naming the argument.
    """
    if target_prompt_logprobs is not None:
        if not isinstance(target_prompt_logprobs, TensorData):  # pyright: ignore[reportUnnecessaryIsInstance] - scripts are not type-checked
            raise UserError(
                f"target_prompt_logprobs: a {type(target_prompt_logprobs).__name__}; must be a "
                "TensorData",
                field="target_prompt_logprobs",
                hint="TensorData.from_numpy(array) makes one",
            )
        shape, dtype = list(target_prompt_logprobs.shape), target_prompt_logprobs.dtype
        if dtype != "int64" or len(shape) != 2:
            raise UserError(
                f"target_prompt_logprobs: {dtype} of shape {shape}; must be int64 of shape "
                "[len(prompt) - 1, k]",
                field="target_prompt_logprobs",
                hint="row i names tokens at prompt position i + 1; -1 leaves a cell out",
            )
    if prompt_logprobs_last_n is not None:
        if prompt_logprobs_last_n < 1:
            raise UserError(
                f"prompt_logprobs_last_n={prompt_logprobs_last_n}: must be 1 or more",
                field="prompt_logprobs_last_n",
            )
        if not include_prompt_logprobs:
            raise UserError(
                "prompt_logprobs_last_n: there are no prompt logprobs to leave out",
                field="prompt_logprobs_last_n",
                hint="set include_prompt_logprobs=True",
            )


def check_answer(request: SampleRequest, response: SampleResponse) -> None:
    """Refuse an answer that leaves out what was asked for.

    Raises:
        APIResponseValidationError: naming the option that the service ignored.
    """
    has_tokens = any(sequence.tokens_np.size for sequence in response.sequences)
    missing = {
        "prompt_logprobs": request.prompt_logprobs and response.prompt_logprobs_np is None,
        "topk_prompt_logprobs": request.topk_prompt_logprobs > 0
        and response.topk_prompt_logprobs_np is None,
        "topk_sample_logprobs": request.topk_sample_logprobs > 0
        and has_tokens
        and all(sequence.topk_logprobs_np is None for sequence in response.sequences),
        "target_prompt_logprobs": request.target_prompt_logprobs is not None
        and response.target_prompt_logprobs is None,
        "prompt_alt_tokens_k": request.prompt_alt_tokens_k > 0
        and response.prompt_alt_tokens is None,
    }
    for option, is_missing in missing.items():
        if is_missing:
            raise _ignored(option, f"{option} was asked for and did not come")
    logprobs, last_n = response.prompt_logprobs_np, request.prompt_logprobs_last_n
    if logprobs is not None and last_n is not None and not np.isnan(logprobs[:-last_n]).all():
        raise _ignored(
            "prompt_logprobs_last_n",
            f"prompt_logprobs_last_n={last_n} was asked for and logprobs before that came",
        )


def _ignored(option: str, message: str) -> APIResponseValidationError:
    return APIResponseValidationError(
        f"sample: {message}", field=option, hint="the service may not know this option"
    )
