"""The regularizers of a run: made of its configuration, bound to models, added to a loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tinsmith.core.errors import ConfigError
from tinsmith.regularizers import CustomLossOptions, CustomLossOutput, Regularizer, bind_policies
from tinsmith.regularizers.policies import Policy, unbound_policies
from tinsmith.regularizers.specs import checked_regularizers
from tinsmith.training.config import RunConfig
from tinsmith.types import Datum, ForwardBackwardOutput

if TYPE_CHECKING:
    from tinsmith.client import APIFuture, ServiceClient, TrainingClient
    from tinsmith.client.custom_loss import CustomLossFn

    Future = APIFuture[ForwardBackwardOutput] | APIFuture[CustomLossOutput]

STATE = "regularizers"
"""Name of the regularizers' state in a checkpoint's record."""


@dataclass(frozen=True)
class Terms:
    """What is added to the loss of every update.

    Attributes:
        regularizers: Perhaps none.
        track_grad_norms: Whether to record the norm of each term's gradient.
    """

    regularizers: tuple[Regularizer, ...] = ()
    track_grad_norms: bool = False

    def __bool__(self) -> bool:
        return bool(self.regularizers)

    def submit(
        self, client: TrainingClient, datums: Sequence[Datum], loss: CustomLossFn, epoch: float
    ) -> Future:
        """Send an update's data with a loss of our own; `epoch` counts those done before it."""
        if not self.regularizers:
            return client.forward_backward_custom(datums, loss)
        return client.forward_backward_custom(
            datums,
            loss,
            regularizers=self.regularizers,
            track_grad_norms=self.track_grad_norms,
            options=CustomLossOptions(epoch=epoch),
        )


def configured_terms(config: RunConfig, **defaults: Any) -> tuple[Regularizer, ...]:
    """The terms that a configuration names.

    Args:
        config: Of the run.
        defaults: Settings for kinds that have them, where the configuration says nothing.

    Raises:
        ConfigError: a setting is not allowed, two have one name, or a term needs what the batches
            of a loop do not have.
    """
    terms = checked_regularizers(entry.build(**defaults) for entry in config.regularizers)
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


async def open_terms(
    service: ServiceClient, config: RunConfig, regularizers: Sequence[Regularizer]
) -> Terms:
    """The terms, with a client for every model that one refers to."""
    bound = await open_policies(service, config.model, regularizers)
    return Terms(tuple(bound), config.track_grad_norms)


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
