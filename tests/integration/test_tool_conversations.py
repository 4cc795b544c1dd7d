"""Fine-tuning on conversations with tools, on two architectures, from the command line to the end.

The models have random weights and the vocabularies are stand-ins, so that nothing is downloaded;
the chat formats are the families' own.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.assets import REPOSITORY
from tests.integration.service_process import ServiceProcess
from tinsmith.core.paths import state_dir
from tinsmith.renderers import get_renderer, get_tokenizer
from tinsmith.telemetry import read_metrics
from tinsmith.training import SupervisedConfig, run_supervised
from tinsmith.training.checkpoints import read_records

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TINSMITH = Path(sys.executable).with_name("tinsmith")
TOKENIZERS = REPOSITORY / "tests" / "golden" / "tokenizers"
FAMILIES = {"qwen3": ("qwen3", "qwen2-qwen3"), "llama3_1": ("llama", "llama3")}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    directory = tmp_path_factory.mktemp("service")
    with (
        ServiceProcess(directory, state_dir=state_dir()) as running,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TINSMITH_API_KEY", running.ready["api_key"])
        patch.setenv("TINSMITH_BASE_URL", running.ready["url"])
        yield running


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model_dir(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the family's architecture, with random weights and a stand-in vocabulary."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    arch, vocabulary = FAMILIES[family]
    folder = tmp_path_factory.mktemp(family)
    tokenizer = get_tokenizer(str(TOKENIZERS / vocabulary))
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        arch,
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for file in (TOKENIZERS / vocabulary).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def weather_chat(city: str, degrees: int) -> dict[str, Any]:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": json.dumps({"city": city})},
    }
    return {
        "messages": [
            {"role": "user", "content": f"How warm is it in {city}?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": json.dumps({"c": degrees})},
            {"role": "assistant", "content": f"{degrees} degrees."},
        ],
        "tools": [WEATHER],
    }


@pytest.fixture(scope="module")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cities = ["Oslo", "Lima", "Rome", "Bonn", "Kyiv", "Cork", "Nice", "Bern", "Riga", "Doha"]
    path = tmp_path_factory.mktemp("data") / "tools.jsonl"
    rows = [weather_chat(city, 7 + number) for number, city in enumerate(cities)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_command_fine_tunes_on_tool_calls_and_the_loss_falls(
    service: ServiceProcess, family: str, model_dir: Path, data_file: Path, tmp_path: Path
) -> None:
    flags = ["--model", str(model_dir), "--renderer", family, "--run-dir", str(tmp_path / "run")]
    flags += ["--test-size", "2", "--batch-size", "4", "--num-epochs", "6", "--max-length", "1024"]
    flags += ["--learning-rate", "1e-2", "--lora-rank", "8", "--eval-every", "0", "--json"]
    done = subprocess.run(
        [str(TINSMITH), "train", "sft", str(data_file), *flags],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ.copy(),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["num_steps"] == 12
    assert result["eval_nll_after"] < 0.7 * result["eval_nll_before"]
    assert Path(result["adapter_dir"], "adapter_model.safetensors").exists()
    document = json.loads((tmp_path / "run" / "config.json").read_text())
    assert document["data"]["renderer"] == family
    assert document["data"]["train"]["num_used"] == 8


def test_calls_are_trained_and_results_are_not(
    family: str, model_dir: Path, data_file: Path
) -> None:
    tokenizer = get_tokenizer(str(model_dir))
    renderer = get_renderer(family, tokenizer)
    row = weather_chat("Oslo", 7)
    example = renderer.build_supervised_example(
        row["messages"], "all_assistant_messages", tools=row["tools"]
    )
    tokens = example.model_input.to_ints()
    trained = tokenizer.decode([t for t, w in zip(tokens, example.weights, strict=True) if w])
    assert "get_weather" in trained
    assert "7 degrees." in trained
    assert "How warm" not in trained
    assert '"c"' not in trained
    assert "The weather in a city." in tokenizer.decode(tokens)


def test_accuracy_answers_and_the_best_state_are_measured_with_real_samples(
    service: ServiceProcess, family: str, model_dir: Path, data_file: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"question": "How warm is it?", "answer": "degrees"}\n' * 2)
    config = SupervisedConfig.model_validate(
        {
            "data": data_file,
            "model": str(model_dir),
            "renderer": family,
            "run_dir": tmp_path / "run",
            "test_size": 2,
            "batch_size": 4,
            "num_steps": 4,
            "max_length": 1024,
            "learning_rate": 1e-2,
            "lora_rank": 4,
            "eval_every": 2,
            "infrequent_eval_every": 0,
            "eval_accuracy": True,
            "best_metric": "eval/nll",
            "keep_last": 1,
            "save_every": 1,
            "sample_eval": {"data": prompts, "grader": "contains", "max_tokens": 4},
        }
    )
    result = run_supervised(config)
    rows = read_metrics(result.run_dir / "metrics.jsonl")
    assert [row["step"] for row in rows if "eval/accuracy" in row] == [0, 2, 4]
    assert [row["step"] for row in rows if "sample/score" in row] == [0, 4]
    for row in rows:
        if "eval/accuracy" in row:
            assert 0 <= row["eval/accuracy"] <= 1
            assert row["eval/bits_per_byte"] > 0
        if "sample/score" in row:
            assert 0 <= row["sample/score"] <= 1
            assert 0 < row["sample/mean_tokens"] <= 4
    records = read_records(result.run_dir / "checkpoints.jsonl")
    assert [r.kind for r in records].count("best") == 1
    # The service has what the records name, and no more of what was replaced.
    from tinsmith.client import ServiceClient

    with ServiceClient() as client:
        run_id = str(records[-1].state_path).split("/")[2]
        listed = client.create_rest_client().list_checkpoints(run_id).result().checkpoints
    named = {path for r in records for path in (r.state_path, r.sampler_path) if path}
    assert {checkpoint.tinker_path for checkpoint in listed} == named


def test_accuracy_is_that_of_the_likeliest_token_of_the_model_itself(
    service: ServiceProcess, family: str, model_dir: Path, data_file: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from tinsmith.data import SupervisedDataset, read_conversations
    from tinsmith.data.supervised import ExampleFormat
    from tinsmith.renderers import TrainOnWhat
    from tinsmith.training.evaluators import HeldOutSet, NLLEvaluator
    from tinsmith.training.sampling_evaluators import AccuracyEvaluator

    renderer = get_renderer(family, get_tokenizer(str(model_dir)))
    form = ExampleFormat(renderer, TrainOnWhat.ALL_TOKENS, 1024)
    dataset = SupervisedDataset.from_conversations(read_conversations(data_file)[:3], form)
    held_out = HeldOutSet.from_dataset(dataset, 2)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float64)
    right = total = 0
    nll = 0.0
    for datum in (d for batch in held_out.batches for d in batch):
        with torch.no_grad():
            logits = model(torch.tensor([datum.model_input.to_ints()])).logits[0]
        targets = torch.tensor(datum.loss_fn_inputs["target_tokens"].to_numpy())
        trained = torch.tensor(datum.loss_fn_inputs["weights"].to_numpy() != 0)
        right += int(((logits.argmax(-1) == targets) & trained).sum())
        total += int(trained.sum())
        logprobs = logits.log_softmax(-1)[torch.arange(len(targets)), targets]
        nll -= float(logprobs[trained].sum())

    async def measure() -> tuple[dict[str, float], dict[str, float]]:
        from tinsmith.client import ServiceClient

        async with ServiceClient() as client:
            # A fresh adapter changes nothing: its B is zero.
            training = await client.create_lora_training_client(str(model_dir), rank=4)
            sampler = await training.save_weights_and_get_sampling_client()
            accuracy = await AccuracyEvaluator.from_sets({"": held_out})(sampler)
            return dict(accuracy), dict(await NLLEvaluator({"": held_out})(training))

    import asyncio

    accuracy, losses = asyncio.run(measure())
    assert accuracy["eval/accuracy"] == right / total
    assert math.isclose(losses["eval/nll"], nll / total, rel_tol=1e-4)
