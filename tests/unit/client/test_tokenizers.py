import shutil
from pathlib import Path

import pytest

from tinsmith.client.tokenizers import load_tokenizer
from tinsmith.core.errors import UserError
from tinsmith.renderers import tokenizers


def test_the_bundled_models_tokenizer_is_found_by_name(tiny_dir: Path) -> None:
    tokenizer = load_tokenizer("tinsmith/tiny")
    assert tokenizer.decode(tokenizer.encode("a b")) == "a b"


def test_a_local_directory_is_taken_as_it_is(tiny_dir: Path, tmp_path: Path) -> None:
    # Two slashes, a colon: names that other clients cut.
    folder = tmp_path / "my:model"
    shutil.copytree(tiny_dir, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    assert load_tokenizer(str(folder)).decode([1]) == load_tokenizer("tinsmith/tiny").decode([1])


@pytest.mark.parametrize(
    ("name", "asked"),
    [("org/model:variant", "org/model"), ("org/model", "org/model"), ("a/b/c", "a/b/c")],
)
def test_a_variants_tokenizer_is_its_base_models(
    name: str, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(tokenizers, "get_tokenizer", seen.append)
    load_tokenizer(name)
    assert seen == [asked]


def test_a_service_that_names_no_tokenizer_is_reported() -> None:
    with pytest.raises(UserError, match="which tokenizer"):
        load_tokenizer("")
