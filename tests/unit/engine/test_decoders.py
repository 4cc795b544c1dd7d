"""Both decoders compute what the Hugging Face model computes, over cached keys and values."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.engine import sampling_reference as ref
from tests.unit.engine.random_models import make_random_model, save_random_model
from tests.unit.engine.training_reference import add_trained_adapter
from tinsmith.core.errors import ConfigError
from tinsmith.engine.base_model import BaseModel, load_base_model, wrap_model
from tinsmith.engine.decoder import DecodeBatch, Decoder, SnapshotRows
from tinsmith.engine.decoder_choice import make_decoder, reproduces
from tinsmith.engine.engine import Engine
from tinsmith.engine.hf_decoder import HfDecoder
from tinsmith.engine.jobs import EngineLimits
from tinsmith.engine.kv_cache import PromptBlock, SlotCache
from tinsmith.engine.lean_decoder import LeanDecoder

LEAN = ["qwen3", "llama", "qwen2", "mistral"]
OTHERS = ["gpt_neox", "gpt2", "phi3", "mixed_windows"]
LENGTH, SPLIT = 21, 9


def decode_logits(decoder: Decoder, tokens_BT: Tensor, rows: list[SnapshotRows]) -> Tensor:
    """Logits [B, T, V]: a prefill in two chunks, then single steps; rows may differ in owner."""
    count = tokens_BT.shape[0]
    with torch.inference_mode():
        routing = decoder.route(rows, count)
        block = PromptBlock(decoder.shape.allocate(count, SPLIT))
        hidden = [
            decoder.prefill(tokens_BT[:, :4], block, 0, routing),
            decoder.prefill(tokens_BT[:, 4:SPLIT], block, 4, routing),
        ]
        cache = SlotCache(decoder.shape)
        cache.reserve(count, LENGTH, max_slots=count)
        for row in range(count):
            cache.write(row, block.row(row, SPLIT))
        for place in range(SPLIT, LENGTH):
            cache.mask[:count, place] = 0
            places = torch.full((count,), place)
            batch = DecodeBatch(tokens_BT[:, place], places, places, place + 1, [])
            hidden.append(decoder.decode(batch, cache, routing)[:, None])
        parts = [
            decoder.logits(hidden_BTH[:, place].contiguous(), routing)
            for hidden_BTH in hidden
            for place in range(hidden_BTH.shape[1])
        ]
    return torch.stack(parts, 1)


def check(
    tmp_path: Path, arch: str, kind: Any, *, dtype: torch.dtype, ranks: list[int], tolerance: float
) -> None:
    """One batch with rows of the base model and of adapters against PEFT, row by row."""
    directory = save_random_model(tmp_path / arch, arch)
    engine = Engine(str(directory), dtype=dtype)
    snapshots = []
    for index, rank in enumerate(ranks):
        add_trained_adapter(engine, str(index), rank=rank, seed=index)
        snapshots.append(engine.save_sampler_weights(str(index), tmp_path / str(index)))
    # Base model first, then each adapter with one row more than the one before it.
    rows, start = [SnapshotRows(0, 2, None)], 2
    for index, snapshot in enumerate(snapshots):
        rows.append(SnapshotRows(start, start + index + 1, engine.snapshots[snapshot]))
        start += index + 1
    tokens = torch.tensor(ref.prompts([LENGTH] * start))
    decoder = kind.build(engine.base, EngineLimits())
    assert decoder is not None
    found = decode_logits(decoder, tokens, rows)
    for index, entry in enumerate(rows):
        adapter = None if index == 0 else tmp_path / str(index - 1)
        model = ref.peft_model(directory, adapter, dtype)
        use_exact_norms(model)
        with torch.no_grad():
            expected = model(input_ids=tokens[entry.start : entry.stop], use_cache=False).logits
        error = (found[entry.start : entry.stop] - expected).abs().max().item()
        assert error < tolerance, (arch, index, error)


def use_exact_norms(model: nn.Module) -> None:
    """transformers computes RMS norms in float32 whatever the model's dtype; torch does not."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if "RMSNorm" in type(child).__name__:
                weight = child.weight
                exact = nn.RMSNorm(weight.shape[0], child.variance_epsilon, dtype=weight.dtype)
                exact.weight = weight
                setattr(module, name, exact)


@pytest.mark.parametrize("arch", LEAN)
def test_lean_logits_equal_peft_in_float64(tmp_path: Path, arch: str) -> None:
    check(tmp_path, arch, LeanDecoder, dtype=torch.float64, ranks=[4, 2], tolerance=1e-9)


@pytest.mark.parametrize("arch", LEAN)
def test_lean_logits_equal_peft_in_float32(tmp_path: Path, arch: str) -> None:
    check(tmp_path, arch, LeanDecoder, dtype=torch.float32, ranks=[3], tolerance=1e-4)


@pytest.mark.parametrize("arch", ["qwen3", *OTHERS])
def test_hugging_face_path_equals_peft(tmp_path: Path, arch: str) -> None:
    check(tmp_path, arch, HfDecoder, dtype=torch.float32, ranks=[4, 2], tolerance=1e-4)


@pytest.mark.parametrize("arch", LEAN)
def test_llama_shaped_families_are_served_by_the_lean_decoder(arch: str) -> None:
    base = wrap_model(make_random_model(arch), name=arch)
    assert isinstance(make_decoder(base, EngineLimits()), LeanDecoder)


@pytest.mark.parametrize("arch", OTHERS)
def test_other_families_are_served_through_the_model(arch: str) -> None:
    base = wrap_model(make_random_model(arch), name=arch)
    assert isinstance(make_decoder(base, EngineLimits()), HfDecoder)


def test_rope_scaling_of_the_config_is_honoured() -> None:
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    base = wrap_model(make_random_model("llama", rope_parameters=scaling), name="llama")
    assert isinstance(make_decoder(base, EngineLimits()), LeanDecoder)


def test_fused_weights_take_no_memory_of_their_own(model_dir: Path) -> None:
    base = load_base_model(str(model_dir))
    before = base.model.state_dict()
    before = {key: value.clone() for key, value in before.items()}
    decoder = LeanDecoder.build(base, EngineLimits())
    assert decoder is not None
    site = decoder._layers[0].qkv
    key = base.layers["model.layers.0.self_attn.k_proj"].weight
    assert key.untyped_storage().data_ptr() == site.weight.untyped_storage().data_ptr()
    for name, value in base.model.state_dict().items():
        assert torch.equal(value, before[name])


class _Lossy(LeanDecoder):
    """A decoder that is a little wrong."""

    def logits(self, hidden_NH: Tensor, routing: Any) -> Tensor:
        return super().logits(hidden_NH, routing) * 1.01


def test_a_decoder_that_is_a_little_wrong_is_noticed(model_dir: Path) -> None:
    base = load_base_model(str(model_dir))
    exact, lossy = LeanDecoder.build(base, EngineLimits()), _Lossy.build(base, EngineLimits())
    assert exact is not None
    assert lossy is not None
    assert reproduces(base, exact)
    assert not reproduces(base, lossy)


def test_a_model_that_no_decoder_reproduces_is_refused(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_base_model(str(model_dir))

    def no_decoder(base: BaseModel, limits: EngineLimits) -> None:
        del base, limits

    monkeypatch.setattr(LeanDecoder, "build", no_decoder)
    monkeypatch.setattr(HfDecoder, "build", no_decoder)
    with pytest.raises(ConfigError, match="cannot be sampled") as caught:
        make_decoder(base, EngineLimits())
    assert caught.value.field == "base_model"


def test_bfloat16_base_is_decoded(tmp_path: Path) -> None:
    directory = save_random_model(tmp_path / "m", "qwen3")
    base = load_base_model(str(directory), dtype=torch.bfloat16)
    assert isinstance(make_decoder(base, EngineLimits()), LeanDecoder)
