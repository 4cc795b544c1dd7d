"""`tinsmith renderers`: the list, a conversation's tokens, and the proof against a template."""

import json
import shutil
from pathlib import Path

import pytest

from tests.assets import asset
from tests.unit.renderers.families import GOLDEN
from tinsmith.cli import main
from tinsmith.renderers import list_renderers


@pytest.fixture
def qwen_dir(tmp_path: Path) -> Path:
    """A model folder: a stand-in vocabulary with Qwen3's own template."""
    folder = tmp_path / "model"
    shutil.copytree(GOLDEN / "tokenizers" / "qwen2-qwen3", folder)
    shutil.copy(asset("chat_templates", "Qwen__Qwen3-8B.jinja"), folder / "chat_template.jinja")
    return folder


def test_the_list_has_every_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["renderers", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["renderers"]
    assert [row["name"] for row in listed] == list_renderers()
    assert all(row["about"] for row in listed)
    assert main(["renderers", "list"]) == 0
    assert "qwen3_coder" in capsys.readouterr().out


def test_an_exact_renderer_is_proved(qwen_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["renderers", "verify", str(qwen_dir)]) == 0
    assert capsys.readouterr().out.startswith(f"qwen3 on {qwen_dir}: 28 equal; ")
    off = ["--renderer", "qwen3_disable_thinking", "--template-option", "enable_thinking=false"]
    assert main(["renderers", "verify", str(qwen_dir), *off, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["renderer"], result["is_proved"]) == ("qwen3_disable_thinking", True)
    assert result["counts"] == {"equal": 28}


def test_one_changed_character_fails_and_both_texts_are_shown(
    qwen_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = qwen_dir / "chat_template.jinja"
    path.write_text(path.read_text("utf-8").replace("call one or more", "call one of more"))
    assert main(["renderers", "verify", str(qwen_dir), "--renderer", "qwen3"]) == 1
    shown = capsys.readouterr().out
    assert "different  tools declared (prompt)" in shown
    assert "renderer: ..." in shown
    assert ">>>r more functions" in shown
    assert ">>>f more functions" in shown
    assert "8 different" in shown


def test_a_model_without_template_has_nothing_to_verify(
    qwen_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (qwen_dir / "chat_template.jinja").unlink()
    assert main(["renderers", "verify", str(qwen_dir)]) == 2
    assert "no chat template to compare with" in capsys.readouterr().err


def test_tokens_are_shown_with_their_boundaries_and_weights(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = tmp_path / "chat.jsonl"
    chat = {
        "messages": [
            {"role": "user", "content": "Hi 🥳"},
            {"role": "assistant", "content": "Yo"},
        ]
    }
    data.write_text("{}\n" + json.dumps(chat) + "\n", encoding="utf-8")
    arguments = ["renderers", "show", "tinsmith/tiny", "--data", str(data), "--line", "2"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "🥳" in shown
    assert "|<|im_start|>|assistant|⏎\n«" in shown
    assert "<|im_end|>»" in shown
    assert "trained (between « and »)" in shown
    assert main([*arguments, "--train-on-what", "all_tokens", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["tokens"]
    assert {row["weight"] for row in rows} == {1.0}
    assert "".join(row["text"] for row in rows).startswith("<|im_start|>user\nHi 🥳<|im_end|>")


@pytest.mark.parametrize(
    ("content", "arguments", "problem"),
    [
        ("{}\n", [], "messages is missing"),
        ("{\n", [], "not JSON"),
        ("{}\n", ["--line", "3"], "has 1 lines"),
        ('{"messages": []}', ["--train-on-what", "answers"], "train_on_what"),
        ('{"messages": []}', [], "messages is empty"),
    ],
)
def test_what_cannot_be_shown_is_named(
    content: str,
    arguments: list[str],
    problem: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = tmp_path / "chat.jsonl"
    data.write_text(content)
    assert main(["renderers", "show", "tinsmith/tiny", "--data", str(data), *arguments]) == 1
    assert problem in capsys.readouterr().err


def test_options_reach_the_renderer(capsys: pytest.CaptureFixture[str]) -> None:
    model = str(GOLDEN / "tokenizers" / "llama3")
    dated = ["--renderer", "llama3_1", "--option", "date=1 May 2031"]
    assert main(["renderers", "show", model, *dated, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["tokens"]
    assert "Today Date: 1 May 2031" in "".join(row["text"] for row in rows)
    assert main(["renderers", "show", model, *dated[:2], "--option", "date"]) == 2
    assert main(["renderers", "show", model, *dated[:2], "--option", "dat=1"]) == 1
    assert "did you mean 'date'?" in capsys.readouterr().err


def test_a_line_is_read_as_training_reads_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = tmp_path / "chat.jsonl"
    answer = '{"role": "assistant", "content": "Yo"}'
    data.write_bytes(
        b'\xef\xbb\xbf{"messages": [%s], "tools": "[]"}\n' % answer.encode()
        + '{"messages": [{"role": "user", "content": "a\u2028b"}, {}]}\n'.encode()
        + b'{"messages": [{"role": "user", "content": 5}]}\n\xff\n'
    )
    show = ["renderers", "show", "tinsmith/tiny", "--data", str(data), "--line"]
    assert main([*show, "1"]) == 0
    for line, problem in (
        ("2", "messages[1].role is missing"),
        ("3", "messages[0].content is a JSON number"),
        ("4", "byte 0xff is not UTF-8"),
    ):
        capsys.readouterr()
        assert main([*show, line]) == 1
        assert f"{data}:{line}: {problem}" in capsys.readouterr().err
    data.with_suffix(".json").write_text(f"[{answer}]")
    assert main([*show[:4], str(data.with_suffix(".json"))]) == 0


def test_a_template_that_declares_no_tools_proves_the_rest(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(GOLDEN / "tokenizers" / "deepseek-v3", folder)
    template = asset("chat_templates", "deepseek-ai__DeepSeek-V3.1.jinja")
    shutil.copy(template, folder / "chat_template.jinja")
    assert main(["renderers", "verify", str(folder)]) == 0
    assert capsys.readouterr().out.startswith(f"deepseekv3 on {folder}: 28 equal; ")
