"""Metrics in Weights & Biases, where the package is installed.

Its own variables (`WANDB_MODE`, `WANDB_PROJECT`, `WANDB_ENTITY`, ...) are respected, since it reads
them itself. Nothing that goes wrong there stops a run: it is logged, once.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tinsmith.core.errors import missing_extra
from tinsmith.core.paths import atomic_write_text

logger = logging.getLogger(__name__)

_ID_FILE = "wandb_run_id.txt"


def require_wandb() -> Any:  # Any: the package is optional, so its types are not known
    """The package.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise missing_extra("wandb", "wandb") from error


class WandbRecorder:
    """Sends metrics to a W&B run.

    Args:
        run: What `wandb.init` gave; None sends nothing.
    """

    def __init__(self, run: Any | None) -> None:
        # Any: the package is optional, so its types are not known here.
        self._run = run
        self._has_failed = run is None

    @classmethod
    def start(
        cls, folder: Path, *, project: str | None, name: str | None, config: Mapping[str, object]
    ) -> WandbRecorder:
        """Start a run, or go on with the one that `folder` names.

        Args:
            folder: The run directory: W&B's files go there, and the run's id.
            project: None takes `WANDB_PROJECT`, or W&B's default.
            name: Of the run; None takes `WANDB_NAME`, or the folder's.
            config: What the run was started with.

        Raises:
            MissingExtraError: The package is not installed.
        """
        wandb = require_wandb()
        id_file = folder / _ID_FILE
        known = id_file.read_text(encoding="utf-8").strip() if id_file.exists() else None
        recorder = cls(None)

        def init() -> None:
            run: Any = wandb.init(
                project=project,
                name=name,
                config=dict(config),
                dir=str(folder),
                id=known,
                resume="allow",
            )
            atomic_write_text(id_file, f"{run.id}\n")
            recorder._run = run
            recorder._has_failed = False

        recorder._try(init, "start")
        return recorder

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        run = self._run
        if run is not None and not self._has_failed:
            # Not W&B's own step: it refuses to go back, as a resumed run does.
            self._try(lambda: run.log({"step": step, **metrics}), "log")

    def close(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            self._try(run.finish, "finish")

    def _try(self, action: Callable[[], object], what: str) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whatever W&B raises, the run goes on
            self._has_failed = True
            logger.warning("wandb could not %s and is left out from here on: %s", what, error)
