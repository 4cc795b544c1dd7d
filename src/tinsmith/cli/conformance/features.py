"""What newer clients may use: in-flight samplers, losses on the server, exports, Dimuon."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from tinsmith.cli.conformance.gradients import expect_moved
from tinsmith.cli.conformance.registry import NotAsked, check, expect, expect_close
from tinsmith.cli.conformance.server import Server
from tinsmith.cli.conformance.snapshots import TOKENS, move, sampled_logprobs, trained_logprobs


@check(
    "An in-flight sampling client follows the training",
    proves='save_weights_and_get_sampling_client(kind="inflight"): newer weights after each save',
    points=2,
)
def follow_the_training(server: Server) -> None:
    model = server.fork()

    def opened() -> Any:
        make = model.trainer.save_weights_and_get_sampling_client
        return server.wait(make(kind="inflight"))

    first = opened()
    before = trained_logprobs(model, TOKENS)
    found = sampled_logprobs(server, first, TOKENS)
    expect_close(found, before, atol=server.tolerance, what="the first weights")
    move(model)
    second = opened()
    after = trained_logprobs(model, TOKENS)
    expect_moved(server, before, after, "training on")
    for what, client in (("newer", second), ("earlier", first)):
        found = sampled_logprobs(server, client, TOKENS)
        expect_close(found, after, atol=server.tolerance, what=f"the {what} in-flight client")


@check(
    "An uploaded loss is the loss that was written",
    proves="create_custom_loss: the server's values and gradients are those of the callable",
    points=3,
)
def run_uploaded_losses(server: Server) -> None:
    torch = importlib.import_module("torch")

    # Unannotated: the official package reads parameters by their names, and torch is optional.
    def squared(logprobs, weights):
        loss = (weights * torch.exp(torch.clamp(logprobs, max=-0.5)) * 50).sum()
        return loss - logprobs.mean(), {"custom/logprob:sum": logprobs.sum()}

    def summed(data, logprobs):
        parts = [
            squared(lp, datum.loss_fn_inputs["weights"].to_torch())[0]
            for datum, lp in zip(data, logprobs, strict=True)
        ]
        return torch.stack(parts).sum(), {}

    handle = server.wait(server.client.create_custom_loss(squared, {"logprobs": 1, "weights": 1}))
    if getattr(handle, "loss_id", None) is None:
        raise NotAsked("the server does not offer to run losses")
    data = server.data(3, seed=61)
    outcomes = []
    for loss in (handle, summed):
        model = server.fork()
        output = server.wait(model.trainer.forward_backward_custom(data, loss))
        model.step()
        outcomes.append((output.metrics["loss:sum"], model.logprobs(data)))
    (found, moved), (expected, twin) = outcomes
    limit = server.tolerance * max(1.0, abs(expected))
    expect_close([found], [expected], atol=limit, what="the loss")
    expect_moved(server, server.fork().logprobs(data), twin, "the step of the callable")
    expect_close(moved, twin, atol=server.tolerance, what="logprobs after the step")


@check(
    "Weights can be taken elsewhere",
    proves="save_weights_external: an adapter by links that need no key, deleted when asked",
    points=2,
)
def export_weights(server: Server) -> None:
    model = server.fork()
    rest = server.tinker.RestClient(base_url=server.url, api_key=server.api_key)
    path = server.wait(model.trainer.save_weights_external("conformance", ttl_seconds=3600)).path
    expect("/external_weights/" in path, f"the export's path is {path}")
    urls = dict(server.wait(rest.get_external_weights_urls(path)).urls)
    expect("adapter_config.json" in urls, f"the export holds {sorted(urls)}")
    config = server.wire.fetch(urls["adapter_config.json"])
    expect(b'"r"' in config, "adapter_config.json names no rank r")
    weights = next((name for name in urls if name.endswith(".safetensors")), "")
    expect(weights, f"the export holds no safetensors file: {sorted(urls)}")
    content = server.wire.fetch(urls[weights])
    head = int.from_bytes(content[:8], "little")
    expect(b"lora_A" in content[8 : 8 + head], "the export holds no lora_A")
    server.wait(rest.delete_checkpoint_from_tinker_path(path))
    listed = server.wait(rest.list_checkpoints(model.trainer.model_id)).checkpoints
    expect(path not in [each.tinker_path for each in listed], "a deleted export is still listed")


@check(
    "Dimuon is the optimizer that was chosen",
    proves="a model of another optimizer says so, and trains",
)
def train_with_dimuon(server: Server) -> None:
    tinker = server.tinker
    create = server.client.create_lora_training_client
    try:
        trainer = server.wait(
            create(server.base_model, rank=8, seed=1, optimizer=tinker.DimuonOptimizerConfig())
        )
    except tinker.APIStatusError as error:
        raise NotAsked("the server does not offer Dimuon") from error
    told = trainer.get_info().optimizer_config
    expect(getattr(told, "type", None) == "dimuon", f"the model's optimizer is {told}")
    data = server.data(2, seed=62)
    data = server.weighted(data, [np.ones(datum.model_input.length) for datum in data])
    losses = []
    for _ in range(4):
        output = server.wait(trainer.forward_backward(data, "cross_entropy"))
        losses.append(output.metrics["loss:sum"])
        server.wait(trainer.optim_step(tinker.DimuonParams(learning_rate=0.05)))
    expect(losses[-1] < losses[0], f"the loss does not fall: {losses}")
