"""Inspect AI asks a model of ours: messages, tools and replies keep their meaning on the way.

Needs inspect-ai, which is not among the development packages (it holds fsspec below our pin); in an
environment that has it, these tests run.
"""

import importlib.util
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tinsmith.core.errors import ServerError, UserError
from tinsmith.renderers import Renderer, get_renderer, get_tokenizer
from tinsmith.training.config import InspectConfig
from tinsmith.training.inspect_bridge import InspectEvaluator, make_model_api, to_message, to_tool
from tinsmith.types import SampledSequence, SampleResponse

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("inspect_ai") is None,
        reason='inspect-ai is not installed: pip install "tinsmith[inspect]"',
    ),
    pytest.mark.usefixtures("tiny_dir"),
]

TASK = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import exact

@task
def agreement():
    samples = [Sample(input="Is it?", target="Yes."), Sample(input="Or not?", target="No.")]
    return Task(dataset=samples, scorer=exact())
"""


class Says:
    """A sampling client that always says the same, and keeps what it was asked."""

    def __init__(self, renderer: Renderer, text: str) -> None:
        self.tokens = renderer.tokenizer.encode(text, add_special_tokens=False)
        self.prompts: list[str] = []
        self.renderer = renderer

    def sample(self, prompt: Any, num_samples: int, params: Any) -> "Later":
        decode = self.renderer.tokenizer.decode
        self.prompts.append(decode(prompt.to_ints(), skip_special_tokens=False))
        sequence = SampledSequence(stop_reason="stop", tokens=self.tokens)
        return Later(SampleResponse(sequences=[sequence] * num_samples))


class Later:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __await__(self) -> Generator[Any, None, Any]:
        yield from ()
        return self.value


@pytest.fixture
def renderer() -> Renderer:
    return get_renderer("qwen3_instruct", get_tokenizer("tinsmith/tiny"))


def evaluator(renderer: Renderer, folder: Path, tasks: Sequence[str] = ()) -> InspectEvaluator:
    return InspectEvaluator(InspectConfig(tasks=tuple(tasks)), renderer, "ours", folder / "logs")


async def test_a_task_runs_and_its_metrics_come_back(
    renderer: Renderer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "agreement.py"
    path.write_text(TASK)
    sampler: Any = Says(renderer, "Yes.<|im_end|>")
    metrics = await evaluator(renderer, tmp_path, [f"{path}@agreement"])(sampler)
    assert metrics["inspect/agreement/exact/mean"] == 0.5
    assert sorted(sampler.prompts)[0].endswith("Is it?<|im_end|>\n<|im_start|>assistant\n")
    assert list((tmp_path / "logs").iterdir())
    assert capsys.readouterr().out == ""


async def test_a_task_that_fails_says_so(renderer: Renderer, tmp_path: Path) -> None:
    path = tmp_path / "agreement.py"
    path.write_text(TASK.replace('"Or not?"', "[]"))

    class Fails(Says):
        def sample(self, prompt: Any, num_samples: int, params: Any) -> Any:
            raise RuntimeError("the service is gone")

    sampler: Any = Fails(renderer, "")
    with pytest.raises(ServerError, match=r"inspect task 'agreement' failed: .*service is gone"):
        await evaluator(renderer, tmp_path, [f"{path}@agreement"])(sampler)


async def test_calls_and_results_and_tools_keep_their_meaning(
    renderer: Renderer, tmp_path: Path
) -> None:
    from inspect_ai.model import (
        ChatMessageAssistant,
        ChatMessageTool,
        ChatMessageUser,
        GenerateConfig,
    )
    from inspect_ai.tool import ToolCall, ToolInfo, ToolParam, ToolParams

    call = ToolCall(id="1", function="add", arguments={"a": 1})
    conversation = [
        ChatMessageUser(content="1 + 2?"),
        ChatMessageAssistant(content="", tool_calls=[call]),
        ChatMessageTool(content="3", tool_call_id="1", function="add"),
    ]
    tool = ToolInfo(
        name="add",
        description="Adds.",
        parameters=ToolParams(properties={"a": ToolParam(type="integer")}),
    )
    reply = '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call><|im_end|>'
    sampler: Any = Says(renderer, reply)
    api = make_model_api(evaluator(renderer, tmp_path), sampler)
    output = await api.generate(conversation, [tool], "auto", GenerateConfig())
    ours = renderer.build_generation_prompt(
        [to_message(message) for message in conversation], tools=[to_tool(tool)]
    )
    decode = renderer.tokenizer.decode
    assert sampler.prompts == [decode(ours.to_ints(), skip_special_tokens=False)]
    assert '"description": "Adds."' in sampler.prompts[0]
    (made,) = output.choices[0].message.tool_calls
    assert (made.function, made.arguments) == ("add", {"a": 2})
    assert output.choices[0].stop_reason == "tool_calls"
    assert output.usage.output_tokens == len(sampler.tokens)


async def test_stops_of_a_task_cut_and_a_reply_that_does_not_end_is_told(
    renderer: Renderer, tmp_path: Path
) -> None:
    from inspect_ai.model import ChatMessageUser, GenerateConfig

    sampler: Any = Says(renderer, "one STOP two")
    api = make_model_api(evaluator(renderer, tmp_path), sampler)
    asked = [ChatMessageUser(content="?")]
    whole = await api.generate(asked, [], "auto", GenerateConfig())
    cut = await api.generate(asked, [], "auto", GenerateConfig(stop_seqs=["STOP"], num_choices=2))
    assert (whole.completion, whole.stop_reason) == ("one STOP two", "max_tokens")
    assert [choice.message.text for choice in cut.choices] == ["one ", "one "]
    assert cut.stop_reason == "stop"


async def test_a_call_that_must_be_made_is_refused(renderer: Renderer, tmp_path: Path) -> None:
    from inspect_ai.model import GenerateConfig

    sampler: Any = Says(renderer, "x")
    api = make_model_api(evaluator(renderer, tmp_path), sampler)
    with pytest.raises(UserError, match="cannot be made to call a tool"):
        await api.generate([], [], "any", GenerateConfig())
