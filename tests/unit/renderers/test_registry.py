"""Renderers by name, the one that fits a model, and tokenizers loaded once."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from tests.assets import asset
from tests.unit.renderers.families import FAMILIES, Family, standin, template_of
from tinsmith.core.errors import ConfigError, UnknownNameError, UserError
from tinsmith.renderers import (
    ChatMLRenderer,
    RendererError,
    RoleColonRenderer,
    get_renderer,
    get_tokenizer,
    get_tokenizer_config,
    list_renderers,
    recommended_renderer,
    register_renderer,
    registry,
    unregister_renderer,
)
from tinsmith.renderers.typescript_tools import declare_typescript


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
            messages, **{"chat_template": self.chat_template, **options}
        )


def template(name: str) -> str:
    return asset("chat_templates", name).read_text("utf-8")


def test_the_template_decides_which_renderer_fits(qwen_tokenizer: Any) -> None:
    instruct = Templated(qwen_tokenizer, template("Qwen__Qwen3-4B-Instruct-2507.jinja"))
    assert recommended_renderer("Qwen/Qwen3-4B-Instruct-2507", instruct) == "qwen3_instruct"
    assert recommended_renderer("some/base-model", Templated(qwen_tokenizer, None)) == "role_colon"
    assert recommended_renderer("tinsmith/tiny", None) == "chatml"


def test_a_template_that_is_only_similar_is_not_taken_for_chatml(qwen_tokenizer: Any) -> None:
    similar = Templated(qwen_tokenizer, template("Qwen__Qwen2.5-7B-Instruct.jinja"))
    assert recommended_renderer("some/model", similar) == "chat_template"


OWN = [f for f in FAMILIES if f.template and not f.renderer_options]


@pytest.mark.parametrize("family", OWN, ids=str)
def test_a_familys_template_is_recognized(family: Family) -> None:
    templated = Templated(standin(family.tokenizer), template_of(family))
    name = recommended_renderer("some/model", templated)
    assert name.split("_")[0] == family.renderer.split("_")[0]


def test_kimi_k25_is_told_by_how_its_tokenizer_declares_tools() -> None:
    class WithItsOwnCode(Templated):
        def apply_chat_template(self, messages: Any, *, tools: Any = None, **options: Any) -> Any:
            declared = declare_typescript(tools) if tools else None
            return super().apply_chat_template(
                messages, tools=tools, tools_ts_str=declared, **options
            )

    text = template("moonshotai__Kimi-K2.5.jinja")
    own = WithItsOwnCode(standin("kimi-k2"), text)
    assert recommended_renderer("moonshotai/Kimi-K2.5", own) == "kimi_k25"
    plain = Templated(standin("kimi-k2"), text)
    assert recommended_renderer("moonshotai/Kimi-K2.5", plain) == "chat_template"


def test_a_template_that_cannot_be_driven_is_refused(qwen_tokenizer: Any) -> None:
    endless = Templated(qwen_tokenizer, "{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(ConfigError, match="no renderer here writes its chat template"):
        recommended_renderer("some/model", endless)


class Point:
    """An entry point of an installed package."""

    def __init__(self, name: str, target: Any) -> None:
        self.name, self.value, self._target = name, "their.module:Theirs", target
        self.dist = type("Dist", (), {"name": "their-package"})()

    def load(self) -> Any:
        if isinstance(self._target, Exception):
            raise self._target
        return self._target


def test_an_installed_package_may_bring_a_renderer(
    tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [
        Point("theirs", RoleColonRenderer),
        Point("broken", ImportError("no module named x")),
        Point("chatml", RoleColonRenderer),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    assert "theirs" in list_renderers()
    assert isinstance(get_renderer("theirs", tiny_tokenizer), RoleColonRenderer)
    with pytest.raises(ConfigError, match="their-package declares it and it cannot be loaded"):
        get_renderer("broken", tiny_tokenizer)
    with pytest.raises(ConfigError, match="their-package declares a renderer of this name"):
        get_renderer("chatml", tiny_tokenizer)


def test_an_option_that_a_renderer_lacks_is_refused(tiny_tokenizer: Any) -> None:
    with pytest.raises(UnknownNameError, match="option of chatml='date': unknown; known: special"):
        get_renderer("chatml", tiny_tokenizer, date="1 Jan 2025")


@pytest.mark.parametrize(
    ("name", "vocabulary", "option", "value"),
    [
        ("qwen3", "qwen2-qwen3", "mode", "banana"),
        ("qwen3", "qwen2-qwen3", "keep_thinking", "yes"),
        ("chatml", "qwen2-qwen3", "special_text", "off"),
        ("gpt_oss_medium_reasoning", "o200k-harmony", "reasoning_effort", "huge"),
        ("qwen3_5", "qwen3_5", "effort", "huge"),
        ("llama3_1", "llama3", "date", 5),
    ],
)
def test_a_value_that_an_option_does_not_take_is_refused(
    name: str, vocabulary: str, option: str, value: Any
) -> None:
    with pytest.raises(ConfigError, match=f"option of {name} {option}={value!r}: input should be"):
        get_renderer(name, standin(vocabulary), **{option: value})


def test_every_option_takes_its_default() -> None:
    for family in {family.renderer: family for family in FAMILIES}.values():
        made = family.make(standin(family.tokenizer))
        options = {
            option: parameter.default
            for option, parameter in signature(type(made)).parameters.items()
            if option not in ("tokenizer", "name")
        }
        get_renderer(family.renderer, made.tokenizer, **options)


def test_tokenizers_of_other_revisions_are_others(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    asked: list[dict[str, Any]] = []
    original = transformers.AutoTokenizer.from_pretrained

    def load(name: str, **options: Any) -> Any:
        asked.append(options)
        return original(name)

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", load)
    pinned = get_tokenizer(str(tiny_dir), revision="abc123")
    assert get_tokenizer(str(tiny_dir), revision="abc123") is pinned
    assert get_tokenizer(str(tiny_dir), revision="def456") is not pinned
    assert asked == [
        {"revision": "abc123", "trust_remote_code": False},
        {"revision": "def456", "trust_remote_code": False},
    ]


def test_a_tokenizers_config_holds_its_template(tmp_path: Path, tiny_dir: Path) -> None:
    assert "<|im_start|>" in get_tokenizer_config(str(tiny_dir))["chat_template"]
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    assert get_tokenizer_config(str(tmp_path)) == {"eos_token": "</s>"}
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert get_tokenizer_config(str(tmp_path))["chat_template"] == "{{ messages }}"
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        get_tokenizer_config(str(tmp_path))
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match=r"no tokenizer_config\.json"):
        get_tokenizer_config(str(tmp_path))


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


def test_a_model_that_is_not_there_gets_the_nearest_known_name() -> None:
    with pytest.raises(UserError, match="did you mean 'Qwen/Qwen3-8B'"):
        get_tokenizer("Qwen/Qwen3-8X")
