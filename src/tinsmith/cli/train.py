"""`tinsmith train`: training loops on data of your own."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tinsmith.cli.invocation import command_prefix
from tinsmith.cli.lazy import LazyCommand, LazyGroup

if TYPE_CHECKING:
    from tinsmith.training import RunResult

__all__ = ["dpo", "rl", "sft", "train"]

COMMANDS = {
    "sft": LazyCommand("tinsmith.cli.train:sft", "Fine-tune on conversations."),
    "dpo": LazyCommand("tinsmith.cli.train:dpo", "Learn from comparisons of answers."),
    "rl": LazyCommand("tinsmith.cli.train:rl", "Learn from the rewards of sampled answers."),
}

_SOURCES = """Settings come from the defaults, then from each --config FILE (TOML, left to right),
then from the flags below. --dry-run prints the outcome and trains nothing; --json prints the result
as JSON."""


@dataclass(frozen=True)
class Trainer:
    """What a command needs of a method.

    Attributes:
        command: Its name.
        config: Names of its configuration and of the function that runs one, in
            `tinsmith.training`.
        data: What the positional argument is.
        compared: Metrics shown at the end, and before where they were measured, by what they are
            called.
    """

    command: str
    config: str
    run: str
    data: str
    compared: Mapping[str, str]


SFT = Trainer(
    "sft",
    "SupervisedConfig",
    "run_supervised",
    """Fine-tune on conversations: a JSONL file whose lines are {"messages": [...]}.""",
    {"eval/nll": "held-out NLL in nats a token"},
)
DPO = Trainer(
    "dpo",
    "PreferenceConfig",
    "run_preference",
    """Learn from comparisons by direct preference optimization: a JSONL file whose lines are
{"prompt": ..., "chosen": ..., "rejected": ...}.""",
    {"eval/pair_accuracy": "held-out accuracy", "eval/margin": "margin"},
)

RL = Trainer(
    "rl",
    "RLConfig",
    "run_rl",
    """Learn from the rewards of sampled answers: a JSONL file whose lines are
{"question": ..., "answer": ...}, and --reward NAME, which grades an answer.""",
    {"reward/mean": "mean reward of the last step", "sample/score": "held-out score"},
)


@click.group(cls=LazyGroup, lazy=COMMANDS)
def train() -> None:
    """Train on data of your own."""


def _command(trainer: Trainer) -> click.Command:
    """The command of a method; tyro reads the words that click does not know."""

    def invoke(
        configs: tuple[Path, ...], dry_run: bool, as_json: bool, words: tuple[str, ...]
    ) -> None:
        from tinsmith import training
        from tinsmith.cli.config_flags import parse_config, read_toml_files

        model = getattr(training, trainer.config)
        config = parse_config(
            model,
            words,
            settings=read_toml_files(configs, model),
            positional="data",
            prog=f"tinsmith train {trainer.command}",
            description=f"{trainer.data}\n\n{_SOURCES}",
        )
        if dry_run:
            print(config.model_dump_json(indent=2))
            return
        result = getattr(training, trainer.run)(config)
        _print(result, trainer.compared, as_json=as_json)

    return click.Command(
        trainer.command,
        callback=invoke,
        context_settings={
            "ignore_unknown_options": True,
            "allow_extra_args": True,
            "help_option_names": [],
        },
        params=[
            click.Option(["--config", "configs"], multiple=True, type=click.Path(path_type=Path)),
            click.Option(["--dry-run", "dry_run"], is_flag=True),
            click.Option(["--json", "as_json"], is_flag=True),
            click.Argument(["words"], nargs=-1, type=click.UNPROCESSED),
        ],
        help=COMMANDS[trainer.command].summary,
    )


sft = _command(SFT)
dpo = _command(DPO)
rl = _command(RL)


def _print(result: "RunResult", compared: Mapping[str, str], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result.summary()))
        return
    print(f"{result.num_steps} steps done", end="")
    if result.resumed_from_step:
        print(f" (resumed after {result.resumed_from_step})", end="")
    for metric, what in compared.items():
        before, after = result.metrics_before.get(metric), result.metrics.get(metric)
        if after is not None:
            shown = f"{after:.4f}" if before is None else f"{before:.4f} -> {after:.4f}"
            print(f"; {what} {shown}", end="")
    print()
    print(f"run       {result.run_dir}")
    print(f"adapter   {result.adapter_dir or result.sampler_path}")
    print(f"try it    {command_prefix()} chat --model {shlex.quote(str(result.run_dir))}")
