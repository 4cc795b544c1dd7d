"""`tinsmith demo`: the main job, and what it changed, on one screen."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tinsmith.cli.invocation import command_prefix
from tinsmith.cli.options import base_url_option, json_option

if TYPE_CHECKING:
    from tinsmith.recipes.demo import DemoResult

__all__ = ["demo"]


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help='Conversations of your own: a JSONL file of {"messages": [...]}.',
)
@click.option("--model", default="tinsmith/tiny", show_default=True, help="The base model.")
@click.option("--max-steps", type=click.IntRange(1), default=150, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--run-dir", type=click.Path(path_type=Path), metavar="DIR")
@base_url_option
@json_option
def demo(
    data: Path | None,
    model: str,
    max_steps: int,
    seed: int,
    run_dir: Path | None,
    base_url: str | None,
    as_json: bool,
) -> None:
    """Fine-tune the bundled model and show what changed.

    Takes about two minutes on two cores and downloads nothing.
    """
    from tinsmith.recipes.demo import DemoConfig, run_demo

    config = DemoConfig(
        data=data, model=model, max_steps=max_steps, seed=seed, run_dir=run_dir, base_url=base_url
    )
    result = run_demo(config, say=_silence if as_json else _say)
    if as_json:
        print(json.dumps(result.summary()))
    else:
        _print(result)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _silence(line: str) -> None:
    pass


def _print(result: "DemoResult") -> None:
    """Print the answers side by side, the fall of the loss, and what to type next."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(title="The same questions, before and after", show_lines=True)
    for heading in ("question", "before", "after"):
        table.add_column(heading, overflow="fold", ratio=1)
    for answer in result.answers:
        table.add_row(*(escape(text) for text in (answer.question, answer.before, answer.after)))
    console.print(table)
    training = result.training
    if training.eval_nll_before is not None and training.eval_nll_after is not None:
        print(
            f"held-out NLL  {training.eval_nll_before:.3f} -> {training.eval_nll_after:.3f} nats a "
            f"token ({-100 * result.nll_fall:+.0f} %), {training.num_steps} steps, "
            f"{result.seconds:.0f} s in all"
        )
    print(f"run           {training.run_dir}")
    print(f"adapter       {training.adapter_dir or training.sampler_path}")
    print(f"data          {result.data}")
    command, run = command_prefix(), shlex.quote(str(training.run_dir))
    data = shlex.quote(str(result.data))
    print("\nNext:")
    print(f"  {command} chat --model {run}")
    print(f'  {command} sample "What is the capital of France?" --model {run}')
    print(f"  {command} train sft {data} --test-size 0.1 --num-epochs 3 --learning-rate 2e-3")
    print(f"  {command} demo --data {data}")
