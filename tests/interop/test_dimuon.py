"""Dimuon through the official package: chosen at creation, kept, saved, and told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.service_process import BASE_MODEL, ServiceProcess
from tests.interop.conftest import API_KEY
from tests.interop.official_data import random_data

tinker = pytest.importorskip("tinker", reason="the official client is not installed here")
if TYPE_CHECKING:
    import tinker

pytestmark = pytest.mark.integration


def step(trainer: tinker.TrainingClient) -> float:
    output = trainer.forward_backward(random_data(2, seed=51), "cross_entropy")
    trainer.optim_step(tinker.DimuonParams(learning_rate=0.05)).result()
    return output.result().metrics["loss:sum"]


def test_a_dimuon_model_trains_is_resumed_exactly_and_takes_no_other_family(
    client: tinker.ServiceClient, service: ServiceProcess
) -> None:
    trainer = client.create_lora_training_client(
        BASE_MODEL, rank=8, seed=1, optimizer=tinker.DimuonOptimizerConfig()
    ).result()
    told = trainer.get_info().optimizer_config
    assert told.model_dump() == {"type": "dimuon", "version": 1}
    losses = [step(trainer) for _ in range(4)]
    assert losses == sorted(losses, reverse=True)
    with pytest.raises(tinker.BadRequestError, match="the model's optimizer is 'dimuon'"):
        trainer.optim_step(tinker.AdamParams()).result()
    path = trainer.save_state("middle").result().path
    onward = [step(trainer) for _ in range(2)]
    resumed = client.create_training_client_from_state_with_optimizer(path).result()
    assert resumed.get_info().optimizer_config.type == "dimuon"
    assert [step(resumed) for _ in range(2)] == onward
    rest = tinker.RestClient(base_url=service.ready["url"], api_key=API_KEY)
    info = rest.get_weights_info_by_tinker_path(path).result()
    assert info.optimizer_config.type == "dimuon"
    plain = client.create_training_client_from_state(
        path, optimizer=tinker.AdamOptimizerConfig()
    ).result()
    assert plain.get_info().optimizer_config.type == "adamw"
    plain.optim_step(tinker.AdamParams()).result()
    with pytest.raises(tinker.BadRequestError, match="the model's optimizer is 'adamw'"):
        plain.optim_step(tinker.DimuonParams(learning_rate=0.1)).result()
    with (
        pytest.warns(FutureWarning),
        pytest.raises(
            tinker.BadRequestError, match="optimizer is 'dimuon', the model's is 'adamw'"
        ),
    ):
        plain.load_state_with_optimizer(path).result()


def test_a_family_that_is_not_here_is_refused_by_name(client: tinker.ServiceClient) -> None:
    from tinker.types.optimizer import OptimizerConfigBase

    lion = OptimizerConfigBase.model_validate({"type": "lion", "speed": 9})
    with pytest.raises(tinker.BadRequestError, match=r"'lion'.*must be 'adamw' or 'dimuon'"):
        client.create_lora_training_client(BASE_MODEL, rank=4, optimizer=lion).result()
