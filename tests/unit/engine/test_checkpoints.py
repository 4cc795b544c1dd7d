"""Training state and sampler weights on disk: exact, atomic, and readable by PEFT."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.unit.engine.random_models import VOCAB_SIZE, save_random_model
from tests.unit.engine.training_reference import (
    add_trained_adapter,
    random_job,
    relative_error,
    run,
    succeed,
)
from tinsmith.core.errors import ConfigError
from tinsmith.engine.adapters import AdapterSnapshot
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import OptimStepJob
from tinsmith.engine.lora import LoraPair, Segment
from tinsmith.types import AdamParams, LoraConfig


@pytest.fixture
def engine(model_dir: Path) -> Engine:
    engine = Engine(str(model_dir))
    add_trained_adapter(engine, "a", rank=4, seed=1)
    return engine


def train(engine: Engine, adapter_id: str, steps: range) -> list[dict[str, float]]:
    metrics = []
    for number in steps:
        metrics.append(
            run(engine, random_job(adapter_id, "cross_entropy", [9, 14], seed=number))[0].metrics
        )
        params = AdamParams(learning_rate=1e-2, weight_decay=0.1, grad_clip_norm=1.0)
        metrics.append(succeed(engine.optim_step([OptimStepJob(adapter_id, params)]))[0].metrics)
    return metrics


def snapshot_logits(engine: Engine, snapshot_id: str) -> torch.Tensor:
    tokens = torch.arange(10)[None] % VOCAB_SIZE
    segment = Segment(slice(0, 1), engine.snapshots[snapshot_id].weights)
    with torch.no_grad(), engine.base.router.use([segment]):
        return engine.base.model(input_ids=tokens, use_cache=False).logits[0]


def test_resuming_is_exact_to_the_bit(engine: Engine, model_dir: Path, tmp_path: Path) -> None:
    train(engine, "a", range(3))
    engine.save_state("a", tmp_path / "state")
    undisturbed = train(engine, "a", range(3, 6))
    other = Engine(str(model_dir))
    config = other.load_state("a", tmp_path / "state", with_optimizer=True)
    assert config == engine.adapter_config("a")
    assert other.adapter("a").step == 3
    assert train(other, "a", range(3, 6)) == undisturbed
    assert torch.equal(other.adapter("a").flat, engine.adapter("a").flat)
    for key in ("exp_avg", "exp_avg_sq"):
        ours, theirs = (e.adapter("a").optimizer.state_tensors()[key] for e in (other, engine))
        assert torch.equal(ours, theirs)


def test_loading_without_the_optimizer_starts_moments_anew(engine: Engine, tmp_path: Path) -> None:
    train(engine, "a", range(2))
    engine.save_state("a", tmp_path / "state")
    engine.load_state("b", tmp_path / "state", with_optimizer=False)
    assert torch.equal(engine.adapter("a").flat, engine.adapter("b").flat)
    assert engine.adapter("b").step == 0


def test_a_state_without_steps_can_be_resumed(engine: Engine, tmp_path: Path) -> None:
    engine.save_state("a", tmp_path / "state")
    engine.load_state("b", tmp_path / "state", with_optimizer=True)
    assert train(engine, "a", range(2)) == train(engine, "b", range(2))


def test_loading_replaces_and_drops_the_pending_gradient(engine: Engine, tmp_path: Path) -> None:
    engine.save_state("a", tmp_path / "state")
    before = engine.adapter("a").flat.detach().clone()
    train(engine, "a", range(2))
    run(engine, random_job("a", "cross_entropy", [4]))
    engine.load_state("a", tmp_path / "state", with_optimizer=True)
    assert torch.equal(engine.adapter("a").flat, before)
    assert engine.adapter("a").grad is None


def test_a_pending_gradient_is_noted_and_not_saved(
    engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(engine, random_job("a", "cross_entropy", [4]))
    engine.save_state("a", tmp_path / "state")
    assert "not part of a checkpoint" in caplog.text
    assert json.loads((tmp_path / "state" / "state.json").read_text())["dropped_gradient"] is True
    assert engine.adapter("a").grad is not None


def test_saving_replaces_a_directory_completely(engine: Engine, tmp_path: Path) -> None:
    engine.save_state("a", tmp_path / "state")
    train(engine, "a", range(1))
    engine.save_state("a", tmp_path / "state")
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == [
        "state.json",
        "state.safetensors",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    engine.load_state("b", tmp_path / "state", with_optimizer=True)
    assert engine.adapter("b").step == 1


def test_another_base_models_state_is_refused(engine: Engine, tmp_path: Path) -> None:
    engine.save_state("a", tmp_path / "state")
    other = Engine(str(save_random_model(tmp_path / "llama", "llama")))
    with pytest.raises(ConfigError, match="it was trained on"):
        other.load_state("a", tmp_path / "state", with_optimizer=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", "no training state there"),
        ("json", "not valid JSON"),
        ("version", "version 99 is not"),
        ("tensors", "state.safetensors cannot be read"),
        ("no tensors", "state.safetensors is missing"),
        ("size", "size of its layers"),
    ],
)
def test_damaged_states_are_refused(
    engine: Engine, tmp_path: Path, damage: str, message: str
) -> None:
    directory = tmp_path / "state"
    engine.save_state("a", directory)
    state = directory / "state.json"
    tensors = directory / "state.safetensors"
    if damage == "missing":
        state.unlink()
    elif damage == "json":
        state.write_text("{")
    elif damage == "version":
        state.write_text(json.dumps({**json.loads(state.read_text()), "version": 99}))
    elif damage == "tensors":
        tensors.write_bytes(b"not safetensors")
    elif damage == "no tensors":
        tensors.unlink()
    else:
        save_file({"weights": torch.zeros(3)}, tensors)
    before = engine.adapter("a").flat.detach().clone()
    with pytest.raises(ConfigError, match=message) as caught:
        engine.load_state("a", directory, with_optimizer=True)
    assert "state" in str(caught.value)
    assert torch.equal(engine.adapter("a").flat, before)


def test_snapshots_are_immutable_and_addressed_by_content(engine: Engine, tmp_path: Path) -> None:
    first = engine.snapshot("a")
    logits = snapshot_logits(engine, first)
    assert engine.snapshot("a") == first
    train(engine, "a", range(2))
    second = engine.save_sampler_weights("a", tmp_path / "second")
    assert second != first
    train(engine, "a", range(2, 3))
    engine.unload_adapter("a")
    assert torch.equal(snapshot_logits(engine, first), logits)
    engine.release_snapshot(second)
    engine.release_snapshot(second)
    assert second not in engine.snapshots
    assert engine.load_snapshot(tmp_path / "second") == second


def test_everything_that_a_snapshot_computes_with_is_in_its_id() -> None:
    def snapshot_id(
        *,
        base: str = "base",
        name: str = "q_proj",
        a: float = 1.0,
        b: float = 2.0,
        scale: float = 8.0,
    ) -> str:
        pair = LoraPair(torch.full((4, 3), a), torch.full((5, 4), b), scale)
        config = LoraConfig(rank=4)
        return AdapterSnapshot.from_weights({name: pair}, lora_config=config, base_model=base).id

    changes: list[dict[str, Any]] = [
        {"base": "other"},
        {"name": "k_proj"},
        {"a": 1.5},
        {"b": 2.5},
        {"scale": 4.0},
    ]
    ids = {snapshot_id(), *(snapshot_id(**change) for change in changes)}
    assert len(ids) == 1 + len(changes)
    assert snapshot_id() in ids


@pytest.mark.parametrize("rank", [1, 4, 64])
def test_alpha_is_32_for_every_rank(model_dir: Path, tmp_path: Path, rank: int) -> None:
    # The value of Tinker's service: learning rates carry over only if products scale alike.
    engine = Engine(str(model_dir))
    engine.create_adapter("a", LoraConfig(rank=rank))
    snapshot = engine.snapshots[engine.save_sampler_weights("a", tmp_path / "adapter")]
    assert {pair.scale for pair in snapshot.weights.values()} == {32 / rank}
    assert {
        pair.scale for pair in engine.adapter("a").make_pass(backward=False).weights.values()
    } == {32 / rank}
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["lora_alpha"], config["r"]) == (32, rank)


def test_using_a_snapshot_never_touches_training(engine: Engine, tmp_path: Path) -> None:
    train(engine, "a", range(2))
    old = engine.save_sampler_weights("a", tmp_path / "old")
    train(engine, "a", range(2, 4))
    before = engine.adapter("a").flat.detach().clone()
    engine.release_snapshot(old)
    engine.load_snapshot(tmp_path / "old")
    snapshot_logits(engine, old)
    assert torch.equal(engine.adapter("a").flat, before)


def peft_logits(model_dir: Path, adapter_dir: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    peft_model = PeftModel.from_pretrained(model, adapter_dir).eval()
    with torch.no_grad():
        return peft_model(input_ids=torch.arange(10)[None] % VOCAB_SIZE).logits[0]


@pytest.mark.parametrize("arch", ["qwen3", "llama", "gpt_neox", "gpt2"])
@pytest.mark.parametrize(
    "parts", [{}, {"train_attn": False}, {"train_mlp": False, "train_unembed": False}]
)
def test_peft_loads_our_directory_and_gives_the_same_logits(
    tmp_path: Path, arch: str, parts: dict[str, bool]
) -> None:
    model_dir = save_random_model(tmp_path / "model", arch)
    engine = Engine(str(model_dir))
    add_trained_adapter(engine, "a", rank=3, seed=1, **parts)
    snapshot_id = engine.save_sampler_weights("a", tmp_path / "peft")
    keys = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    assert all(key.startswith("base_model.model.") for key in keys)
    ours = snapshot_logits(engine, snapshot_id)
    theirs = peft_logits(model_dir, tmp_path / "peft")
    assert relative_error(ours, theirs) < 1e-5  # float32, other order of the same products
    base = engine.base.model(input_ids=torch.arange(10)[None] % VOCAB_SIZE).logits[0]
    assert relative_error(base, theirs) > 1e-3  # the adapter does matter


@pytest.mark.parametrize("rslora", [False, True])
def test_a_directory_that_peft_wrote_loads_with_its_own_rank_and_alpha(
    engine: Engine, model_dir: Path, tmp_path: Path, rslora: bool
) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    config = PeftLoraConfig(
        r=5, lora_alpha=7, target_modules=["q_proj", "down_proj"], use_rslora=rslora
    )
    peft_model = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    peft_model.save_pretrained(str(tmp_path / "peft"))
    snapshot = engine.snapshots[engine.load_snapshot(tmp_path / "peft")]
    assert snapshot.lora_config == LoraConfig(rank=5, train_unembed=False)
    ours = snapshot_logits(engine, snapshot.id)
    assert relative_error(ours, peft_logits(model_dir, tmp_path / "peft")) < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3' is not 'LORA'"),
        ({"use_dora": True}, "use_dora=True"),
        ({"bias": "all"}, "bias='all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"r": 3}, "has shapes"),
        ({"r": 0}, "must be positive"),
    ],
)
def test_lora_variants_that_would_be_misread_are_refused(
    engine: Engine, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    engine.save_sampler_weights("a", tmp_path / "peft")
    path = tmp_path / "peft" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConfigError, match=message):
        engine.load_snapshot(tmp_path / "peft")


def test_tensors_that_fit_no_layer_are_refused(engine: Engine, tmp_path: Path) -> None:
    engine.save_sampler_weights("a", tmp_path / "peft")
    path = tmp_path / "peft" / "adapter_model.safetensors"
    tensors = load_file(path)
    key = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
    stray = "base_model.model.model.layers.7.mlp.up_proj.lora_A.weight"
    save_file({**tensors, stray: tensors[key].clone()}, path)
    with pytest.raises(ConfigError, match=r"layers\.7.* fits no layer"):
        engine.load_snapshot(tmp_path / "peft")
    save_file({name: tensor for name, tensor in tensors.items() if name != key}, path)
    with pytest.raises(ConfigError, match="only one of lora_A and lora_B"):
        engine.load_snapshot(tmp_path / "peft")
    with pytest.raises(ConfigError, match="no PEFT adapter there"):
        engine.load_snapshot(tmp_path / "nowhere")


def test_a_late_release_leaves_an_equal_snapshot_that_was_taken_since(model_dir: Path) -> None:
    engine = Engine(str(model_dir))
    add_trained_adapter(engine, "a", rank=2)
    first, second = engine.snapshot("a"), engine.snapshot("a")
    assert first == second
    engine.release_snapshot(first)
    assert second in engine.snapshots
    engine.release_snapshot(second)
    assert second not in engine.snapshots
    engine.release_snapshot("never heard of")
    assert engine.snapshot("a") in engine.snapshots
