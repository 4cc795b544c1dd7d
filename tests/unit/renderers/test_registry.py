"""Renderers by name, the one that fits a model, and tokenizers loaded once."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.assets import asset
from tinsmith.core.errors import ConfigError, UnknownNameError, UserError
from tinsmith.renderers import (
    ChatMLRenderer,
    RendererError,
    RoleColonRenderer,
    get_renderer,
    get_tokenizer,
    list_renderers,
    recommended_renderer,
    register_renderer,
    unregister_renderer,
)


def test_built_in_renderers_are_found_by_name(tiny_tokenizer: Any) -> None:
    assert isinstance(get_renderer("chatml", tiny_tokenizer), ChatMLRenderer)
    assert isinstance(get_renderer("role_colon", tiny_tokenizer), RoleColonRenderer)
    assert {"chatml", "role_colon"} <= set(list_renderers())


def test_an_unknown_name_offers_the_nearest(tiny_tokenizer: Any) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'chatml'") as caught:
        get_renderer("chat_ml", tiny_tokenizer)
    assert caught.value.field == "renderer"


def test_a_registered_renderer_is_used_and_forgotten(tiny_tokenizer: Any) -> None:
    register_renderer("mine", RoleColonRenderer)
    try:
        assert isinstance(get_renderer("mine", tiny_tokenizer), RoleColonRenderer)
    finally:
        unregister_renderer("mine")
    with pytest.raises(UnknownNameError):
        get_renderer("mine", tiny_tokenizer)


class Templated:
    """A tokenizer with another chat template."""

    def __init__(self, tokenizer: Any, template: str | None) -> None:
        self._tokenizer = tokenizer
        self.chat_template = template

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def apply_chat_template(self, messages: Any, **options: Any) -> Any:
        return self._tokenizer.apply_chat_template(
            messages, chat_template=self.chat_template, **options
        )


def template(name: str) -> str:
    return asset("chat_templates", name).read_text("utf-8")


def test_the_template_decides_which_renderer_fits(qwen_tokenizer: Any) -> None:
    instruct = Templated(qwen_tokenizer, template("Qwen__Qwen3-4B-Instruct-2507.jinja"))
    assert recommended_renderer("Qwen/Qwen3-4B-Instruct-2507", instruct) == "qwen3_instruct"
    assert recommended_renderer("some/base-model", Templated(qwen_tokenizer, None)) == "role_colon"
    assert recommended_renderer("tinsmith/tiny", None) == "chatml"


@pytest.mark.parametrize("name", ["Qwen__Qwen2.5-7B-Instruct.jinja", "microsoft__phi-4.jinja"])
def test_a_template_that_is_only_similar_is_not_taken_for_chatml(
    qwen_tokenizer: Any, name: str
) -> None:
    with pytest.raises(ConfigError, match="no renderer here writes its chat template"):
        recommended_renderer("some/model", Templated(qwen_tokenizer, template(name)))


def test_a_tokenizer_is_loaded_once_whatever_asks_for_it(tiny_dir: Path) -> None:
    name = str(tiny_dir)
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(get_tokenizer, [name] * 16))
    assert len({id(tokenizer) for tokenizer in loaded}) == 1


@pytest.mark.parametrize("name", ["/no/such/model", "./nowhere", "a/b/c"])
def test_a_wrong_path_is_one_line_and_asks_no_hub(name: str) -> None:
    with pytest.raises(UserError) as caught:
        get_tokenizer(name)
    assert str(caught.value) == (
        f"model='{name}': does not exist; a model directory is needed; "
        "check the path, or use tinsmith/tiny"
    )


def test_a_file_is_no_model(tmp_path: Path) -> None:
    file = tmp_path / "model.txt"
    file.write_text("x")
    with pytest.raises(UserError, match="is a file; a model directory is needed"):
        get_tokenizer(str(file))


def test_a_directory_without_tokenizer_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tokenizer could be loaded") as caught:
        get_tokenizer(str(tmp_path))
    assert "\n" not in str(caught.value)
    assert "tokenizer.json" in str(caught.value.hint)


def test_renderer_errors_pickle_with_their_place() -> None:
    error = pickle.loads(pickle.dumps(RendererError("m", hint="h", message_index=3)))
    assert (error.message, error.hint, error.message_index) == ("m", "h", 3)


def test_a_misspelt_bundled_model_is_not_looked_for_on_the_hub() -> None:
    with pytest.raises(UserError, match="model='tinsmith/tny': unknown") as caught:
        get_tokenizer("tinsmith/tny")
    assert caught.value.hint == "did you mean 'tinsmith/tiny'?"
