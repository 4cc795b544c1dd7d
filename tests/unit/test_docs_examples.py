"""The documentation says what is true: commands parse, links lead somewhere, nothing is left out.

That the examples run is tested with a real service in tests/integration/test_docs_examples.py.
"""

import ast
import dataclasses
import importlib
import re
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

from tests.assets import REPOSITORY
from tests.doc_pages import PAGES, Block, blocks_of, console_commands
from tinsmith.algorithms.loss_inputs import LOSS_INPUTS
from tinsmith.cli.app import COMMANDS, tinsmith
from tinsmith.cli.config_flags import parse_config
from tinsmith.regularizers import Regularizer, RegularizerConfig, list_regularizers
from tinsmith.training import PreferenceConfig, RLConfig, SupervisedConfig, names

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
# Messages are often spread over several literals; here they are joined again.
SOURCE_TEXT = re.sub(
    r'"\s*\n\s*f?"',
    "",
    "\n".join(
        path.read_text(encoding="utf-8")
        for path in [*(REPOSITORY / "src").rglob("*.py"), REPOSITORY / "Makefile"]
    ),
)


CONFIGS: dict[str, type[BaseModel]] = {
    "sft": SupervisedConfig,
    "dpo": PreferenceConfig,
    "rl": RLConfig,
}


def of_language(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def check_tinsmith_words(words: list[str]) -> None:
    """Parse a `tinsmith` command the way the command line would, and run nothing."""
    if words[0] == "train" and words[1] in CONFIGS:
        flags = [word for word in words[2:] if word not in {"--dry-run", "--json"}]
        if "--config" in flags:
            place = flags.index("--config")
            del flags[place : place + 2]
        parse_config(
            CONFIGS[words[1]],
            flags,
            settings={},
            positional="data",
            prog=f"tinsmith train {words[1]}",
            description="",
        )
        return
    context = click.Context(tinsmith, **tinsmith.context_settings)
    command = tinsmith.get_command(context, words[0])
    assert command is not None, f"no command {words[0]}"
    if isinstance(command, click.Group):
        context, words = click.Context(command, info_name=words[0], parent=context), words[1:]
        command = command.get_command(context, words[0])
        assert command is not None, f"no command {words[0]}"
    command.make_context(words[0], words[1:], parent=context)


@pytest.mark.parametrize("block", of_language("console"), ids=lambda block: block.place)
def test_commands_in_the_documentation_exist_with_their_flags(block: Block) -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for words in console_commands(block):
        if words[0] == "tinsmith":
            check_tinsmith_words(words[1:])
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), f"no target {words[1]}"
        else:
            assert words[0] in {"source", ".venv/bin/python"}, f"unknown command {words[0]}"


@pytest.mark.parametrize("block", of_language("python"), ids=lambda block: block.place)
def test_python_in_the_documentation_parses_and_its_imports_exist(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tinsmith"):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_between_pages_lead_to_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s#]+)[^)]*\)", text)
    broken = [
        target
        for target in targets
        if not target.startswith(("http", "mailto:")) and not (page.parent / target).exists()
    ]
    assert broken == []


def test_every_command_is_in_the_reference() -> None:
    page = (REPOSITORY / "docs/reference/cli.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"`tinsmith {name}" not in page] == []


def test_every_loss_is_in_the_reference_with_its_settings() -> None:
    page = (REPOSITORY / "docs/reference/losses.md").read_text(encoding="utf-8")
    for name, spec in LOSS_INPUTS.items():
        row = next((line for line in page.splitlines() if line.startswith(f"| `{name}`")), "")
        assert row, f"{name} has no row"
        for word in (*spec.required_inputs, *spec.config_defaults):
            assert f"`{word}`" in row, f"{name}: {word} is missing"
        for setting, value in spec.config_defaults.items():
            assert f"`{setting}` {value}" in row


def test_every_regularizer_is_in_the_reference_with_its_settings() -> None:
    page = (REPOSITORY / "docs/reference/regularizers.md").read_text(encoding="utf-8")
    for kind in list_regularizers():
        row = next((line for line in page.splitlines() if f"| `{kind}` |" in line), "")
        assert row, f"{kind} has no row"
        term = RegularizerConfig(kind=kind, weight=1.0).build().fn
        assert row.startswith(f"| `{type(term).__name__}`")
        for field in dataclasses.fields(term):
            is_said = f"`{field.name}`" in row or "the same" in row
            assert is_said, f"{kind}: {field.name} is missing"
    for field in dataclasses.fields(Regularizer):
        assert field.name in page


def test_every_metric_is_in_the_reference() -> None:
    page = (REPOSITORY / "docs/reference/run-directory.md").read_text(encoding="utf-8")
    metrics = [
        value
        for key, value in vars(names).items()
        if key.isupper() and isinstance(value, str) and not key.endswith("PREFIX")
    ]
    assert [metric for metric in metrics if f"`{metric}`" not in page] == []


def test_every_setting_of_a_run_says_what_it_does() -> None:
    nested = [
        info.annotation
        for config in CONFIGS.values()
        for info in config.model_fields.values()
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)
    ]
    silent = [
        name
        for model in (*CONFIGS.values(), *nested)
        for name, info in model.model_fields.items()
        if not info.description
    ]
    assert silent == []


def test_troubleshooting_quotes_messages_that_exist() -> None:
    page = (REPOSITORY / "docs/troubleshooting.md").read_text(encoding="utf-8")
    quoted = [
        text
        for heading in re.findall(r"^### (.*)$", page, re.MULTILINE)
        for text in re.findall(r"`([^`]+)`", heading)
    ]
    missing = []
    for text in quoted:
        # What stands for a value in the page is a format field in the source.
        pieces = re.split(r"FILE|LINE|\(pid=\.\.\.\)|'\.\.\.'|\.\.\.|messages\[0\]|torch is", text)
        words = [piece.strip(" :.()") for piece in pieces]
        missing += [piece for piece in words if len(piece) > 3 and piece not in SOURCE_TEXT]
    assert missing == []
