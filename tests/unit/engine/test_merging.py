"""A merged model, loaded by plain transformers, computes what the adapter computes."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.unit.engine.random_models import save_random_model
from tests.unit.engine.test_checkpoints import snapshot_logits
from tests.unit.engine.training_reference import add_trained_adapter
from tinsmith.core.errors import AlreadyExistsError, ConfigError
from tinsmith.engine.engine import Engine
from tinsmith.engine.merging import merge_adapter


def merged_logits(directory: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(directory)
    with torch.no_grad():
        return model(input_ids=torch.arange(10)[None], use_cache=False).logits[0]


@pytest.mark.parametrize("arch", ["qwen3", "llama", "gpt2"])
@pytest.mark.parametrize("train_unembed", [True, False])
def test_a_merged_model_has_the_adapters_logits(
    tmp_path: Path, arch: str, train_unembed: bool
) -> None:
    source = save_random_model(tmp_path / "base", arch)
    engine = Engine(str(source), device="cpu")
    add_trained_adapter(engine, "a", rank=4, seed=2, train_unembed=train_unembed)
    snapshot = engine.save_sampler_weights("a", tmp_path / "adapter")
    merge_adapter(tmp_path / "adapter", tmp_path / "merged", base_model=str(source))
    found, expected = merged_logits(tmp_path / "merged"), snapshot_logits(engine, snapshot)
    # Folding moves float32 roundings about; the adapter itself moves logits by far more.
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (found - merged_logits(source)).abs().max() > 1e-2
    was_tied, is_tied = (
        AutoConfig.from_pretrained(directory).tie_word_embeddings
        for directory in (source, tmp_path / "merged")
    )
    assert is_tied == (was_tied and not train_unembed)


def test_what_cannot_be_merged_leaves_nothing(model_dir: Path, tmp_path: Path) -> None:
    engine = Engine(str(model_dir), device="cpu")
    add_trained_adapter(engine, "a", rank=4)
    engine.save_sampler_weights("a", tmp_path / "adapter")
    other = save_random_model(tmp_path / "other", "gpt2")
    with pytest.raises(ConfigError, match="fits no layer"):
        merge_adapter(tmp_path / "adapter", tmp_path / "merged", base_model=str(other))
    with pytest.raises(ConfigError, match=r"base_model='./nowhere'"):
        merge_adapter(tmp_path / "adapter", tmp_path / "merged", base_model="./nowhere")
    assert not (tmp_path / "merged").exists()
    (tmp_path / "merged").mkdir()
    with pytest.raises(AlreadyExistsError):
        merge_adapter(tmp_path / "adapter", tmp_path / "merged", base_model=str(model_dir))
