"""`tinsmith train`: training loops on data of your own."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tinsmith.cli.invocation import command_prefix
from tinsmith.cli.lazy import LazyCommand, LazyGroup

if TYPE_CHECKING:
    from tinsmith.training import RunResult

__all__ = ["sft", "train"]

COMMANDS = {
    "sft": LazyCommand("tinsmith.cli.train:sft", "Fine-tune on conversations."),
}

SFT_DESCRIPTION = """Fine-tune on conversations: a JSONL file whose lines are {"messages": [...]}.

Settings come from the defaults, then from each --config FILE (TOML, left to right), then from the
flags below. --dry-run prints the outcome and trains nothing; --json prints the result as JSON."""


@click.group(cls=LazyGroup, lazy=COMMANDS)
def train() -> None:
    """Train on data of your own."""


@click.command(
    context_settings={
        "ignore_unknown_options": True,
        "allow_extra_args": True,
        "help_option_names": [],
    }
)
@click.option("--config", "configs", multiple=True, type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True)
@click.option("--json", "as_json", is_flag=True)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def sft(configs: tuple[Path, ...], dry_run: bool, as_json: bool, words: tuple[str, ...]) -> None:
    """Fine-tune on conversations."""
    from tinsmith.cli.config_flags import parse_config, read_toml_files
    from tinsmith.training import SupervisedConfig, run_supervised

    config = parse_config(
        SupervisedConfig,
        words,
        settings=read_toml_files(configs, SupervisedConfig),
        positional="data",
        prog="tinsmith train sft",
        description=SFT_DESCRIPTION,
    )
    if dry_run:
        print(config.model_dump_json(indent=2))
        return
    result = run_supervised(config)
    _print(result, as_json=as_json)


def _print(result: "RunResult", *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result.summary()))
        return
    before, after = result.eval_nll_before, result.eval_nll_after
    print(f"{result.num_steps} steps done", end="")
    if result.resumed_from_step:
        print(f" (resumed after {result.resumed_from_step})", end="")
    if before is not None and after is not None:
        print(f"; held-out NLL {before:.4f} -> {after:.4f} nats a token", end="")
    print()
    print(f"run       {result.run_dir}")
    print(f"adapter   {result.adapter_dir or result.sampler_path}")
    print(f"try it    {command_prefix()} chat --model {shlex.quote(str(result.run_dir))}")
