"""The size report counts what the house rule means, and fails beyond the hard limits."""

import json
from pathlib import Path

import pytest

from tools.size_report import main, measure


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def values(path: Path, rule: str) -> list[int]:
    return [found.value for found in measure(path) if found.rule.name == rule]


def test_a_function_s_docstring_is_not_counted(tmp_path: Path) -> None:
    path = write(
        tmp_path, "a.py", 'def f():\n    """Say.\n\n    More.\n    """\n    x = 1\n    return x\n'
    )
    assert values(path, "function body, lines") == [2]


def test_self_is_no_parameter_and_keyword_only_ones_are_not_positional(tmp_path: Path) -> None:
    path = write(tmp_path, "a.py", "class A:\n    def f(self, a, b, *, c): return c\n")
    assert values(path, "parameters, positional") == [2]
    assert values(path, "parameters, total") == [3]


def test_the_flags_of_a_command_are_not_counted(tmp_path: Path) -> None:
    path = write(tmp_path, "a.py", "@click.command()\ndef f(a, b, c, d, e, g, h, i, j): ...\n")
    assert values(path, "parameters, total") == []


def test_a_signature_that_mirrors_the_sdk_s_is_not_counted(tmp_path: Path) -> None:
    line = "def f(  # noqa: PLR0913 - the SDK's signature\n    a, b, c, d, e, g, h, i, j\n): ...\n"
    assert values(write(tmp_path, "a.py", line), "parameters, total") == []


@pytest.mark.parametrize(
    "text",
    [
        "x = 1\n" * 801,
        "def f():\n" + "    x = 1\n" * 101,
        "def f(a, b, *, c, d, e, g, h, i, j): ...\n",
    ],
    ids=["file", "function", "parameters"],
)
def test_what_exceeds_a_hard_limit_fails_and_is_named(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "long.py", text)
    assert main([str(tmp_path)]) == 1
    assert "long.py" in capsys.readouterr().err


def test_generated_modules_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, "wire_pb2.py", "x = 1\n" * 2000)
    assert main([str(tmp_path)]) == 0


def test_the_report_is_available_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "a.py", "x = 1\n")
    assert main(["--json", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)[0]["longest"] == 1
