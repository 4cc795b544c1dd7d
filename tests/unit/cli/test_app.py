"""The boundary of the command line: help, exit codes, one-line errors."""

from collections.abc import Callable

import click
import pytest

from tinsmith.cli import main
from tinsmith.cli.app import COMMANDS, explain, tinsmith
from tinsmith.cli.train import COMMANDS as TRAIN_COMMANDS
from tinsmith.core.errors import ConfigError, ServerError, UserError


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)


def test_no_words_at_all_print_help_and_count_as_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "Usage: tinsmith" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_table_of_commands_says_what_each_command_says(name: str) -> None:
    context = click.Context(tinsmith)
    command = tinsmith.get_command(context, name)
    assert command is not None
    assert command.get_short_help_str(limit=200) == COMMANDS[name].summary


def test_the_table_of_trainings_names_real_commands() -> None:
    for words in TRAIN_COMMANDS:
        assert main(["train", words, "--help"]) == 0


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"train"}))
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"Usage: tinsmith {name}" in capsys.readouterr().out


def test_a_misspelt_command_offers_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["smaple"]) == 2
    assert capsys.readouterr().err == (
        "error: no command 'smaple'; did you mean 'sample'?\nhint: see tinsmith --help\n"
    )


def test_an_unknown_flag_is_a_usage_error_without_a_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["version", "--jsn"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: No such option: --jsn") or "--jsn" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("lora_rank=0: must be 1..256"), 2),
        (UserError("no such model"), 1),
        (ServerError("the engine died"), 1),
        (OSError(28, "No space left on device"), 1),
        (RuntimeError("surprise"), 1),
    ],
)
def test_errors_become_exit_codes(error: Exception, code: int) -> None:
    message, _, found = explain(error)
    assert found == code
    assert "\n" not in message


def test_an_error_prints_message_and_hint_and_a_traceback_with_debug(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINSMITH_LOG", "lowd")
    assert main(["version"]) == 1
    plain = capsys.readouterr().err
    assert plain.startswith("error: log level='lowd': unknown")
    assert "Traceback" not in plain
    assert main(["version", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_version_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    import json

    import tinsmith as package

    assert main(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tinsmith"] == package.__version__


def test_an_interrupt_has_its_own_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tinsmith, "main", interrupted)
    assert main(["version"]) == 130


def test_help_texts_are_as_people_last_read_them(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    golden: Callable[[str, object], None],
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = {}
    for words in ([], *([name] for name in COMMANDS)):
        main([*words, "--help"])
        shown[" ".join(["tinsmith", *words])] = capsys.readouterr().out.splitlines()
    golden("cli_help.json", shown)
