"""One script, run by the official client and by ours: replacing the import changes no result."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

import tinsmith
from tests.integration.service_process import BASE_MODEL, ServiceProcess
from tests.interop.conftest import API_KEY

pytestmark = pytest.mark.integration


def script(sdk: Any, url: str) -> dict[str, Any]:
    """What a researcher writes; `sdk` is `tinker` or `tinsmith`."""
    import torch

    service = sdk.ServiceClient(base_url=url, api_key=API_KEY, user_metadata={"sdk": sdk.__title__})
    training = service.create_lora_training_client(BASE_MODEL, rank=8, seed=11).result()
    data = [
        sdk.Datum(
            model_input=sdk.ModelInput.from_ints([5 + i, 6, 7, 8]),
            loss_fn_inputs={"target_tokens": [6, 7, 8, 9], "weights": [0.0, 1.0, 1.0, 0.5]},
        )
        for i in range(3)
    ]

    def squares(data: list[Any], logprobs: list[Any]) -> tuple[Any, dict[str, float]]:
        loss = torch.stack([tensor.square().sum() for tensor in logprobs]).sum()
        return loss, {"num_datums": float(len(data))}

    losses: list[float] = []
    for _ in range(2):
        output = training.forward_backward(data, "cross_entropy")
        step = training.optim_step(sdk.AdamParams(learning_rate=1e-3))
        losses.append(output.result().metrics["loss:sum"])
        assert step.result().metrics
    custom = training.forward_backward_custom(data, squares).result()
    training.optim_step(sdk.AdamParams(learning_rate=1e-3)).result()
    checkpoint = training.save_state("state", ttl_seconds=7200).result()
    resumed = service.create_training_client_from_state_with_optimizer(checkpoint.path).result()
    after = resumed.forward(data, "cross_entropy").result()
    sampling = training.save_weights_and_get_sampling_client()
    if hasattr(sampling, "result"):
        sampling = sampling.result()
    prompt = sdk.ModelInput.from_ints([5, 6, 7])
    params = sdk.SamplingParams(max_tokens=5, temperature=0.0)
    sampled = sampling.sample(prompt, 2, params, include_prompt_logprobs=True).result()
    clone = pickle.loads(pickle.dumps(sampling))
    handled = sdk.SamplingClient.from_sampler_handle(sampling.get_sampler_handle(), api_key=API_KEY)
    clones = [client.sample(prompt, 1, params).result() for client in (clone, handled)]
    rest = sdk.RestClient(base_url=url, api_key=API_KEY)
    run = rest.get_training_run(training.model_id).result()
    weights = rest.get_weights_info_by_tinker_path(checkpoint.path).result()
    names = [c.checkpoint_id for c in rest.list_checkpoints(training.model_id).result().checkpoints]
    parsed = sdk.ParsedCheckpointTinkerPath.from_tinker_path(checkpoint.path)
    rest.delete_checkpoint(parsed.training_run_id, parsed.checkpoint_id).result()
    service.close("success").result()
    return {
        "losses": losses,
        "custom": [custom.metrics[k] for k in ("loss:sum", "surrogate_loss:sum", "num_datums")],
        "logprobs": [o["logprobs"].tolist() for o in after.loss_fn_outputs],
        "tokens": [sequence.tokens for sequence in sampled.sequences],
        "sampled": [sequence.logprobs for sequence in sampled.sequences],
        "prompt": sampled.prompt_logprobs[1:],
        "clones": [response.sequences[0].tokens for response in clones],
        "base_model": sampling.get_base_model(),
        "run": [run.base_model, run.lora_rank, run.is_lora],
        "weights": [weights.base_model, weights.lora_rank, weights.train_mlp],
        "names": names,
    }


def _numbers(values: list[Any]) -> list[Any]:
    return [value for value in values if isinstance(value, float)]


def flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [item for key in sorted(value) for item in flat(value[key])]
    return [item for part in value for item in flat(part)] if isinstance(value, list) else [value]


def test_both_clients_get_the_same_from_the_same_script(service: ServiceProcess) -> None:
    why = "the official client is not installed: NOT TESTED"
    tinker = pytest.importorskip("tinker", reason=why)
    theirs = script(tinker, service.ready["url"])
    ours = script(tinsmith, service.ready["url"])
    assert theirs.keys() == ours.keys()
    for key in theirs:
        mine, other = flat(ours[key]), flat(theirs[key])
        assert [type(value) for value in mine] == [type(value) for value in other], key
        assert _numbers(mine) == pytest.approx(_numbers(other), rel=1e-4, abs=1e-5), key
        exact = [value for value in mine if not isinstance(value, float)]
        assert exact == [value for value in other if not isinstance(value, float)], key
