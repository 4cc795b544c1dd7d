"""`tinsmith checkpoints push-hf`: an adapter as a repository of the Hugging Face Hub."""

import sys
from pathlib import Path
from typing import NamedTuple

import click

from tinsmith.cli.asking import is_confirmed
from tinsmith.cli.catalog import open_rest
from tinsmith.cli.checkpoints_download import directory_name
from tinsmith.cli.checkpoints_export import adapter_of, base_model_of
from tinsmith.cli.options import base_url_option, json_option
from tinsmith.cli.tables import print_json
from tinsmith.core.errors import TinsmithError, UserError, missing_extra

__all__ = ["push_hf"]

CARD = """---
base_model: {base_model}
library_name: peft
pipeline_tag: text-generation
tags:
- lora
- tinsmith
---

# {name}

A LoRA adapter of `{base_model}`, trained with [Tinsmith](https://pypi.org/project/tinsmith/) and
saved as `{path}`.

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{base_model}")
model = PeftModel.from_pretrained(model, "{repo_id}")
tokenizer = AutoTokenizer.from_pretrained("{base_model}")
```
"""


class _Push(NamedTuple):
    """Where an adapter goes, and how."""

    repo_id: str
    is_public: bool
    revision: str | None
    message: str
    as_pull_request: bool
    allow_patterns: list[str] | None
    """Of files that are sent, such as `*.safetensors`; None: all."""
    ignore_patterns: list[str] | None
    """Of files that are not."""


@click.command("push-hf")
@click.argument("path")
@click.option("-r", "--repo", metavar="ID", help="Such as you/my-adapter; default: from the name.")
@click.option("--public", is_flag=True, help="Let everyone see it; a new repository is private.")
@click.option("--revision", metavar="BRANCH", help="The branch to push to; default: main.")
@click.option("--commit-message", metavar="TEXT", help="Default: names the checkpoint.")
@click.option("--create-pr", is_flag=True, help="Open a pull request instead of pushing.")
@click.option("--no-model-card", is_flag=True, help="Write no README.md.")
@click.option(
    "--allow-pattern",
    "allow_patterns",
    metavar="GLOB",
    multiple=True,
    help="Push only files that match, the model card among them; may be repeated.",
)
@click.option(
    "--ignore-pattern",
    "ignore_patterns",
    metavar="GLOB",
    multiple=True,
    help="Leave out files that match; may be repeated.",
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@base_url_option
@json_option
def push_hf(
    path: str,
    repo: str | None,
    public: bool,
    revision: str | None,
    commit_message: str | None,
    create_pr: bool,
    no_model_card: bool,
    allow_patterns: tuple[str, ...],
    ignore_patterns: tuple[str, ...],
    yes: bool,
    base_url: str | None,
    as_json: bool,
) -> int:
    """Put a checkpoint's adapter on the Hugging Face Hub.

    PATH is its tinker:// address. Uses the token of `hf auth login` or HF_TOKEN. Asks before
    anything is sent.
    """
    push = _Push(
        repo or f"tinsmith-{directory_name(path)}"[:96],
        public,
        revision,
        commit_message or f"Adapter of {path}",
        create_pr,
        list(allow_patterns) or None,
        list(ignore_patterns) or None,
    )
    seen_by = "everyone" if public else "you alone, if the repository is new"
    if not yes and not is_confirmed(
        f"push {path} to {push.repo_id}, seen by {seen_by}?",
        what=f"the adapter would be pushed to {push.repo_id}",
    ):
        print("nothing was pushed", file=sys.stderr)
        return 1
    with open_rest(base_url) as rest, adapter_of(rest, path, base_url) as adapter:
        url = _upload(adapter, path, push, has_card=not no_model_card)
    if as_json:
        told = {"checkpoint_path": path, "repo_id": push.repo_id, "revision": revision}
        print_json({**told, "public": public, "url": url})
    else:
        print(url)
    return 0


def _upload(adapter: Path, path: str, push: _Push, *, has_card: bool) -> str:
    """Make the repository if it is not there and commit the files to it; returns the address."""
    import httpx

    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError
        from huggingface_hub.utils import filter_repo_objects
    except ImportError as error:
        raise missing_extra("huggingface_hub", "engine") from error
    names = sorted(file.name for file in adapter.iterdir()) + ["README.md"] * has_card
    allowed, ignored = push.allow_patterns, push.ignore_patterns
    if not list(filter_repo_objects(names, allow_patterns=allowed, ignore_patterns=ignored)):
        raise UserError(
            f"path={path!r}: the patterns leave nothing to push of {', '.join(names)}",
            field="allow_patterns" if allowed else "ignore_patterns",
            hint="patterns are those of the shell, such as --allow-pattern '*.safetensors'",
        )
    api = HfApi()
    try:
        made = api.create_repo(push.repo_id, private=not push.is_public, exist_ok=True)
        if has_card:
            (adapter / "README.md").write_text(_card(adapter, path, made.repo_id), encoding="utf-8")
        if push.revision is not None and not push.as_pull_request:
            api.create_branch(made.repo_id, branch=push.revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=made.repo_id,
            folder_path=adapter,
            commit_message=push.message,
            revision=push.revision,
            create_pr=push.as_pull_request,
            allow_patterns=allowed,
            ignore_patterns=ignored,
        )
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise _failure(push.repo_id, error) from error
    return str(commit.pr_url or made)


def _failure(repo_id: str, error: Exception) -> TinsmithError:
    from tinsmith.client import APIConnectionError

    text = str(error).strip().splitlines()
    message = f"repo={repo_id!r}: the Hub did not take it: {text[0] if text else type(error)}"
    if getattr(error, "response", None) is None:
        return APIConnectionError(message, hint="is the Hub reachable from here?")
    hint = "log in with hf auth login, or set HF_TOKEN to a token that may write"
    return UserError(message, field="repo", hint=hint)


def _card(adapter: Path, path: str, repo_id: str) -> str:
    name = repo_id.rpartition("/")[2]
    base_model = base_model_of(adapter)
    return CARD.format(base_model=base_model, name=name, path=path, repo_id=repo_id)
