"""Record a Lightning Trainer: `Trainer(..., callbacks=[RecorderCallback("my-project")])`.

What modules `log` comes under their names, with areas spelt as everywhere here (`val_loss` is
`eval/loss`); epochs and steps are spans, checkpoints and evaluations events. A training that goes
on from a checkpoint is another attempt of the run that made it: the id stands in the checkpoint.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

from tinsmith.core.errors import missing_extra
from tinsmith.telemetry import events
from tinsmith.telemetry.integrations.trainer_run import TrainerRun, metric_name, size_of
from tinsmith.telemetry.run import Run
from tinsmith.telemetry.session import RunSettings

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import Logger
else:

    def _lightning() -> Any:
        # Two packages bear one Lightning; the script's own is the one to fit to.
        names = ["lightning.pytorch", "pytorch_lightning"]
        names.sort(key=lambda name: name not in sys.modules)
        for name in names:
            try:
                importlib.import_module(f"{name}.loggers")
                return importlib.import_module(name)
            except ImportError as error:
                failed = error
        raise missing_extra("lightning", "lightning") from failed

    _package = _lightning()
    Callback, Logger = _package.Callback, _package.loggers.Logger

__all__ = ["RecorderCallback"]


class RecorderCallback(Callback):
    """Records each training of a Trainer as a run, evaluations after it included; rank 0 does.

    Args:
        project: What the run belongs to.
        name: What to call it; made of project and time by default.
        **settings: What else `telemetry.init` takes: `group`, `tags`, `seed`, `store`, ...
    """

    def __init__(
        self, project: str = "default", name: str | None = None, **settings: Unpack[RunSettings]
    ) -> None:
        self._follow = TrainerRun(project, name, settings)
        self._sink: _RunLogger | None = None
        self._run_id: str | None = None
        self._last_step = -1

    @property
    def run(self) -> Run | None:
        """The run, while it is open: from the beginning of training until the process ends."""
        return self._follow.run

    def finish(self) -> None:
        """Finish the run now, in a process that goes on with other work."""
        self._follow.close()

    # ------------------------------------------------------------------------- in the checkpoint

    def state_dict(self) -> dict[str, Any]:
        return {"run_id": self._run_id, "last_step": self._last_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._run_id = state_dict.get("run_id")
        self._last_step = state_dict.get("last_step", -1)

    # ---------------------------------------------------------------------------------- its life

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        # Lightning's own count is one too small in a checkpoint that was saved after a batch.
        is_resumed = trainer.global_step > 0
        last_step = max(self._last_step, _step(trainer) - 1) if is_resumed else -1
        run = self._begin(
            trainer,
            pl_module,
            run_id=self._run_id if is_resumed else None,
            resumed_from_step=last_step if is_resumed else None,
        )
        self._run_id, self._last_step = run.run_id, last_step
        kind = type(pl_module).__name__
        self._follow.enter(events.TRAIN_RUN, announce=True, method="Lightning", model=kind)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._follow.enter(
            events.TRAIN_EPOCH,
            step=_step(trainer),
            announce=True,
            epoch=trainer.current_epoch,
        )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._follow.leave(events.TRAIN_EPOCH)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._follow.enter(events.TRAIN_STEP, step=_step(trainer), epoch=trainer.current_epoch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._last_step = _step(trainer)
        self._follow.leave(events.TRAIN_STEP)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._follow.leave(events.TRAIN_RUN, num_steps=trainer.global_step)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._follow.fail(exception)
        self._stop_listening(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stop_listening(trainer)
        if self.run is not None:
            self.run.flush()

    # ------------------------------------------------------------------------------- evaluations

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._evaluation(trainer, pl_module, is_start=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._evaluation(trainer, pl_module, is_start=False)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluation(trainer, pl_module, is_start=True)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluation(trainer, pl_module, is_start=False)

    def _evaluation(self, trainer: Trainer, pl_module: LightningModule, *, is_start: bool) -> None:
        if not trainer.is_global_zero:
            return
        run = self.run or self._begin(trainer, pl_module)
        self._listen(trainer, run)
        event = events.EVAL_STARTED if is_start else events.EVAL_FINISHED
        told = {"evaluator": "Lightning", "stage": trainer.state.fn}
        run.event(event, metadata=told, step=_step(trainer))

    def _begin(self, trainer: Trainer, pl_module: LightningModule, **place: Any) -> Run:
        module: Any = pl_module  # its hyperparameters may be anything
        config = {"model": dict(module.hparams), "trainer": _described(trainer)}
        run = self._follow.begin(config=config, **place)
        self._listen(trainer, run)
        return run

    def _listen(self, trainer: Trainer, run: Run) -> None:
        """Have the trainer's metrics; last among its loggers, so that no folder is named by us."""
        if self._sink not in trainer.loggers:
            self._sink = _RunLogger(run)
            trainer.loggers = [*trainer.loggers, self._sink]

    def _stop_listening(self, trainer: Trainer) -> None:
        trainer.loggers = [one for one in trainer.loggers if one is not self._sink]


class _RunLogger(Logger):
    """Takes what Lightning gives its loggers: numbers at their steps, and saved checkpoints."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run

    @property
    def name(self) -> str:
        return self._run.name

    @property
    def version(self) -> str:
        return self._run.run_id

    def log_metrics(self, metrics: Mapping[str, object], step: int | None = None) -> None:
        numbers = {
            "train/epoch" if key == "epoch" else metric_name(key): value
            for key, value in metrics.items()
        }
        self._run.log(numbers, step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(params, Mapping):
            self._run.update_config({"model": dict(cast("Mapping[str, object]", params))})

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        saved: Any = checkpoint_callback  # what it saved it tells by private names alone
        path, step = Path(saved._last_checkpoint_saved).absolute(), saved._last_global_step_saved
        self._run.event(
            events.CHECKPOINT_SAVED,
            {"step": step, "bytes": size_of(path)},
            metadata={"path": str(path), "kind": "lightning"},
            step=step,
        )


def _step(trainer: Trainer) -> int:
    """Return the step under which loggers record the batch that is being trained."""
    loop: Any = trainer.fit_loop.epoch_loop  # `global_step` counts each of several optimizers
    return loop._batches_that_stepped


def _described(trainer: Trainer) -> dict[str, object]:
    return {
        "max_epochs": trainer.max_epochs,
        "max_steps": trainer.max_steps,
        "precision": str(trainer.precision),
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "gradient_clip_val": trainer.gradient_clip_val,
        "world_size": trainer.world_size,
        "strategy": type(trainer.strategy).__name__,
        "optimizers": [type(one).__name__ for one in trainer.optimizers],
    }
