"""A model as reference: the logprobs of a batch's targets under a sampling or training client.

Main names: `PolicyReference`, `bind_policies`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from tinsmith.core.errors import ConfigError, DataError
from tinsmith.regularizers.specs import Regularizer
from tinsmith.types import Datum, ModelInput

if TYPE_CHECKING:
    import torch

__all__ = ["Policy", "PolicyReference", "bind_policies", "unbound_policies"]


@runtime_checkable
class SamplingPolicy(Protocol):
    """A sampling client, as far as it is needed here: it knows chosen tokens."""

    def compute_logprobs(self, prompt: ModelInput) -> Any:  # Any: a future of `float | None` values
        """Logprob of each token of the prompt given those before; None for the first."""
        ...


@runtime_checkable
class TrainingPolicy(Protocol):
    """A training client, as far as it is needed here: it knows any targets."""

    def forward(self, data: Sequence[Datum], loss_fn: str) -> Any:  # Any: a future of an output
        """Logprobs of each datum's targets."""
        ...


Policy = SamplingPolicy | TrainingPolicy


@dataclass(frozen=True)
class PolicyReference:
    """Reference logprobs of `KL`, `JensenShannon` and `KLEstimate`, asked of a model at every call.

    Attributes:
        policy: A `SamplingClient`, which tells of chosen tokens, for `KLEstimate`; or a
            `TrainingClient` other than the one that trains, which tells of distributions, too. Its
            weights should stay as they are. Or the name of one, "base" for the base model or a
            `tinker://` path, until `bind_policies` has opened it.
    """

    policy: Policy | str

    def __call__(self, data: list[Datum]) -> Sequence[torch.Tensor]:
        """Logprobs of each datum's targets.

        Raises:
            DataError: a sampling client is asked, and the targets are not the input's next tokens.
        """
        import torch

        if isinstance(self.policy, str):
            raise ConfigError(
                f"reference_policy={self.policy!r}: has not been opened",
                field="reference_policy",
                hint="pass PolicyReference(client), or bind_policies(regularizers, open)",
            )
        policy = self.policy
        if isinstance(policy, TrainingPolicy):
            output = policy.forward(_without_weights(data), "cross_entropy").result()
            return [found["logprobs"].to_torch() for found in output.loss_fn_outputs]
        futures = [policy.compute_logprobs(_text_of(d, index)) for index, d in enumerate(data)]
        return [torch.tensor(future.result()[1:]) for future in futures]


def unbound_policies(regularizers: Iterable[Regularizer]) -> list[str]:
    """Names of the policies that enabled terms refer to, each once."""
    names = [_policy_name(term) for term in regularizers if term.enabled]
    return list(dict.fromkeys(name for name in names if name is not None))


def bind_policies(
    regularizers: Iterable[Regularizer], policy_of: Callable[[str], Policy]
) -> list[Regularizer]:
    """The terms with the policies that they name in place of the names."""
    bound: list[Regularizer] = []
    for term in regularizers:
        name = _policy_name(term)
        if name is not None and term.enabled:
            reference = PolicyReference(policy_of(name))
            term = replace(term, fn=replace(term.fn, reference=reference))
        bound.append(term)
    return bound


def _policy_name(term: Regularizer) -> str | None:
    reference = getattr(term.fn, "reference", None)
    if isinstance(reference, PolicyReference) and isinstance(reference.policy, str):
        return reference.policy
    return None


def _without_weights(data: Sequence[Datum]) -> list[Datum]:
    """What a forward pass needs to tell the logprobs of the targets."""
    cleaned: list[Datum] = []
    for datum in data:
        targets = datum.loss_fn_inputs["target_tokens"]
        inputs = {"target_tokens": targets, "weights": np.zeros(targets.shape, np.float32)}
        cleaned.append(Datum(model_input=datum.model_input, loss_fn_inputs=inputs))
    return cleaned


def _text_of(datum: Datum, index: int) -> ModelInput:
    """The input and its last target: a text whose logprobs are those of the targets."""
    tokens = datum.model_input.to_ints()
    targets = datum.loss_fn_inputs["target_tokens"].to_numpy()
    if targets.shape != (len(tokens),) or targets[:-1].tolist() != tokens[1:]:
        raise DataError(
            f"data[{index}]: a reference model needs targets that are the input's next tokens",
            field="target_tokens",
            datum_index=index,
            hint="refer to a TrainingClient, or compute the reference logprobs yourself and name "
            "their loss input as reference",
        )
    return ModelInput.from_ints([*tokens, int(targets[-1])])
