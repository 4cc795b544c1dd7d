"""A script for `wandb` or a module of its shape; the real one wrote `script.wandb` with it.

Usage: python wandb_script.py FOLDER
"""

import argparse
import sys
from types import ModuleType


def main(wandb: ModuleType, **init: object) -> None:
    arguments = argparse.Namespace(lr=0.1, layers=[1, 2])
    run = wandb.init(
        project="shapes",
        name="script",
        config=arguments,
        group="seeds",
        tags=["a", "b"],
        notes="a note",
        job_type="train",
        **init,
    )
    wandb.config.update({"batch": 8})
    wandb.config.depth = 3
    assert wandb.config["lr"] == run.config.lr == 0.1
    wandb.define_metric("loss", summary="min")
    wandb.log({"loss": 3.0, "nested": {"a": 1, "deep": {"b": 2.5}}})  # step 0
    wandb.log({"loss": 2.0}, commit=False)  # step 1, which stays open
    wandb.log({"accuracy": 0.5})  # step 1, too
    wandb.log({"loss": 2.5}, step=5)  # opens step 5
    wandb.log({"accuracy": 0.75}, step=5)
    wandb.log({"loss": 2.25}, step=3)  # goes back: W&B drops it
    wandb.log({"loss": 2.125})  # step 5 is open, and this ends it
    wandb.log({"loss": 1.0}, step=9, commit=True)
    wandb.log({"loss": 4.0, "flag": True})  # step 10
    run.log({"table": wandb.Table(columns=["q", "n"], data=[["one", 1], ["two", 2]])}, step=12)
    run.log({"histogram": wandb.Histogram([1.0, 2.0, 2.0, 5.0], num_bins=4)}, step=12)
    wandb.summary["best"] = 0.9
    wandb.finish()


if __name__ == "__main__":
    import wandb

    settings = wandb.Settings(
        silent=True,
        x_disable_stats=True,
        x_disable_meta=True,
        save_code=False,
        console="off",
        disable_git=True,
    )
    main(wandb, mode="offline", settings=settings, dir=sys.argv[1])
