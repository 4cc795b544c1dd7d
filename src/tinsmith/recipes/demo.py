"""The demo: the main job from end to end, on a model small enough for a laptop.

Conversations are written (or a file of the user's is taken), the base model answers some questions,
an adapter is fine-tuned through the service, and the same questions are asked again. Main names:
`DemoConfig`, `run_demo`, `DemoResult`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from tinsmith.core.errors import ConfigError, DataError
from tinsmith.core.paths import BUNDLED_MODEL
from tinsmith.data import load_training_data
from tinsmith.recipes.demo_conversations import demo_questions, make_conversations, write_jsonl
from tinsmith.renderers import Message, Renderer, get_renderer, get_tokenizer, recommended_renderer
from tinsmith.renderers.messages import content_text
from tinsmith.training import RunResult, SupervisedConfig, run_supervised
from tinsmith.training.run_dir import RunDir, new_run_dir

if TYPE_CHECKING:
    from tinsmith.client import SamplingClient, ServiceClient

NUM_QUESTIONS = 8
ANSWER_TOKENS = 60


class DemoConfig(BaseModel):
    """What the demo trains, on what, and for how long."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    data: Path | None = None
    """JSONL file of conversations; none writes conversations in the speech of a pirate."""
    model: str = BUNDLED_MODEL
    """Base model."""
    base_url: str | None = None
    """Address of the service; none starts or joins the embedded one."""
    run_dir: Path | None = None
    """Directory of the run; none makes one under the data directory."""
    max_steps: int = Field(default=150, ge=1)
    """Optimizer steps, at most."""
    seed: int = Field(default=0, ge=0)
    """Seed of the conversations, the split, the orders and the adapter."""

    def training(self, data: Path, run_dir: Path) -> SupervisedConfig:
        """The fine-tuning run of this demo."""
        return SupervisedConfig(
            data=str(data),
            model=self.model,
            base_url=self.base_url,
            run_dir=run_dir,
            test_size=0.15,
            batch_size=16,
            num_epochs=self.max_steps,  # as many passes as the steps need
            max_steps=self.max_steps,
            learning_rate=2e-3,
            lr_schedule="linear",
            warmup_steps=min(5, self.max_steps - 1),
            lora_rank=16,
            train_unembed=False,  # the facts stay straighter than with it
            eval_every=max(1, self.max_steps // 4),
            save_every=0,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Answer:
    """One question, answered by the base model and by the fine-tuned one."""

    question: str
    before: str
    after: str


@dataclass(frozen=True)
class DemoResult:
    """What the demo shows."""

    training: RunResult
    answers: Sequence[Answer]
    data: Path
    seconds: float

    @property
    def nll_fall(self) -> float:
        """Part of the held-out NLL that is gone, 0 to 1."""
        before, after = self.training.eval_nll_before, self.training.eval_nll_after
        return 1 - after / before if before and after is not None else 0.0

    def summary(self) -> dict[str, Any]:
        """What `tinsmith demo --json` prints."""
        training = self.training
        return {
            "nll_before": training.eval_nll_before,
            "nll_after": training.eval_nll_after,
            "nll_fall": self.nll_fall,
            "num_steps": training.num_steps,
            "seconds": self.seconds,
            "data": str(self.data),
            "run_dir": str(training.run_dir),
            "sampler_path": training.sampler_path,
            "state_path": training.state_path,
            "adapter_dir": str(training.adapter_dir) if training.adapter_dir else None,
            "answers": [asdict(answer) for answer in self.answers],
        }


def run_demo(config: DemoConfig, *, say: Callable[[str], None]) -> DemoResult:
    """Run the demo.

    Args:
        config: What to do.
        say: Told what happens next, one line at a time.
    """
    from tinsmith.client import ServiceClient

    started = time.perf_counter()
    run_dir = (config.run_dir or new_run_dir("demo", config.data or Path("pirate"))).resolve()
    data, training = _prepare(config, run_dir, say)
    tokenizer = get_tokenizer(config.model)
    renderer = get_renderer(recommended_renderer(config.model, tokenizer), tokenizer)
    questions = _questions(config, training)
    with ServiceClient(base_url=config.base_url) as service:
        say("2/4  the base model answers (the service starts first, which takes some seconds)")
        base = service.create_sampling_client(base_model=config.model).result()
        before = _answers(base, renderer, questions)
        say(f"3/4  fine-tuning {config.model}: {training.max_steps} steps")
        result = run_supervised(training, service=service)
        say("4/4  the fine-tuned model answers")
        after = _answers(_tuned(service, result), renderer, questions)
    asked = [content_text(question[-1]) for question in questions]
    rows = [Answer(*row) for row in zip(asked, before, after, strict=True)]
    return DemoResult(result, rows, data, time.perf_counter() - started)


def _prepare(
    config: DemoConfig, run_dir: Path, say: Callable[[str], None]
) -> tuple[Path, SupervisedConfig]:
    """Write or take the conversations, and describe the run."""
    if RunDir(run_dir).holds_run():
        raise ConfigError(
            f"run_dir={str(run_dir)!r}: holds a run",
            field="run_dir",
            hint="choose another --run-dir, or leave it out",
        )
    if config.data is not None:
        data = config.data.resolve()
        say(f"1/4  conversations: {data}")
    else:
        data = run_dir / "conversations.jsonl"
        conversations = make_conversations(seed=config.seed)
        run_dir.mkdir(parents=True, exist_ok=True)
        write_jsonl(data, conversations)
        say(f"1/4  {len(conversations)} conversations written: {data}")
    return data, config.training(data, run_dir)


def _questions(config: DemoConfig, training: SupervisedConfig) -> list[list[Message]]:
    """Prompts that the training does not see."""
    if config.data is None:
        return [[{"role": "user", "content": text}] for text in demo_questions()]
    data = load_training_data(training.data, test_size=training.test_size, seed=training.seed)
    held_out = data.held_out.get("", ())[:NUM_QUESTIONS]
    prompts = [_first_prompt(conversation.messages) for conversation in held_out]
    if not prompts:
        raise DataError(
            f"{training.data}: too few conversations to hold some out",
            field="data",
            file=str(training.data),
            hint="give the demo at least 4; tinsmith train sft takes any number",
        )
    return prompts


def _first_prompt(messages: Sequence[Message]) -> list[Message]:
    """The messages before the assistant speaks for the first time."""
    roles = [message["role"] for message in messages]
    return list(messages[: roles.index("assistant")])


def _tuned(service: ServiceClient, result: RunResult) -> SamplingClient:
    return service.create_sampling_client(model_path=result.sampler_path).result()


def _answers(
    client: SamplingClient, renderer: Renderer, questions: Sequence[Sequence[Message]]
) -> list[str]:
    """Greedy answers to all questions, asked at once."""
    from tinsmith.types import SamplingParams

    params = SamplingParams(
        max_tokens=ANSWER_TOKENS, temperature=0.0, stop=renderer.get_stop_sequences()
    )
    futures = [
        client.sample(
            prompt=renderer.build_generation_prompt(question), num_samples=1, sampling_params=params
        )
        for question in questions
    ]
    replies = [renderer.parse_response(future.result().sequences[0].tokens) for future in futures]
    return [content_text(reply.message).strip() for reply in replies]
