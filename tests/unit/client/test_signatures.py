"""The public methods, pinned: people's scripts pass these arguments by position and by name."""

import inspect

import pytest

from tinsmith.client import (
    AdminClient,
    APIFuture,
    RestClient,
    RetryConfig,
    SamplingClient,
    ServiceClient,
    TrainingClient,
)

SIGNATURES = {
    ServiceClient: {
        "__init__": "user_metadata=None, project_id=None, *, display_name=None, base_url=None, "
        "api_key=None, default_headers_overrides=None, timeout=60.0, max_retries=10",
        "create_lora_training_client": "base_model, rank=32, seed=None, train_mlp=True, "
        "train_attn=True, train_unembed=True, user_metadata=None, optimizer=None",
        "create_training_client_from_state": "path, base_model=None, user_metadata=None, "
        "weights_access_token=None, optimizer=None",
        "create_training_client_from_state_with_optimizer": "path, base_model=None, "
        "user_metadata=None, weights_access_token=None",
        "create_sampling_client": "model_path=None, base_model=None, retry_config=None, "
        "record_stability_info=False",
        "create_custom_loss": "fn, input_ranks",
        "create_rest_client": "",
        "copy_weights": "path, *, ttl_seconds=None, weights_access_token=None",
        "get_server_capabilities": "",
        "get_console_url": "",
        "get_telemetry": "",
        "close": "status='success', detail=None",
    },
    TrainingClient: {
        "forward": "data, loss_fn, loss_fn_config=None",
        "forward_backward": "data, loss_fn, loss_fn_config=None",
        "forward_backward_custom": "data, loss_fn=None, *, loss_type_input=None, "
        "regularizers=None, track_grad_norms=False, options=None",
        "add_adapter_terms": "terms",
        "optim_step": "optim_params=None, *, adam_params=None",
        "save_state": "name, ttl_seconds=None, overwrite=False, user_metadata=None",
        "load_state": "path, weights_access_token=None",
        "load_state_with_optimizer": "path, weights_access_token=None",
        "save_weights_for_sampler": "name, ttl_seconds=None, user_metadata=None",
        "save_weights_external": "name, ttl_seconds=None, age_encryption_recipients=None",
        "save_weights_and_get_sampling_client": "name=None, retry_config=None, "
        "record_stability_info=False, kind='snapshot'",
        "create_sampling_client": "model_path, retry_config=None, record_stability_info=False",
        "get_console_url": "",
        "get_telemetry": "",
        "get_info": "",
        "get_tokenizer": "",
    },
    SamplingClient: {
        "sample": "prompt, num_samples, sampling_params, include_prompt_logprobs=False, "
        "topk_prompt_logprobs=0, topk_sample_logprobs=0, target_prompt_logprobs=None, "
        "prompt_alt_tokens_k=0, prompt_logprobs_last_n=None",
        "stream": "prompt, sampling_params, num_samples=1",
        "compute_logprobs": "prompt, prompt_logprobs_last_n=None",
        "get_sampler_handle": "",
        "get_telemetry": "",
        "on_queue_state_change": "queue_state, queue_state_reason",
        "get_base_model": "",
        "get_tokenizer": "",
    },
    RestClient: {
        "__init__": "*, base_url=None, api_key=None",
        "get_server_capabilities": "",
        "whoami": "",
        "get_training_run": "training_run_id, access_scope='owned'",
        "get_training_run_by_tinker_path": "tinker_path, access_scope='owned'",
        "list_training_runs": "limit=20, offset=0, access_scope='owned', project_id=None",
        "list_checkpoints": "training_run_id",
        "list_user_checkpoints": "limit=100, offset=0",
        "get_weights_info_by_tinker_path": "tinker_path",
        "get_external_weights_urls": "tinker_path",
        "get_checkpoint_archive_url": "training_run_id, checkpoint_id",
        "get_checkpoint_archive_url_from_tinker_path": "tinker_path",
        "download_checkpoint": "tinker_path, directory, *, overwrite=False, "
        "max_bytes=107374182400, progress=None",
        "delete_checkpoint": "training_run_id, checkpoint_id",
        "delete_checkpoint_from_tinker_path": "tinker_path",
        "publish_checkpoint_from_tinker_path": "tinker_path",
        "unpublish_checkpoint_from_tinker_path": "tinker_path",
        "set_checkpoint_ttl_from_tinker_path": "tinker_path, ttl_seconds",
        "copy_weights": "path, destination_project_id=None, *, ttl_seconds=None, "
        "weights_access_token=None",
        "get_session": "session_id, access_scope='owned'",
        "list_sessions": "limit=20, offset=0, access_scope='owned'",
        "search_sessions": "request",
        "assign_session_project": "session_id, project_id",
        "export_session_trace": "session_id",
        "get_sampler": "sampler_id",
        "get_audit_log": "event_type='all', day=None",
        "get_billing_usage": "starting_on, ending_before",
        "get_current_checkpoint_storage_usage": "project_id=None",
        "get_telemetry": "",
        "close": "",
    },
    AdminClient: {
        "__init__": "*, base_url=None, api_key=None",
        "get_audit_log": "event_type='all', day=None",
        "get_billing_usage": "starting_on, ending_before",
        "get_current_checkpoint_storage_usage": "project_id=None",
        "create_key": "name, note=''",
        "list_keys": "",
        "revoke_key": "key_id",
        "get_telemetry": "",
        "close": "",
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
        "retry_delay_max=10.0, jitter_factor=0.25, enable_retry_logic=True, "
        "enable_stuck_detection=True",
    },
}
WITHOUT_TWIN = (
    "__init__",
    "close",
    "get_tokenizer",
    "create_custom_loss",
    "create_rest_client",
    "copy_weights",
    "get_sampler_handle",
    "stream",
    "get_console_url",
    "get_telemetry",
    "on_queue_state_change",
)
CASES = [(cls, name) for cls, methods in SIGNATURES.items() for name in methods]
TWINS = [
    (cls, name)
    for cls in (ServiceClient, TrainingClient, SamplingClient, RestClient, AdminClient)
    for name in SIGNATURES[cls]
    if name not in WITHOUT_TWIN
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


@pytest.mark.parametrize(
    "cls", [ServiceClient, TrainingClient, SamplingClient, RestClient, AdminClient]
)
def test_every_public_method_is_pinned(cls: type) -> None:
    public = {
        name
        for name, value in inspect.getmembers_static(cls)
        if inspect.isfunction(value) and not name.startswith("_") and not name.endswith("_async")
    }
    assert public == set(SIGNATURES[cls]) - {"__init__"}
