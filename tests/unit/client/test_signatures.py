"""The public methods, pinned: people's scripts pass these arguments by position and by name."""

import inspect

import pytest

from tinsmith.client import APIFuture, RetryConfig, SamplingClient, ServiceClient, TrainingClient

SIGNATURES = {
    ServiceClient: {
        "__init__": "user_metadata=None, project_id=None, *, display_name=None, base_url=None, "
        "api_key=None, default_headers_overrides=None, timeout=60.0, max_retries=10",
        "create_lora_training_client": "base_model, rank=32, seed=None, train_mlp=True, "
        "train_attn=True, train_unembed=True, user_metadata=None",
        "create_training_client_from_state": "path, base_model=None, user_metadata=None",
        "create_training_client_from_state_with_optimizer": "path, base_model=None, "
        "user_metadata=None",
        "create_sampling_client": "model_path=None, base_model=None, retry_config=None",
        "get_server_capabilities": "",
        "close": "status='success', detail=None",
    },
    TrainingClient: {
        "forward": "data, loss_fn, loss_fn_config=None",
        "forward_backward": "data, loss_fn, loss_fn_config=None",
        "optim_step": "optim_params=None, *, adam_params=None",
        "save_state": "name, ttl_seconds=None, overwrite=False, user_metadata=None",
        "load_state": "path",
        "load_state_with_optimizer": "path",
        "save_weights_for_sampler": "name, ttl_seconds=None, user_metadata=None",
        "save_weights_and_get_sampling_client": "name=None, retry_config=None",
        "create_sampling_client": "model_path, retry_config=None",
        "get_info": "",
        "get_tokenizer": "",
    },
    SamplingClient: {
        "sample": "prompt, num_samples, sampling_params, include_prompt_logprobs=False, "
        "topk_prompt_logprobs=0",
        "compute_logprobs": "prompt",
        "get_base_model": "",
        "get_tokenizer": "",
    },
    APIFuture: {
        "result": "timeout=None",
        "result_async": "timeout=None",
        "coroutine": "",
        "future": "",
        "done": "",
        "cancel": "",
    },
    RetryConfig: {
        "__init__": "max_connections=2000, progress_timeout=7200.0, retry_delay_base=0.5, "
        "retry_delay_max=10.0, jitter_factor=0.25, enable_retry_logic=True",
    },
}
CASES = [(cls, name) for cls, methods in SIGNATURES.items() for name in methods]
TWINS = [
    (cls, name)
    for cls in (ServiceClient, TrainingClient, SamplingClient)
    for name in SIGNATURES[cls]
    if name not in ("__init__", "close", "get_tokenizer")
]


def parameters(cls: type, name: str) -> str:
    """Names, kinds and defaults, without annotations."""
    signature = inspect.signature(getattr(cls, name))
    bare = [
        parameter.replace(annotation=parameter.empty)
        for parameter in signature.parameters.values()
        if parameter.name != "self"
    ]
    return str(inspect.Signature(bare))[1:-1]


@pytest.mark.parametrize(
    ("cls", "name"), CASES, ids=lambda value: getattr(value, "__name__", value)
)
def test_a_public_signature_stays_as_it_is(cls: type, name: str) -> None:
    assert parameters(cls, name) == SIGNATURES[cls][name]


@pytest.mark.parametrize(
    ("cls", "name"), TWINS, ids=lambda value: getattr(value, "__name__", value)
)
def test_an_async_twin_takes_the_same_arguments(cls: type, name: str) -> None:
    assert inspect.iscoroutinefunction(getattr(cls, f"{name}_async"))
    assert parameters(cls, f"{name}_async") == parameters(cls, name)


@pytest.mark.parametrize("cls", [ServiceClient, TrainingClient, SamplingClient])
def test_every_public_method_is_pinned(cls: type) -> None:
    public = {
        name
        for name, value in vars(cls).items()
        if inspect.isfunction(value) and not name.startswith("_") and not name.endswith("_async")
    }
    assert public == set(SIGNATURES[cls]) - {"__init__"}
