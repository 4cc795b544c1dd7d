"""Record a Hugging Face Trainer: `Trainer(..., callbacks=[RecorderCallback("my-project")])`.

Metrics come under the names of the Trainer's other loggers (`train/loss`, `eval/loss`), epochs and
steps as spans, checkpoints and evaluations as events. A training that goes on from a checkpoint is
another attempt of the run that made it: the id stands in the checkpoint's `trainer_state.json`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

from tinsmith.core.errors import missing_extra
from tinsmith.telemetry import events
from tinsmith.telemetry.integrations.trainer_run import TrainerRun, size_of, trainer_metric_name
from tinsmith.telemetry.run import Run
from tinsmith.telemetry.session import RunSettings

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
else:
    try:
        TrainerCallback = importlib.import_module("transformers").TrainerCallback
    except ImportError as error:
        raise missing_extra("transformers", "engine") from error

__all__ = ["RecorderCallback"]

_STATE = "tinsmith_run"
_MS_PER_S = 1e3


class RecorderCallback(TrainerCallback):
    """Records each training of a Trainer as a run; the process of rank 0 does.

    Args:
        project: What the run belongs to.
        name: What to call it; `run_name` of the arguments, or made of project and time.
        **settings: What else `telemetry.init` takes: `group`, `tags`, `seed`, `store`, ...
    """

    def __init__(
        self, project: str = "default", name: str | None = None, **settings: Unpack[RunSettings]
    ) -> None:
        self._follow = TrainerRun(project, name, settings)

    @property
    def run(self) -> Run | None:
        """The run, while it is open: from the beginning of training until the process ends."""
        return self._follow.run

    def finish(self) -> None:
        """Finish the run now, in a process that goes on with other work."""
        self._follow.close()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        # Lies in every checkpoint. An ExportableState would be made anew, without its `store`.
        kept = cast("dict[str, Any]", state.stateful_callbacks)  # declared as a list
        known = kept.get(_STATE, {}).get("attributes", {}).get("run_id")
        is_resumed = state.global_step > 0
        model_config: Any = getattr(kwargs.get("model"), "config", None)
        described: dict[str, object] = (
            model_config.to_dict() if hasattr(model_config, "to_dict") else {}
        )
        run = self._follow.begin(
            config={"training": args.to_dict(), "model": described},
            name=args.run_name,
            run_id=known if is_resumed else None,
            resumed_from_step=state.global_step if is_resumed else None,
        )
        kept[_STATE] = {"args": {}, "attributes": {"run_id": run.run_id}}
        run.define("train/loss", goal="min")
        run.define("eval/loss", goal="min")
        kind = type(kwargs.get("model")).__name__
        self._follow.enter(events.TRAIN_RUN, announce=True, method="Trainer", model=kind)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        epoch = int(state.epoch or 0)
        self._follow.enter(events.TRAIN_EPOCH, step=state.global_step, announce=True, epoch=epoch)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._follow.leave(events.TRAIN_EPOCH)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._follow.enter(events.TRAIN_STEP, step=state.global_step + 1, epoch=state.epoch)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._follow.leave(events.TRAIN_STEP)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, object] | None = None,
        **kwargs: Any,
    ) -> None:
        run = self.run
        if run is not None and logs:
            numbers = {trainer_metric_name(key): value for key, value in logs.items()}
            run.log(numbers, state.global_step)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        run = self.run
        if run is None:
            return
        told = metrics or {}
        seconds = [value for key, value in told.items() if key.endswith("_runtime")]
        took = {"duration_ms": seconds[0] * _MS_PER_S} if seconds else {}
        run.event(
            events.EVAL_FINISHED, took, metadata={"evaluator": "Trainer"}, step=state.global_step
        )

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        run, step = self.run, state.global_step
        if run is None or args.output_dir is None:
            return
        path = Path(args.output_dir).absolute() / f"checkpoint-{step}"
        run.event(
            events.CHECKPOINT_SAVED,
            {"step": step, "bytes": size_of(path)},
            metadata={"path": str(path), "kind": "trainer"},
            step=step,
        )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._follow.leave(events.TRAIN_RUN, num_steps=state.global_step)
        if self.run is not None:
            self.run.flush()
