"""What `--model` may name: a base model, a `tinker://` address, or a run's folder.

`find_source` turns the text a person typed into a `Source`; `open_source` opens a sampling client
on it, together with the renderer that its model speaks.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tinsmith.cli.waiting import waiting_for
from tinsmith.core.errors import UserError

if TYPE_CHECKING:
    from tinsmith.client import SamplingClient, ServiceClient
    from tinsmith.renderers import Renderer

__all__ = ["OpenSource", "Source", "find_source", "open_source"]


@dataclass(frozen=True)
class Source:
    """Weights to sample from, before anything was opened."""

    base_model: str | None
    """The base model's name or folder; None where only the service knows it."""
    model_path: str | None = None
    """The `tinker://` address of sampler weights; None for the base model itself."""
    renderer: str | None = None
    """The renderer a run was trained with; None means the base model's own."""

    label: str = field(default="", compare=False)
    """What the person typed."""


@dataclass(frozen=True)
class OpenSource:
    """An open sampling client and the means to speak with its model."""

    source: Source
    service: "ServiceClient"
    client: "SamplingClient"
    renderer: "Renderer"


def find_source(text: str) -> Source:
    """Say what a person's `--model` names.

    Raises:
        UserError: The text is a folder of neither a run nor a model.
    """
    if text.startswith("tinker://"):
        return Source(base_model=None, model_path=text, label=text)
    folder = Path(text).expanduser()
    if (folder / "checkpoints.jsonl").exists() or (folder / "metrics.jsonl").exists():
        return _source_of_run(folder)
    if folder.is_dir() and not (folder / "config.json").exists():
        raise UserError(
            f"model={text}: the folder holds neither a run nor a model",
            field="model",
            hint="name a run's folder, a model's folder, a base model or a tinker:// address",
        )
    base_model = str(folder.resolve()) if folder.is_dir() else text
    return Source(base_model=base_model, label=text)


def _source_of_run(folder: Path) -> Source:
    """Return the last sampler weights that a run saved."""
    from tinsmith.training.checkpoints import read_records

    paths = [record.sampler_path for record in read_records(folder / "checkpoints.jsonl")]
    saved = [path for path in paths if path]
    if not saved:
        raise UserError(
            f"model={folder}: the run has saved no sampler weights yet",
            field="model",
            hint="let it reach its first checkpoint (save_every), or resume it",
        )
    try:
        document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        base_model = str(document["config"]["model"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"model={folder}: the run's config.json cannot be read",
            field="model",
            hint=f"name its weights instead: --model {saved[-1]}",
        ) from error
    renderer = (document.get("data") or {}).get("renderer")
    return Source(base_model=base_model, model_path=saved[-1], renderer=renderer, label=str(folder))


def open_source(source: Source, *, base_url: str | None, renderer: str | None) -> OpenSource:
    """Open a sampling client, starting or joining the embedded service where none is named."""
    from tinsmith.client import ServiceClient
    from tinsmith.renderers import get_renderer, get_tokenizer, recommended_renderer

    service = ServiceClient(base_url=base_url)
    with waiting_for(f"waiting for the service and {source.label}"):
        client = service.create_sampling_client(
            model_path=source.model_path, base_model=source.base_model
        ).result()
    base_model = source.base_model or client.get_base_model()
    tokenizer = get_tokenizer(base_model)
    name = renderer or source.renderer or recommended_renderer(base_model, tokenizer)
    return OpenSource(
        source=source,
        service=service,
        client=client,
        renderer=get_renderer(name, tokenizer),
    )
