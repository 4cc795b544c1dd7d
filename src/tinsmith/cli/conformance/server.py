"""The server under test, and models on it, as the official client sees them."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tinsmith.cli.conformance.registry import CheckFailed, expect
from tinsmith.cli.conformance.wire import Wire
from tinsmith.core.errors import missing_extra

__all__ = ["Model", "Server"]

Array = NDArray[np.float64]

FIRST_TOKEN, LAST_TOKEN = 5, 400
"""Ids of ordinary tokens in any vocabulary."""
RANK, SEED = 8, 5
VISIBLE_FACTOR = 20
"""How many tolerances a step must move a logprob before a check may speak of its absence."""
EPS = 1.0
"""A large epsilon makes an Adam step follow the size of the gradient, not only its sign."""


class Server:
    """A server of the protocol, its official client, and what all checks share.

    Args:
        url: its address.
        api_key: the key; the official client wants one that begins with `tml-`.
        base_model: the model to train; None takes the first that the server calls trainable.
        tolerance: how far logprobs may differ by rounding.
        timeout_s: the longest wait for one result.
        restart: restarts the server at the same address, or None.

    Raises:
        ConfigError: nobody answers at the address.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str,
        base_model: str | None = None,
        tolerance: float = 2e-3,
        timeout_s: float = 120.0,
        restart: Callable[[], None] | None = None,
    ) -> None:
        if importlib.util.find_spec("tinker") is None:
            raise missing_extra("tinker", "conformance")
        # Any: the official client is an optional package, without types of ours.
        self.tinker: Any = importlib.import_module("tinker")
        logging.getLogger("tinker").setLevel(logging.CRITICAL)  # the score sheet tells the failures
        self.url, self.api_key = url.rstrip("/"), api_key
        self.tolerance, self.timeout_s = tolerance, timeout_s
        self.restart = restart
        self._base_model = base_model
        self.wire = Wire(self.url, api_key, timeout_s)
        self.wire.check_reachable()
        self.client: Any = self.connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wire.close()

    def connect(self, **options: object) -> Any:
        """A further official client, with a session of its own."""
        return self.tinker.ServiceClient(base_url=self.url, api_key=self.api_key, **options)

    def start_over(self) -> None:
        """Forget sessions: the server behind the address was restarted."""
        self.wire.forget_session()
        self.client = self.connect()

    def wait(self, future: Any) -> Any:
        """The result of an official future."""
        return future.result(timeout=self.timeout_s)

    @functools.cached_property
    def base_model(self) -> str:
        """The model that is trained and sampled."""
        if self._base_model is not None:
            return self._base_model
        status, answer = self.wire.get("get_server_capabilities")
        models = answer.get("supported_models", []) if isinstance(answer, dict) else []
        expect(status == 200 and models, "get_server_capabilities names no model; give --model")
        trainable = [each for each in models if each.get("trainable", True)] or models
        return str(trainable[0]["model_name"])

    @functools.cached_property
    def warm_state(self) -> str:
        """A training checkpoint after two steps: both halves of an adapter have gradients."""
        model = self.new_model()
        for step in range(2):
            model.gradient(self.data(4, seed=90 + step))
            model.step(learning_rate=1e-2, eps=1e-8)
        return str(self.wait(model.trainer.save_state("conformance")).path)

    @functools.cached_property
    def learning_rate(self) -> float:
        """A rate whose step, with a large epsilon, moves logprobs well beyond the tolerance."""
        rate, data = 0.05, self.data(4, seed=1)
        for _ in range(5):
            model = self.fork()
            before = model.logprobs(data)
            model.gradient(data)
            model.step(learning_rate=rate)
            if np.abs(model.logprobs(data) - before).max() > VISIBLE_FACTOR * self.tolerance:
                return rate
            rate *= 4
        raise CheckFailed(f"an optimizer step with learning_rate={rate / 4:g} moves no logprob")

    def new_model(self, *, seed: int = SEED, rank: int = RANK, client: Any = None) -> Model:
        """A fresh adapter."""
        future = (client or self.client).create_lora_training_client(
            self.base_model, rank=rank, seed=seed
        )
        return Model(self, self.wait(future))

    def fork(self, path: str | None = None) -> Model:
        """A model of its own with the warm weights and a fresh optimizer."""
        future = self.client.create_training_client_from_state(path or self.warm_state)
        return Model(self, self.wait(future))

    def sampler(self, path: str | None = None) -> Any:
        """An official sampling client, of the base model unless a path is given."""
        target = {"base_model": self.base_model} if path is None else {"model_path": path}
        return self.wait(self.client.create_sampling_client(**target))

    def prompt(self, length: int = 8, *, seed: int = 0) -> Any:
        """Random tokens to be continued."""
        return self.tinker.ModelInput.from_ints(random_tokens(length, seed=seed))

    def datum(self, tokens: Sequence[int], **inputs: object) -> Any:
        """A datum that reads all tokens but the last and is asked for all but the first."""
        targets = np.asarray(tokens[1:], np.int64)
        prompt = self.tinker.ModelInput.from_ints(list(tokens[:-1]))
        return self.tinker.Datum(prompt, {"target_tokens": targets, **inputs})

    def data(self, num_datums: int, *, seed: int, max_length: int = 16) -> list[Any]:
        """Random tokens, with weights that are zero, fractional and negative."""
        rng = np.random.default_rng(seed)
        data = []
        for index in range(num_datums):
            length = int(rng.integers(4, max_length))
            weights = rng.normal(size=length).astype(np.float32)
            weights[: length // 3] = 0.0
            tokens = random_tokens(length + 1, seed=1000 * seed + index)
            data.append(self.datum(tokens, weights=weights))
        return data

    def weighted(self, data: Sequence[Any], weights: Sequence[Array]) -> list[Any]:
        """The same tokens with other weights."""
        return [
            self.tinker.Datum(
                datum.model_input,
                {
                    "target_tokens": datum.loss_fn_inputs["target_tokens"],
                    "weights": np.asarray(each, np.float32),
                },
            )
            for datum, each in zip(data, weights, strict=True)
        ]

    def scaled(self, data: Sequence[Any], factor: float) -> list[Any]:
        """The same tokens with weights times a factor."""
        return self.weighted(data, [factor * inputs_of(datum)["weights"] for datum in data])


class Model:
    """A model in training; every call waits for its result."""

    def __init__(self, server: Server, trainer: Any) -> None:
        self.server, self.trainer = server, trainer

    def run(
        self,
        data: Sequence[Any],
        loss_fn: str = "cross_entropy",
        config: Mapping[str, float] | None = None,
        *,
        forward_only: bool = True,
    ) -> Any:
        """Forward, or forward and backward; the official output."""
        call = self.trainer.forward if forward_only else self.trainer.forward_backward
        return self.server.wait(call(list(data), loss_fn, dict(config or {}) or None))

    def gradient(
        self,
        data: Sequence[Any],
        loss_fn: str = "cross_entropy",
        config: Mapping[str, float] | None = None,
    ) -> Any:
        """Forward and backward."""
        return self.run(data, loss_fn, config, forward_only=False)

    def step(self, **settings: float) -> Any:
        """One AdamW step; a large epsilon unless another is given."""
        return self.server.wait(self.submit_step(**settings))

    def submit_step(self, **settings: float) -> Any:
        """The same, not awaited."""
        if "learning_rate" not in settings:
            settings["learning_rate"] = self.server.learning_rate
        return self.trainer.optim_step(self.server.tinker.AdamParams(**{"eps": EPS, **settings}))

    def logprobs(self, data: Sequence[Any]) -> Array:
        """The logprobs of all targets, one after the other."""
        return np.concatenate([each.ravel() for each in logprobs_of(self.run(data))])


def logprobs_of(output: Any) -> list[Array]:
    """The logprobs of each datum, as the server returned them."""
    records = output.loss_fn_outputs
    expect(all("logprobs" in record for record in records), "an output lacks logprobs")
    return [np.asarray(record["logprobs"].to_numpy(), np.float64) for record in records]


def inputs_of(datum: Any) -> dict[str, Array]:
    """The inputs of a datum's loss in float64."""
    return {
        name: np.asarray(tensor.to_numpy(), np.float64)
        for name, tensor in datum.loss_fn_inputs.items()
    }


def random_tokens(count: int, *, seed: int) -> list[int]:
    """Token ids that mean nothing."""
    return np.random.default_rng(seed).integers(FIRST_TOKEN, LAST_TOKEN, count).tolist()
