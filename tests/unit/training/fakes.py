"""A service in a few lines of NumPy: one number is the model, and everything is on record.

The model is a bias `w`; a token's logprob is `-softplus(-(w + token % 7))`. Gradients accumulate in
`forward_backward` and are applied by `optim_step` with a momentum, so that a resumed run equals an
undisturbed one only if state, optimizer and data position are all restored. Calls take effect in
the order they are made; results come when the event loop gets round to them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from tinsmith.client.custom_loss import forward_data
from tinsmith.regularizers import ComposedLoss, RegularizerState
from tinsmith.types import (
    AdamParams,
    Datum,
    ForwardBackwardOutput,
    ModelInput,
    OptimStepResponse,
    SampledSequence,
    SampleResponse,
    SamplingParams,
    SaveWeightsForSamplerResponse,
    SaveWeightsResponse,
    TensorData,
)


class Later:
    """A result that comes a turn of the event loop later, and says when it was read."""

    def __init__(self, value: Any, calls: list[str], label: str) -> None:
        self.value, self._calls, self._label = value, calls, label

    def __await__(self) -> Generator[Any, None, Any]:
        return self._get().__await__()

    async def _get(self) -> Any:
        await asyncio.sleep(0)
        self._calls.append(f"read {self._label}")
        return self.value


@dataclass
class State:
    w: float
    momentum: float = 0.0
    num_steps: int = 0


@dataclass
class FakeTrainingClient:
    state: State
    service: FakeService
    grad: float = 0.0
    regularizer_state: RegularizerState = field(default_factory=RegularizerState)

    def forward(self, data: list[Datum], loss_fn: str, config: Any = None) -> Later:
        return self._pass(data, loss_fn, backward=False)

    def forward_backward(self, data: list[Datum], loss_fn: str, config: Any = None) -> Later:
        return self._pass(data, loss_fn, config, backward=True)

    def forward_backward_custom(self, data: list[Datum], loss_fn: Any, **options: Any) -> Later:
        """The real composition over this model's logprobs, by the two passes of the SDK."""
        import torch

        loss = ComposedLoss(
            loss_fn,
            options.get("regularizers", ()),
            state=self.regularizer_state,
            options=options.get("options"),
            track_grad_norms=options.get("track_grad_norms", False),
        )
        seen = len(self.service.seen_weights)
        forward = self._pass(forward_data(data), "cross_entropy", backward=False).value
        del self.service.seen_weights[seen:]
        logprobs = [o["logprobs"].to_torch().requires_grad_(True) for o in forward.loss_fn_outputs]
        total, metrics = loss(data, logprobs)
        total.backward()
        weighted = [
            Datum(
                model_input=datum.model_input,
                loss_fn_inputs={
                    "target_tokens": datum.loss_fn_inputs["target_tokens"],
                    "weights": -torch.as_tensor(x.grad),
                },
            )
            for datum, x in zip(data, logprobs, strict=True)
        ]
        backward = self._pass(weighted, "cross_entropy", backward=True).value
        loss.commit()
        answer = backward.model_copy(update={"metrics": {**backward.metrics, **metrics}})
        output = loss.finished(answer, {}) if options else answer
        return Later(output, self.service.calls, "forward_backward_custom")

    def _pass(
        self, data: list[Datum], loss_fn: str, config: Any = None, *, backward: bool
    ) -> Later:
        if loss_fn != "cross_entropy":
            return self._policy_pass(data, loss_fn, config or {})
        kind = "forward_backward" if backward else "forward"
        self._say(f"{kind} at {self.state.num_steps}")
        for datum in data:  # as a service that knows these two inputs alone
            assert set(datum.loss_fn_inputs) == {"target_tokens", "weights"}
        outputs, loss = [], 0.0
        for datum in data:
            targets = datum.loss_fn_inputs["target_tokens"].to_numpy()
            weights = datum.loss_fn_inputs["weights"].to_numpy().astype(np.float64)
            logits = self.state.w + targets % 7
            logprobs = -np.logaddexp(0, -logits) + self.service.offset
            loss -= float(weights @ logprobs)
            if backward:
                self.grad -= float(weights @ (1 - 1 / (1 + np.exp(-logits))))
            outputs.append({"logprobs": TensorData.from_numpy(logprobs.astype(np.float32))})
            self.service.seen_weights.append(datum.loss_fn_inputs["weights"].to_numpy())
        output = ForwardBackwardOutput(
            loss_fn_output_type="TensorData", loss_fn_outputs=outputs, metrics={"loss:sum": loss}
        )
        return Later(output, self.service.calls, f"{kind} at {self.state.num_steps}")

    def _policy_pass(self, data: list[Datum], loss_fn: str, config: Any) -> Later:
        """A loss of the service, as cross-entropy with the same gradient by the logprobs."""
        import torch

        from tinsmith.algorithms.losses import find_loss

        forward = self._pass(forward_data(data), "cross_entropy", backward=False).value
        weighted: list[Datum] = []
        for datum, output in zip(data, forward.loss_fn_outputs, strict=True):
            inputs = {name: value.to_torch() for name, value in datum.loss_fn_inputs.items()}
            targets = inputs.pop("target_tokens")
            assert set(inputs) == {"logprobs", "advantages"}  # a service takes nothing else
            logprobs = output["logprobs"].to_torch().requires_grad_(True)
            find_loss(loss_fn).fn(logprobs, inputs, config)[0].sum().backward()
            weights = -torch.as_tensor(logprobs.grad)
            weighted.append(
                Datum(datum.model_input, {"target_tokens": targets, "weights": weights})
            )
        return self._pass(weighted, "cross_entropy", backward=True)

    def save_weights_and_get_sampling_client(self) -> Later:
        self._say(f"sampling client at {self.state.num_steps}")
        return Later(FakePolicy(self.state.w), self.service.calls, "sampling client")

    def get_info(self) -> Any:
        return SimpleNamespace(model_data=SimpleNamespace(model_name=self.service.model_name))

    def optim_step(self, params: AdamParams) -> Later:
        state = self.state
        state.momentum = params.beta1 * state.momentum + self.grad
        state.w -= params.learning_rate * state.momentum
        grad_norm, self.grad = abs(self.grad), 0.0
        state.num_steps += 1
        self.regularizer_state.advance()
        self._say(f"optim_step {state.num_steps}")
        self.service.learning_rates.append(params.learning_rate)
        metrics = {"grad_norm": grad_norm, "weight": state.w}
        return Later(
            OptimStepResponse(metrics=metrics), self.service.calls, f"optim_step {state.num_steps}"
        )

    def save_state(self, name: str, ttl_seconds: int | None = None) -> Later:
        self._say(f"save_state {name} at {self.state.num_steps}")
        self.service.ttls[name] = ttl_seconds
        path = f"tinker://run/weights/{name}"
        self.service.saved[path] = State(**vars(self.state))
        return Later(SaveWeightsResponse(path=path), self.service.calls, f"save_state {name}")

    def save_weights_for_sampler(self, name: str) -> Later:
        self._say(f"save_weights_for_sampler {name} at {self.state.num_steps}")
        path = f"tinker://run/sampler_weights/{name}"
        self.service.policies[path] = self.state.w
        return Later(
            SaveWeightsForSamplerResponse(path=path), self.service.calls, f"save_sampler {name}"
        )

    def _say(self, call: str) -> None:
        self.service.calls.append(call)
        if call == self.service.die_at:
            raise KilledError(call)


@dataclass
class FakePolicy:
    """Weights that do not change; those of another model give every token the same logprob."""

    w: float | None = None

    def compute_logprobs(self, prompt: ModelInput) -> Any:
        future = Answer()
        tokens = np.array(prompt.to_ints()[1:])
        known = np.full(len(tokens), -0.7) if self.w is None else logprobs_of(tokens, self.w)
        future.set_result([None, *known.tolist()])
        return future

    def sample(self, prompt: ModelInput, num_samples: int, params: SamplingParams) -> Any:
        """Tokens whose likelihood grows with `(token % 7) * w`, three to six of them."""
        assert self.w is not None
        rng = np.random.default_rng(params.seed)
        tokens = np.arange(300, 307)
        chances = np.exp(logprobs_of(tokens, self.w))
        sequences = []
        for _ in range(num_samples):
            drawn = rng.choice(tokens, size=rng.integers(3, 7), p=chances / chances.sum())
            drawn = drawn[: params.max_tokens]
            sequences.append(SampledSequence("length", "", drawn, logprobs_of(drawn, self.w)))
        future = Answer()
        future.set_result(SampleResponse(sequences=sequences))
        return future


class Answer(Future[Any]):
    """A result for code that waits, in a thread or in an event loop."""

    def __await__(self) -> Generator[Any, None, Any]:
        return asyncio.wrap_future(self).__await__()


def logprobs_of(targets: Any, w: float) -> Any:
    return -np.logaddexp(0, -(w + targets % 7))


class KilledError(BaseException):
    """The trainer dies here; not an Exception, so nothing cleans up after it."""


@dataclass
class FakeService:
    """Makes fake training clients; `die_at` names a call that never returns."""

    calls: list[str] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    seen_weights: list[Any] = field(default_factory=list)
    saved: dict[str, State] = field(default_factory=dict)
    created: list[dict[str, Any]] = field(default_factory=list)
    policies: dict[str, float] = field(default_factory=dict)
    ttls: dict[str, int | None] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    die_at: str | None = None
    offset: float = 0.0
    model_name: str = "tinsmith/tiny"

    def create_rest_client(self) -> FakeRestClient:
        return FakeRestClient(self)

    def create_sampling_client(self, **where: Any) -> Later:
        """Of weights that a client here saved, or of another model."""
        self.created.append(where)
        w = self.policies.get(where.get("model_path", ""))
        return Later(FakePolicy(w), self.calls, "sampling client")

    def create_lora_training_client(self, base_model: str, **options: Any) -> Later:
        self.created.append({"base_model": base_model, **options})
        client = FakeTrainingClient(State(w=float(options["seed"])), self)
        return Later(client, self.calls, "client")

    def create_training_client_from_state(self, path: str) -> Later:
        """The saved weights; the momentum starts afresh."""
        self.calls.append(f"load {path}")
        client = FakeTrainingClient(State(w=self.saved[path].w), self)
        return Later(client, self.calls, "client")

    def create_training_client_from_state_with_optimizer(self, path: str) -> Later:
        self.calls.append(f"load {path}")
        return Later(
            FakeTrainingClient(State(**vars(self.saved[path])), self), self.calls, "client"
        )


@dataclass
class FakeRestClient:
    service: FakeService

    def delete_checkpoint_from_tinker_path(self, path: str) -> Later:
        self.service.deleted.append(path)
        self.service.saved.pop(path, None)
        return Later(None, self.service.calls, f"delete {path}")
