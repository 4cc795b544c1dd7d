"""Loading base models: what is wrapped, and a one-line error for what cannot be had."""

from pathlib import Path

import pytest
import torch

from tests.unit.engine.random_models import save_random_model
from tinsmith.core.errors import ConfigError, UserError
from tinsmith.engine.base_model import load_base_model
from tinsmith.engine.engine import Engine
from tinsmith.engine.lora import Segment
from tinsmith.types import LoraConfig


@pytest.mark.parametrize("arch", ["qwen3", "llama", "phi3", "gpt_neox", "gpt2"])
def test_wrapped_model_without_adapters_is_the_model(tmp_path: Path, arch: str) -> None:
    from transformers import AutoModelForCausalLM

    directory = save_random_model(tmp_path / arch, arch)
    base = load_base_model(str(directory))
    tokens = torch.arange(8).view(2, 4)
    plain = AutoModelForCausalLM.from_pretrained(directory)
    with torch.no_grad():
        expected = plain(input_ids=tokens).logits
        assert torch.equal(base.model(input_ids=tokens).logits, expected)
        assert torch.equal(base.head(base.hidden_states(tokens)), expected)
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert base.info.arch == arch
    assert base.info.max_context_length == 128
    assert base.info.vocab_size == 96
    assert base.info.num_parameters == sum(p.numel() for p in plain.parameters())


def test_targets_follow_the_lora_config(model_dir: Path) -> None:
    base = load_base_model(str(model_dir))
    everything = base.target_modules(LoraConfig(rank=1))
    assert len(everything) == 2 * 7 + 1
    assert everything[-1] == "lm_head"
    attention = base.target_modules(LoraConfig(rank=1, train_mlp=False, train_unembed=False))
    assert attention[:4] == [f"model.layers.0.self_attn.{x}_proj" for x in "qkvo"]
    assert len(attention) == 8
    mlp = base.target_modules(LoraConfig(rank=1, train_attn=False, train_unembed=False))
    assert mlp[-1] == "model.layers.1.mlp.down_proj"
    assert len(mlp) == 6
    nothing = LoraConfig.model_construct(
        rank=1, seed=None, train_attn=False, train_mlp=False, train_unembed=False
    )
    with pytest.raises(ConfigError, match="nothing would be trained"):
        base.target_modules(nothing)


def test_router_acts_on_its_rows_only(model_dir: Path) -> None:
    engine = Engine(str(model_dir))
    tokens = torch.arange(12).view(3, 4)
    engine.create_adapter("a", LoraConfig(rank=2, seed=0))
    with torch.no_grad():
        engine.adapter("a").flat.normal_(0, 0.3)
        base_hidden = engine.base.hidden_states(tokens)
        weights = engine.adapter("a").make_pass(backward=False).weights
        with engine.base.router.use([Segment(slice(1, 2), weights)]):
            hidden = engine.base.hidden_states(tokens)
    assert torch.equal(hidden[0], base_hidden[0])
    assert torch.equal(hidden[2], base_hidden[2])
    assert not torch.allclose(hidden[1], base_hidden[1], atol=1e-2)


@pytest.mark.parametrize("arch", ["mixtral", "opt"])
def test_architectures_that_cannot_be_adapted_are_refused(tmp_path: Path, arch: str) -> None:
    directory = save_random_model(tmp_path / arch, arch)
    with pytest.raises(ConfigError, match=f"architecture '{arch}' has no linear attention"):
        load_base_model(str(directory))


def test_logits_that_are_scaled_after_the_head_are_refused(tmp_path: Path) -> None:
    directory = save_random_model(tmp_path / "granite", "granite")
    with pytest.raises(ConfigError, match="architecture 'granite' changes its logits"):
        load_base_model(str(directory))


def test_wrong_paths_say_where_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_base_model(str(tmp_path / "nowhere"))
    assert caught.value.field == "base_model"
    assert f"directory {tmp_path / 'nowhere'} does not exist" in str(caught.value)
    assert "save_pretrained" in str(caught.value)
    with pytest.raises(ConfigError, match=r"holds no config\.json"):
        load_base_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be loaded") as caught:
        load_base_model(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_hub_name_offline_fails_at_once_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="not in the Hub cache") as caught:
        load_base_model("nobody/no-such-model")
    assert "'nobody/no-such-model'" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="neither a local directory nor a Hub name"):
        load_base_model("no such model!")


def test_bundled_model_trains_one_step(tiny_dir: Path) -> None:
    from tests.unit.engine.training_reference import random_job, run, succeed
    from tinsmith.engine.jobs import OptimStepJob
    from tinsmith.types import AdamParams

    assert tiny_dir.is_dir()
    engine = Engine("tinsmith/tiny")
    engine.create_adapter("a", LoraConfig(rank=4))
    (output,) = run(engine, random_job("a", "cross_entropy", [12]))
    assert output.metrics["loss:sum"] != 0
    (response,) = succeed(engine.optim_step([OptimStepJob("a", AdamParams(learning_rate=1e-3))]))
    assert response.metrics["update_norm"] > 0


def test_adapters_are_named_once_and_of_sensible_rank(model_dir: Path) -> None:
    engine = Engine(str(model_dir))
    engine.create_adapter("a", LoraConfig(rank=2))
    with pytest.raises(UserError, match="adapter 'a' exists"):
        engine.create_adapter("a", LoraConfig(rank=2))
    with pytest.raises(ConfigError, match=r"lora_config\.rank=100000: must be 1\.\.1024"):
        engine.create_adapter(
            "b", LoraConfig.model_construct(**{**LoraConfig(rank=1).model_dump(), "rank": 100000})
        )
    assert not engine.has_adapter("b")


@pytest.mark.parametrize("device", ["gpu", "cuda:63", "cpu:x"])
def test_a_device_that_is_not_there_is_a_settings_error(model_dir: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=f"device='{device}': cannot be used: ") as caught:
        load_base_model(str(model_dir), device)
    assert caught.value.field == "device"
