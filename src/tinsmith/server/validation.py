"""Checks of what a request asks for, made before it is accepted.

Each raises an error that names the field and what is allowed; the engine checks what it relies on
once more. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from tinsmith.algorithms.loss_graph import LossGraph, check_graph_inputs
from tinsmith.algorithms.loss_inputs import (
    check_loss_config,
    check_loss_inputs,
    dense_loss_inputs,
    find_loss_inputs,
)
from tinsmith.core.errors import ConfigError, DataError
from tinsmith.engine.sample_options import check_sample_options
from tinsmith.server.errors import RequestError
from tinsmith.server.plain_data import count_plain_tokens
from tinsmith.types import (
    EncodedTextChunk,
    ForwardBackwardRequest,
    LoraConfig,
    ModelInput,
    SampleRequest,
)
from tinsmith.types.codec import PackedData

MAX_NUM_SAMPLES = 4096
MAX_TOKENS_A_POSITION = 128
"""Likeliest or alternative tokens that a sample may ask for at each position."""
MAX_TOPK_CELLS = 2**26
"""Likeliest tokens of all positions of all sequences of one request: half a GiB."""
UNKNOWN_VOCAB_SIZE = 2**31
"""Stands in for a vocabulary that no configuration file states."""


def check_lora_config(config: LoraConfig) -> None:
    """Checks that something is trained."""
    if not (config.train_attn or config.train_mlp or config.train_unembed):
        raise ConfigError(
            "lora_config: train_attn, train_mlp and train_unembed are all false; "
            "at least one must be true",
            field="lora_config.train_attn",
        )


def check_training_request(
    request: ForwardBackwardRequest,
    custom_loss: LossGraph | None,
    *,
    base_model: str,
    vocab_size: int | None,
    max_context_length: int | None,
) -> int:
    """Checks loss, settings and every datum; returns the number of tokens.

    `custom_loss` is the uploaded loss that the request names, if it names one.
    """
    check_inputs = _input_checks(request, custom_loss)
    if not request.data:
        raise DataError("data: must hold at least one datum", field="data")
    vocab_size = vocab_size or UNKNOWN_VOCAB_SIZE
    if custom_loss is None and isinstance(request.data, PackedData):
        plain = count_plain_tokens(
            request.data,
            find_loss_inputs(request.loss_fn),
            vocab_size=vocab_size,
            max_context_length=max_context_length,
        )
        if plain is not None:
            return plain
    num_tokens = 0
    for index, datum in enumerate(request.data):
        try:
            length = _check_tokens(datum.model_input, "model_input", vocab_size, base_model)
        except RequestError as exc:
            message = f"datum {index}: {exc.message}"
            raise DataError(message, field=exc.field, hint=exc.hint, datum_index=index) from exc
        _check_length(length, index, max_context_length)
        check_inputs(
            dense_loss_inputs(datum.loss_fn_inputs, datum_index=index),
            num_tokens=length,
            vocab_size=vocab_size,
            datum_index=index,
        )
        num_tokens += length
    return num_tokens


def _input_checks(
    request: ForwardBackwardRequest, custom_loss: LossGraph | None
) -> Callable[..., object]:
    """The check of one datum's loss inputs; checks the loss's name and settings at once."""
    if custom_loss is not None:
        return partial(check_graph_inputs, custom_loss)
    spec = find_loss_inputs(request.loss_fn)
    check_loss_config(spec, request.loss_fn_config)
    return partial(check_loss_inputs, spec)


def _check_length(length: int, index: int, max_context_length: int | None) -> None:
    if max_context_length is not None and length > max_context_length:
        raise DataError(
            f"datum {index}: model_input: {length} tokens, the base model takes at most "
            f"{max_context_length}",
            field="model_input",
            hint="shorten or split the sequence",
            datum_index=index,
        )


def _check_tokens(model_input: ModelInput, field: str, vocab_size: int, base_model: str) -> int:
    """Checks chunk kinds and token ids; returns the length."""
    length = 0
    for chunk in model_input.chunks:
        if not isinstance(chunk, EncodedTextChunk):
            raise RequestError(
                f"{field}.chunks: a chunk of type {chunk.type!r} cannot be read by {base_model!r}, "
                "a text model; must be 'encoded_text'",
                field=f"{field}.chunks",
                hint="send the tokens of a text",
            )
        tokens = chunk.tokens_np
        length += len(tokens)
        if len(tokens) and tokens.max() >= vocab_size:  # no chunk holds a negative one
            where = int(np.argmax(tokens >= vocab_size))
            raise RequestError(
                f"{field}: token {tokens[where]} is outside the vocabulary of {vocab_size}",
                field=field,
                hint="encode with the base model's own tokenizer",
            )
    if length == 0:
        raise RequestError(f"{field}: holds no tokens", field=field)
    return length


def check_sample_request(
    request: SampleRequest,
    *,
    base_model: str,
    vocab_size: int | None,
    max_context_length: int | None,
) -> None:
    """Checks prompt, sampling settings, and that nothing unsupported is asked for."""
    _check_sample_options(request)
    vocab_size = vocab_size or UNKNOWN_VOCAB_SIZE
    length = _check_tokens(request.prompt, "prompt", vocab_size, base_model)
    check_sample_options(
        request, prompt_length=length, vocab_size=vocab_size, max_width=MAX_TOKENS_A_POSITION
    )
    params = request.sampling_params
    _check_stop_tokens(params.stop, vocab_size)
    if max_context_length is None:
        return
    if length >= max_context_length:
        raise RequestError(
            f"prompt: {length} tokens leave no room in the context of {max_context_length}",
            field="prompt",
            hint="shorten the prompt",
        )
    if params.max_tokens is not None and length + params.max_tokens > max_context_length:
        raise RequestError(
            f"sampling_params.max_tokens={params.max_tokens}: with the prompt's {length} tokens "
            f"above the context of {max_context_length}",
            field="sampling_params.max_tokens",
            hint=f"ask for at most {max_context_length - length}",
        )
    num_tokens = params.max_tokens or max_context_length - length
    cells = request.topk_sample_logprobs * request.num_samples * num_tokens
    if cells > MAX_TOPK_CELLS:
        raise RequestError(
            f"topk_sample_logprobs={request.topk_sample_logprobs}: of num_samples="
            f"{request.num_samples} sequences of up to {num_tokens} tokens are {cells} logprobs, "
            f"must be {MAX_TOPK_CELLS} at most",
            field="topk_sample_logprobs",
            hint="lower max_tokens, num_samples or topk_sample_logprobs",
        )


def _check_stop_tokens(stop: str | list[str] | list[int] | None, vocab_size: int) -> None:
    for token in stop if isinstance(stop, list) else ():
        if isinstance(token, int) and token >= vocab_size:  # no list of tokens holds a negative one
            raise RequestError(
                f"sampling_params.stop: token {token} is outside the vocabulary of {vocab_size}: "
                "nothing would stop there",
                field="sampling_params.stop",
                hint="encode with the base model's own tokenizer",
            )


def _check_sample_options(request: SampleRequest) -> None:
    if not 1 <= request.num_samples <= MAX_NUM_SAMPLES:
        raise RequestError(
            f"num_samples={request.num_samples}: must be 1..{MAX_NUM_SAMPLES}",
            field="num_samples",
        )
    if request.record_stability_info:
        raise RequestError(
            "record_stability_info=true: not recorded, since only the loss stable_reinforce reads "
            "it, which this service does not compute",
            field="record_stability_info",
            hint="leave record_stability_info out",
        )
    for name in ("base_model", "model_path"):
        if getattr(request, name) is not None:
            raise unsupported_field(name, getattr(request, name))


def check_stream_request(request: SampleRequest) -> None:
    """Checks that a stream, which tells tokens and their logprobs, can tell all that is asked."""
    if request.seq_id is not None:
        raise RequestError(
            f"seq_id={request.seq_id}: must be left out: a stream cannot be sent again",
            field="seq_id",
        )
    for name in (
        "prompt_logprobs",
        "topk_prompt_logprobs",
        "topk_sample_logprobs",
        "target_prompt_logprobs",
        "prompt_alt_tokens_k",
        "prompt_logprobs_last_n",
    ):
        if getattr(request, name) not in (None, False, 0):
            raise RequestError(
                f"{name}: a stream tells tokens and their logprobs only",
                field=name,
                hint=f"leave {name} out, or use asample",
            )


def unsupported_field(name: str, value: object) -> RequestError:
    """The refusal of a field that the service does not honour."""
    return RequestError(
        f"{name}={str(value)[:80]}: not supported by this service",
        field=name,
        hint=f"leave {name} out",
    )
