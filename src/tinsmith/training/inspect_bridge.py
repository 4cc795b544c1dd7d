"""Inspect AI tasks as evaluators: Inspect asks, the weights of the moment answer.

`InspectEvaluator` gives Inspect a model whose `generate` renders messages and tools in the run's
own chat format, samples from the service and parses the reply. The package is the extra `inspect`;
it is imported when a task is run.

Source: `inspect_ai.model.ModelAPI`, version 0.3.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinsmith.core.errors import ServerError, UserError, missing_extra
from tinsmith.renderers import Renderer
from tinsmith.renderers.messages import Message, content_text
from tinsmith.training.config import InspectConfig
from tinsmith.types import SamplingParams

if TYPE_CHECKING:
    from tinsmith.client import SamplingClient

# Any, in this module: objects of a package that need not be installed.


@dataclass(frozen=True)
class InspectEvaluator:
    """Runs Inspect tasks.

    Attributes:
        config: Which tasks, and how answers are sampled.
        renderer: Format of prompts and answers.
        model_name: What Inspect's logs call the model.
        log_dir: Where Inspect writes its logs.
        needs_sampler: True.
    """

    config: InspectConfig
    renderer: Renderer
    model_name: str
    log_dir: Path
    needs_sampler: bool = True

    async def __call__(self, sampler: SamplingClient) -> Mapping[str, float]:
        """Run all tasks; `inspect/TASK/SCORER/METRIC` for each of their metrics.

        Raises:
            MissingExtraError: inspect-ai is not installed.
            ServerError: A task failed.
        """
        inspect_ai, model = _imported("inspect_ai"), _imported("inspect_ai.model")
        api = make_model_api(self, sampler)
        # Inspect shows its progress on stdout, which is the command's.
        with contextlib.redirect_stdout(sys.stderr):
            logs = await inspect_ai.eval_async(
                list(self.config.tasks),
                model=model.Model(api, model.GenerateConfig()),
                limit=self.config.limit,
                log_dir=str(self.log_dir),
            )
        metrics: dict[str, float] = {}
        for log in logs:
            metrics |= metrics_of(log)
        return metrics


def metrics_of(log: Any) -> dict[str, float]:
    """The metrics of one task's log.

    Raises:
        ServerError: The task failed.
    """
    task = str(log.eval.task).rpartition("/")[2]
    if log.status != "success" or log.results is None:
        reason = log.error.message if log.error else log.status
        raise ServerError(
            f"inspect task {task!r} failed: {reason}",
            hint=f"inspect view --log-dir {Path(str(log.location)).parent}",
        )
    return {
        f"inspect/{task}/{score.name}/{name}": float(metric.value)
        for score in log.results.scores
        for name, metric in score.metrics.items()
    }


def make_model_api(evaluator: InspectEvaluator, sampler: SamplingClient) -> Any:
    """An Inspect model that samples from `sampler`."""
    inspect = _imported("inspect_ai.model")

    class TinsmithAPI(inspect.ModelAPI):
        async def generate(  # the names are Inspect's
            self,
            input: Any,  # noqa: A002
            tools: Any,
            tool_choice: Any,
            config: Any,
        ) -> Any:
            if tool_choice not in ("auto", "none"):
                raise UserError(
                    f"tool_choice={tool_choice!r}: a sampled model cannot be made to call a tool",
                    hint='use "auto" or "none"',
                )
            messages = [to_message(message) for message in input]
            declared = [] if tool_choice == "none" else [to_tool(tool) for tool in tools]
            renderer = evaluator.renderer
            prompt = renderer.build_generation_prompt(messages, tools=declared)
            params = sampling_params(evaluator, config)
            response = await sampler.sample(prompt, config.num_choices or 1, params)
            return to_output(
                evaluator,
                [sequence.tokens for sequence in response.sequences],
                num_prompt_tokens=prompt.length,
                stops=config.stop_seqs or (),
            )

    # The decorator's wrapper marks its instances, without which Inspect cannot name them.
    return inspect.modelapi(name="tinsmith")(TinsmithAPI)(evaluator.model_name)


def sampling_params(evaluator: InspectEvaluator, config: Any) -> SamplingParams:
    """What Inspect asks for, with the run's defaults below it."""
    defaults = evaluator.config
    return SamplingParams(
        max_tokens=config.max_tokens or defaults.max_tokens,
        temperature=defaults.temperature if config.temperature is None else config.temperature,
        top_p=1.0 if config.top_p is None else config.top_p,
        top_k=-1 if config.top_k is None else config.top_k,
        seed=config.seed,
        stop=evaluator.renderer.get_stop_sequences(),
    )


def to_message(message: Any) -> Message:
    """A message of Inspect in our form."""
    parts = (
        [{"type": "text", "text": message.content}]
        if isinstance(message.content, str)
        else [_part(part) for part in message.content]
    )
    made: dict[str, Any] = {"role": message.role, "content": parts}
    if all(part["type"] == "text" for part in parts):
        made["content"] = "".join(part["text"] for part in parts)
    if getattr(message, "tool_calls", None):
        made["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function, "arguments": json.dumps(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.role == "tool":
        made["tool_call_id"] = message.tool_call_id
        made["name"] = message.function
        if message.error is not None:
            made["content"] = message.error.message
    found: Any = {key: value for key, value in made.items() if value is not None}
    return found


def _part(part: Any) -> dict[str, Any]:
    match part.type:
        case "text":
            return {"type": "text", "text": part.text}
        case "reasoning":
            return {"type": "thinking", "thinking": part.reasoning}
        case "image":
            return {"type": "image", "image": part.image}
    raise UserError(
        f"content of type {part.type!r}: no chat format here has it",
        hint="leave the task out of inspect.tasks",
    )


def to_tool(tool: Any) -> dict[str, Any]:
    """A tool of Inspect in OpenAI's form."""
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters.model_dump(exclude_none=True),
        },
    }


def to_output(
    evaluator: InspectEvaluator,
    replies: Sequence[Sequence[int]],
    *,
    num_prompt_tokens: int,
    stops: Sequence[str],
) -> Any:
    """Sampled replies as Inspect wants them."""
    inspect = _imported("inspect_ai.model")
    num_output_tokens = sum(map(len, replies))
    return inspect.ModelOutput(
        model=evaluator.model_name,
        choices=[_choice(evaluator, tokens, stops) for tokens in replies],
        usage=inspect.ModelUsage(
            input_tokens=num_prompt_tokens,
            output_tokens=num_output_tokens,
            total_tokens=num_prompt_tokens + num_output_tokens,
        ),
    )


def _choice(evaluator: InspectEvaluator, tokens: Sequence[int], stops: Sequence[str]) -> Any:
    inspect, tool = _imported("inspect_ai.model"), _imported("inspect_ai.tool")
    reply = evaluator.renderer.parse_response(tokens)
    # The format's own stops are tokens, and a request has stops of one kind: these are cut here.
    text, was_cut = _cut(content_text(reply.message), stops)
    calls = [
        tool.ToolCall(
            id=call.get("id") or f"call_{place}",
            function=call["function"]["name"],
            **_arguments(call["function"]["arguments"]),
        )
        for place, call in enumerate(reply.message.get("tool_calls") or ())
    ] + [
        tool.ToolCall(
            id=f"unparsed_{place}",
            function="unknown",
            arguments={},
            parse_error=f"{call['error']}: {call['raw_text']}",
        )
        for place, call in enumerate(reply.message.get("unparsed_tool_calls") or ())
    ]
    content: Any = text
    if thinking := _thinking(reply.message):
        content = [inspect.ContentReasoning(reasoning=thinking), inspect.ContentText(text=text)]
    reason = "stop" if was_cut or reply.termination.is_clean else "max_tokens"
    return inspect.ChatCompletionChoice(
        message=inspect.ChatMessageAssistant(
            content=content,
            tool_calls=calls or None,
            model=evaluator.model_name,
            source="generate",
        ),
        stop_reason="tool_calls" if calls else reason,
    )


def _arguments(arguments: Any) -> dict[str, Any]:
    if isinstance(arguments, Mapping):
        return {"arguments": dict(arguments)}
    try:
        found = json.loads(arguments or "{}")
    except ValueError as error:
        return {"arguments": {}, "parse_error": f"{error}: {arguments}"}
    if not isinstance(found, dict):
        return {"arguments": {}, "parse_error": f"the arguments are no object: {arguments}"}
    return {"arguments": found}


def _thinking(message: Message) -> str:
    content = message.get("content")
    if isinstance(content, str) or content is None:
        return message.get("reasoning_content") or ""
    return "".join(part["thinking"] for part in content if part["type"] == "thinking")


def _cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """Text before the first of some stops, and whether there was one."""
    places = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    return (text[: min(places)], True) if places else (text, False)


def _imported(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise missing_extra("inspect-ai", "inspect") from error
