"""What a step of the supervised loop minimises: cross-entropy, alone or with regularizers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinsmith.core.errors import ConfigError
from tinsmith.regularizers import CustomLossOptions, CustomLossOutput, Regularizer, bind_policies
from tinsmith.regularizers.policies import Policy, unbound_policies
from tinsmith.regularizers.specs import checked_regularizers
from tinsmith.training.config import SupervisedConfig
from tinsmith.types import Datum, ForwardBackwardOutput

if TYPE_CHECKING:
    import torch

    from tinsmith.client import APIFuture, ServiceClient, TrainingClient

    Future = APIFuture[ForwardBackwardOutput] | APIFuture[CustomLossOutput]

STATE = "regularizers"
"""Name of the regularizers' state in a checkpoint's record."""


@dataclass(frozen=True)
class Objective:
    """The loss of a step.

    Attributes:
        terms: Added to the cross-entropy; without any the service computes it alone, in one pass.
        track_grad_norms: Whether to record the norm of each term's gradient.
    """

    terms: tuple[Regularizer, ...] = ()
    track_grad_norms: bool = False

    def submit(self, client: TrainingClient, datums: Sequence[Datum], epoch: float) -> Future:
        """Send a step's data; `epoch` counts those done before it."""
        if not self.terms:
            return client.forward_backward(datums, "cross_entropy")
        return client.forward_backward_custom(
            datums,
            weighted_nll,
            regularizers=self.terms,
            track_grad_norms=self.track_grad_norms,
            options=CustomLossOptions(epoch=epoch),
        )


def weighted_nll(
    data: Sequence[Datum], logprobs: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, dict[str, float]]:
    """`-sum(weights * logprobs)`, the loss that the service calls `cross_entropy`."""
    losses = [
        -(datum.loss_fn_inputs["weights"].to_torch() * tensor).sum()
        for datum, tensor in zip(data, logprobs, strict=True)
    ]
    return sum(losses[1:], losses[0]), {}


def configured_terms(config: SupervisedConfig) -> tuple[Regularizer, ...]:
    """The terms that a configuration names; on tokens that carry loss weight, unless it says more.

    Raises:
        ConfigError: a setting is not allowed, two have one name, or a term needs what the batches
            of this loop do not have.
    """
    terms = checked_regularizers(entry.build(mask="weights") for entry in config.regularizers)
    for term, entry in zip(terms, config.regularizers, strict=True):
        needs_one = term.enabled and getattr(term.fn, "needs_distributions", False)
        if needs_one and term.distribution is None:
            raise ConfigError(
                f"regularizers[{term.name!r}]: {entry.kind!r} needs several targets a position, "
                "and a conversation has one",
                field="regularizers",
                hint='set distribution = "full" or a number of likeliest tokens, or use an '
                "estimator from chosen tokens: sampled_entropy or kl_estimate",
            )
    if config.track_grad_norms and not terms:
        raise ConfigError(
            "track_grad_norms=True: there are no regularizers",
            field="track_grad_norms",
            hint="name some, or leave it out: optim/grad_norm is recorded anyway",
        )
    return terms


async def open_objective(
    service: ServiceClient, config: SupervisedConfig, terms: Sequence[Regularizer]
) -> Objective:
    """The objective, with a client for every model that a term refers to."""
    bound = await open_policies(service, config.model, terms)
    return Objective(tuple(bound), config.track_grad_norms)


async def open_policies(
    service: ServiceClient, base_model: str, terms: Sequence[Regularizer]
) -> list[Regularizer]:
    """The terms with clients in place of the models that they name.

    A sampling client tells of chosen tokens. A term of distributions gets a training client that
    nobody trains: of "base" one with a fresh adapter, which changes nothing, else one of the saved
    training state, `tinker://RUN/weights/NAME`.
    """
    policies: dict[tuple[str, bool], Policy] = {}
    bound: list[Regularizer] = []
    for term in terms:
        of_distributions = term.distribution is not None
        for name in unbound_policies([term]):
            if (name, of_distributions) not in policies:
                opened = _open(service, base_model, name, of_distributions=of_distributions)
                policies[name, of_distributions] = await opened
        bound += bind_policies([term], lambda name, kind=of_distributions: policies[name, kind])
    return bound


async def _open(
    service: ServiceClient, base_model: str, name: str, *, of_distributions: bool
) -> Policy:
    if of_distributions and name == "base":
        return await service.create_lora_training_client(base_model, rank=1, seed=0)
    if of_distributions:
        return await service.create_training_client_from_state(name)
    if name == "base":
        return await service.create_sampling_client(base_model=base_model)
    return await service.create_sampling_client(model_path=name)
