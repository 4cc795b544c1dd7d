"""Configuration models as flags: precedence, types, and mistakes that are one line."""

from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from tinsmith.cli.config_flags import parse_config, read_toml_files
from tinsmith.core.errors import ConfigError


class Which(StrEnum):
    ALL_MESSAGES = "all_messages"
    LAST_MESSAGE = "last_message"


class LoraSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    rank: int = Field(default=32, ge=1, le=256)
    """Rank of the adapter."""
    train_mlp: bool = True
    """Adapt the feed-forward projections."""


class RunConfig(BaseModel):
    """A run, for these tests."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    data: Path
    """JSONL file of conversations."""
    which: Which = Which.ALL_MESSAGES
    """Messages that are trained."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate."""
    max_steps: int | None = None
    """Stop after so many steps."""
    schedule: Literal["linear", "cosine"] = "linear"
    """Decay of the learning rate."""
    lora: LoraSettings = LoraSettings()
    """The adapter."""


def parse(*words: str, settings: dict[str, Any] | None = None) -> RunConfig:
    return parse_config(
        RunConfig,
        words,
        settings=settings or {},
        positional="data",
        prog="tinsmith train sft",
        description="Trains.",
    )


def toml(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_flags_go_over_files_and_files_over_defaults(tmp_path: Path) -> None:
    first = toml(tmp_path, "a.toml", "learning_rate = 0.5\nmax_steps = 9\n[lora]\nrank = 7\n")
    second = toml(tmp_path, "b.toml", "max_steps = 8\n[lora]\ntrain_mlp = false\n")
    settings = read_toml_files([first, second], RunConfig)
    config = parse("chats.jsonl", "--learning-rate", "0.25", settings=settings)
    assert config == RunConfig(
        data=Path("chats.jsonl"),
        learning_rate=0.25,
        max_steps=8,
        lora=LoraSettings(rank=7, train_mlp=False),
    )


def test_a_flag_that_repeats_the_default_still_goes_over_a_file() -> None:
    assert parse("x", "--learning-rate", "1e-3", settings={"learning_rate": 0.5}) == parse("x")


def test_a_file_may_give_what_would_be_required() -> None:
    assert parse(settings={"data": "chats.jsonl"}).data == Path("chats.jsonl")
    assert parse("other.jsonl", settings={"data": "chats.jsonl"}).data == Path("other.jsonl")


def test_every_kind_of_value_can_be_a_flag() -> None:
    words = "x --which last_message --max-steps 3 --schedule cosine --lora.no-train-mlp"
    config = parse(*words.split())
    assert (config.which, config.max_steps, config.schedule) == (Which.LAST_MESSAGE, 3, "cosine")
    assert not config.lora.train_mlp


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (
            "x --learnin-rate 3",
            "unrecognized options: --learnin-rate, 3",
            "did you mean --learning-rate?",
        ),
        (
            "x --lora.rank 0",
            "lora.rank=0: should be greater than or equal to 1",
            "change --lora.rank",
        ),
        (
            "x --learning-rate 0",
            "learning_rate=0.0: should be greater than 0",
            "change --learning-rate",
        ),
        (
            "x --learning-rate fast",
            "error parsing --learning-rate: could not convert string to float: 'fast'",
            "see tinsmith train sft --help",
        ),
        (
            "x --schedule square",
            (
                "invalid choice 'square' for argument '--schedule'. "
                "Expected one of ('linear', 'cosine')."
            ),
            "see tinsmith train sft --help",
        ),
        ("", "missing: DATA", "see tinsmith train sft --help"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_a_hint(
    words: str, message: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(*words.split())
    assert (caught.value.message, caught.value.hint) == (message, hint)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learnin_rate = 1\n", "setting='learnin_rate': unknown"),
        ("[lora]\nrnk = 1\n", "setting='lora.rnk': unknown"),
        ("learning_rate = [\n", "not TOML"),
    ],
)
def test_a_mistake_in_a_file_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    path = toml(tmp_path, "bad.toml", text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_toml_files([path], RunConfig)
    assert str(path) in caught.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_toml_files([tmp_path / "none.toml"], RunConfig)


def test_a_file_s_value_of_the_wrong_type_names_the_setting() -> None:
    with pytest.raises(ConfigError, match=r"lora\.rank=many: should be a valid integer"):
        parse("x", settings={"lora": {"rank": "many"}})


def test_help_shows_the_descriptions_and_exits(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "Peak learning rate." in shown
    assert "DATA" in shown
    assert "--lora.rank" in shown
