"""What a small program does with one release of the official client; run in that release's venv.

Prints one JSON object: step to "ok", or to the error that it ended in. Needs nothing of ours.

    python script.py URL KEY BASE_MODEL
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import tinker

TOKENS = [50, 117, 9, 204, 333, 61, 77, 120, 250]
LEARNING_RATE = 1e-2


def done(answer: Any) -> Any:
    """The result behind an answer, which some releases give at once and others as a future."""
    return answer.result(timeout=120) if hasattr(answer, "result") else answer


def types() -> Any:
    """Where the release keeps its types."""
    return getattr(tinker, "types", tinker)


def datum() -> Any:
    """One text whose every token counts."""
    inputs = {
        "target_tokens": types().TensorData(
            data=TOKENS[1:], dtype="int64", shape=[len(TOKENS) - 1]
        ),
        "weights": types().TensorData(
            data=[1.0] * (len(TOKENS) - 1), dtype="float32", shape=[len(TOKENS) - 1]
        ),
    }
    return types().Datum(model_input=prompt(TOKENS[:-1]), loss_fn_inputs=inputs)


def prompt(tokens: list[int]) -> Any:
    """Tokens as a model reads them."""
    return types().ModelInput.from_ints(tokens)


def values(tensor: Any) -> list[float]:
    """The numbers of a tensor of any release."""
    return [float(value) for value in tensor.data]


class Program:
    """The steps, in order; a later one uses what an earlier one made."""

    def __init__(self, url: str, key: str, base_model: str) -> None:
        self.base_model = base_model
        self.service = tinker.ServiceClient(base_url=url, api_key=key)

    def create(self) -> None:
        create = self.service.create_lora_training_client
        self.trainer = done(create(base_model=self.base_model, rank=8))

    def loss(self) -> float:
        output = done(self.trainer.forward([datum()], "cross_entropy"))
        logprobs = values(output.loss_fn_outputs[0]["logprobs"])
        expect(len(logprobs) == len(TOKENS) - 1, "one logprob a target")
        return -sum(logprobs)

    def train(self) -> None:
        before = self.loss()
        for _ in range(3):
            gradient = self.trainer.forward_backward([datum()], "cross_entropy")
            step = self.trainer.optim_step(types().AdamParams(learning_rate=LEARNING_RATE))
            done(gradient)
            done(step)
        self.trained = self.loss()
        expect(self.trained < before - 1, f"the loss falls: {before} to {self.trained}")

    def save(self) -> None:
        self.state_path = done(self.trainer.save_state("state")).path

    def load(self) -> None:
        create = self.service.create_training_client_from_state
        self.trainer = done(create(self.state_path))
        expect(abs(self.loss() - self.trained) < 1e-3, "the loss is what it was")

    def sample(self) -> None:
        path = done(self.trainer.save_weights_for_sampler("sampler")).path
        sampler = done(self.service.create_sampling_client(model_path=path))
        params = types().SamplingParams(max_tokens=6, temperature=0.0)
        response = done(
            sampler.sample(
                prompt=prompt(TOKENS),
                num_samples=2,
                sampling_params=params,
                include_prompt_logprobs=True,
            )
        )
        expect(len(response.sequences) == 2, "two samples")
        scored = [float(value) for value in response.prompt_logprobs[1:]]
        expect(abs(sum(scored) + self.trained) < 1e-2, "the prompt's logprobs are the model's")
        tokens = list(response.sequences[0].tokens)
        expect(len(response.sequences[0].logprobs) == len(tokens), "one logprob a token")

    def list_runs(self) -> None:
        rest = self.service.create_rest_client()
        runs = done(rest.list_training_runs()).training_runs
        expect(self.trainer.model_id in [run.training_run_id for run in runs], "the run is listed")
        if not hasattr(rest, "get_weights_info_by_tinker_path"):
            return  # the release has no such method
        info = done(rest.get_weights_info_by_tinker_path(self.state_path))
        expect(info.base_model == self.base_model, "the checkpoint names its base model")


STEPS = ("create", "train", "save", "load", "sample", "list_runs")


def expect(is_so: object, what: str) -> None:
    """Fail the step unless something holds."""
    if not is_so:
        raise AssertionError(what)


def main(url: str, key: str, base_model: str) -> dict[str, str]:
    """Run all steps; a step that fails does not stop the next one."""
    program = Program(url, key, base_model)
    outcomes = {}
    for name in STEPS:
        step: Callable[[], None] = getattr(program, name)
        try:
            step()
        except Exception as error:  # noqa: BLE001 - the table says what each release ended in
            outcomes[name] = f"{type(error).__name__}: {error}"[:300]
        else:
            outcomes[name] = "ok"
    return outcomes


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
