"""The model table: complete rows, near matches, and the learning rates of the published formula."""

import json
from dataclasses import fields

import pytest

from tinsmith.core.errors import UnknownNameError, UserError
from tinsmith.core.paths import bundled_model_dir
from tinsmith.renderers import list_renderers
from tinsmith.renderers.model_info import (
    ModelInfo,
    get_model_info,
    has_fitted_learning_rate,
    list_models,
    lora_defaults,
    recommended_learning_rate,
)

INFOS = [get_model_info(name) for name in list_models()]


@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_every_row_is_complete_and_has_the_types_it_says(info: ModelInfo) -> None:
    numbers = (info.size_b, info.active_b, info.context_length)
    assert all(isinstance(value, int | float) and value > 0 for value in numbers)
    assert 0 < info.active_b <= info.size_b
    assert isinstance(info.context_length, int)
    assert info.hidden_size is None or isinstance(info.hidden_size, int)
    assert info.name.startswith(f"{info.organization}/")
    assert info.renderers
    assert len(set(info.renderers)) == len(info.renderers)
    for field in fields(info):
        if field.name.startswith(("is_", "has_")):
            assert isinstance(getattr(info, field.name), bool)


def test_a_base_model_is_recommended_the_plain_format_and_a_chat_model_its_own() -> None:
    for info in INFOS:
        assert (info.renderers == ("role_colon",)) is not info.is_chat, info.name


@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_every_recommended_renderer_exists(info: ModelInfo) -> None:
    assert set(info.renderers) <= set(list_renderers())


def test_attributes_of_some_models() -> None:
    moe = get_model_info("Qwen/Qwen3-30B-A3B-Instruct-2507")
    assert (moe.organization, moe.family, moe.size_b, moe.active_b) == ("Qwen", "qwen", 30.5, 3.3)
    assert moe.is_mixture_of_experts
    assert get_model_info("Qwen/Qwen3-VL-4B-Instruct").has_vision
    assert not get_model_info("meta-llama/Llama-3.2-1B").is_chat
    assert not get_model_info("meta-llama/Llama-3.2-1B").is_mixture_of_experts


def test_the_bundled_model_is_as_its_own_configuration_says() -> None:
    config = json.loads((bundled_model_dir() / "config.json").read_text())
    info = get_model_info("tinsmith/tiny")
    assert info.hidden_size == config["hidden_size"]
    assert info.context_length == config["max_position_embeddings"]


@pytest.mark.parametrize(
    ("name", "near"),
    [("Qwen/Qwen3-8b", "Qwen/Qwen3-8B"), ("meta-llama/Llama3.1-8B", "meta-llama/Llama-3.1-8B")],
)
def test_an_unknown_name_gets_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UnknownNameError, match=f"did you mean '{near}'"):
        get_model_info(name)


# 5e-5 * 10 * (2000 / hidden) ** exponent, worked out by hand from each config.json.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("meta-llama/Llama-3.1-8B", 2.85642e-4),  # hidden 4096, exponent 0.781
        ("meta-llama/Llama-3.2-1B", 4.90824e-4),  # hidden 2048
        ("meta-llama/Llama-3.3-70B-Instruct", 1.66233e-4),  # hidden 8192
        ("Qwen/Qwen3-8B", 4.72979e-4),  # hidden 4096, exponent 0.0775
        ("moonshotai/Kimi-K2-Instruct", 4.52904e-4),  # hidden 7168, qwen's exponent
        ("openai/gpt-oss-20b", 4.16667e-4),  # hidden 2880, exponent 0.5: 5e-4 * sqrt(1 / 1.44)
    ],
)
def test_the_recommended_learning_rate_is_the_formulas(name: str, expected: float) -> None:
    assert recommended_learning_rate(name) == pytest.approx(expected, rel=1e-5)
    assert recommended_learning_rate(name, is_lora=False) == pytest.approx(expected / 10, rel=1e-5)


def test_a_guessed_exponent_can_be_told_from_a_fitted_one() -> None:
    assert has_fitted_learning_rate("Qwen/Qwen3-8B")
    assert not has_fitted_learning_rate("openai/gpt-oss-20b")


def test_no_learning_rate_is_made_up_for_a_model_of_unknown_width() -> None:
    with pytest.raises(UserError, match="hidden_size is not in the table"):
        recommended_learning_rate("Qwen/Qwen3.5-4B")


def test_adapters_start_at_rank_32_everywhere() -> None:
    assert lora_defaults() == (32, True, True, True)
