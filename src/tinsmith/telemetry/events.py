"""The events that Tinsmith emits or has a name for. Their names stand here and nowhere else.

`docs/reference/events.md` is made from this module.
"""

from __future__ import annotations

from typing import Final

from tinsmith.telemetry.catalogue import EventSpec, Measurement, register

_DURATION = Measurement("duration_ms", "ms", "How long it took.")
_COST = Measurement("cost_usd", "usd", "What it cost, where the price is known.")


def _event(
    name: str,
    description: str,
    *measurements: Measurement,
    metadata: tuple[str, ...] = (),
    crucible: tuple[str, ...] = (),
) -> EventSpec:
    return register(
        EventSpec(
            name=name,
            category=name.partition(".")[0],
            description=description,
            measurements=measurements,
            metadata=metadata,
            also_known_as=crucible,
        )
    )


def _span(
    name: str,
    description: str,
    *measurements: Measurement,
    metadata: tuple[str, ...] = (),
    crucible: tuple[str, ...] = (),
) -> EventSpec:
    return register(
        EventSpec(
            name=name,
            category=name.partition(".")[0],
            description=description,
            measurements=(_DURATION, *measurements),
            metadata=metadata,
            is_span=True,
            also_known_as=crucible,
        )
    )


def _count(name: str, description: str = "") -> Measurement:
    return Measurement(name, "count", description)


def _number(name: str, description: str = "") -> Measurement:
    return Measurement(name, "1", description)


def _fraction(name: str, description: str = "") -> Measurement:
    return Measurement(name, "fraction", description)


def _ms(name: str, description: str = "") -> Measurement:
    return Measurement(name, "ms", description)


def _s(name: str, description: str = "") -> Measurement:
    return Measurement(name, "s", description)


def _tokens(name: str, description: str = "") -> Measurement:
    return Measurement(name, "tokens", description)


_TIMES = (
    _s("active_s", "Time that the run was active so far."),
    _s("paused_s", "Time that it was paused so far."),
)
_LOSS = Measurement("loss", "nats", "Mean loss of the trained tokens.")
_GRAD_NORM = _number("grad_norm", "Norm of the gradient before clipping.")

# ----------------------------------------------------------------------------------------- runs
RUN_STARTED: Final = _event("run.started", "A run's writer began.", *_TIMES)
RUN_HEARTBEAT: Final = _event("run.heartbeat", "A run's writer lives.", *_TIMES)
RUN_PAUSED: Final = _event("run.paused", "A run was paused.", *_TIMES)
RUN_RESUMED: Final = _event("run.resumed", "A paused run goes on.", *_TIMES)
RUN_FINISHED: Final = _event("run.finished", "A run's writer ended well.", *_TIMES)
RUN_FAILED: Final = _event(
    "run.failed", "A run's writer ended by an error.", *_TIMES, metadata=("exit_code",)
)
RUN_REATTACHED: Final = _event(
    "run.reattached",
    "A writer came to a run that existed: a new attempt, or another rank.",
    Measurement("resumed_from_step", "step", "Last step of earlier attempts that still counts."),
    *_TIMES,
)

# ------------------------------------------------------------------------------------- training
TRAIN_RUN: Final = _span(
    "train.run",
    "A whole training.",
    _count("num_steps"),
    metadata=("method", "model"),
    crucible=(
        "crucible_train.training.start",
        "crucible_train.training.stop",
        "crucible_train.training.exception",
    ),
)
TRAIN_EPOCH: Final = _span(
    "train.epoch",
    "One pass over the data.",
    _LOSS,
    _tokens("tokens"),
    metadata=("epoch",),
    crucible=("crucible_train.epoch.start", "crucible_train.epoch.stop"),
)
TRAIN_STEP: Final = _span(
    "train.step",
    "One step: data, forward and backward, optimizer.",
    _LOSS,
    _tokens("tokens", "Tokens trained in this step."),
    _number("lr", "Learning rate."),
    _GRAD_NORM,
    _ms("step_ms", "The whole step."),
    _ms("data_wait_ms", "Time that it waited for data."),
    metadata=("epoch",),
    crucible=("crucible_train.batch.stop",),
)
TRAIN_DATA: Final = _span("train.data", "Part of a step: getting the batch.")
TRAIN_FORWARD_BACKWARD: Final = _span(
    "train.forward_backward", "Part of a step: loss and gradient.", _LOSS, _tokens("tokens")
)
TRAIN_OPTIM: Final = _span("train.optim", "Part of a step: the update.", _GRAD_NORM)
TRAIN_EXCEPTION: Final = _event(
    "train.exception", "Training met an error.", metadata=("error", "message")
)

CHECKPOINT_SAVED: Final = _event(
    "checkpoint.saved",
    "A checkpoint is complete on disk.",
    Measurement("bytes", "bytes"),
    _DURATION,
    Measurement("step", "step"),
    metadata=("path", "kind"),
    crucible=("crucible_train.checkpoint.saved",),
)
CHECKPOINT_LOADED: Final = _event(
    "checkpoint.loaded",
    "Training goes on from a checkpoint.",
    Measurement("bytes", "bytes"),
    _DURATION,
    Measurement("step", "step"),
    metadata=("path",),
)
CHECKPOINT_DELETED: Final = _event(
    "checkpoint.deleted",
    "A checkpoint was deleted.",
    Measurement("bytes", "bytes"),
    _DURATION,
    Measurement("step", "step"),
    metadata=("path",),
)

# ----------------------------------------------------------------------------------- evaluation
EVAL_STARTED: Final = _event(
    "eval.started", "An evaluation began.", _count("n"), metadata=("evaluator", "dataset")
)
EVAL_SAMPLE: Final = _event(
    "eval.sample", "One example was judged.", _number("score"), metadata=("evaluator", "example")
)
EVAL_FINISHED: Final = _event(
    "eval.finished",
    "An evaluation ended.",
    _count("n", "Examples judged."),
    _number("score", "Mean score."),
    _number("stderr", "Standard error of the score."),
    _DURATION,
    metadata=("evaluator", "dataset"),
)

# ------------------------------------------------------------------------ reinforcement learning
_REWARDS = (
    _number("reward_mean"),
    _number("reward_std"),
    _number("reward_min"),
    _number("reward_max"),
)
_POLICY = (
    Measurement("kl", "nats", "Divergence from the reference policy."),
    Measurement("entropy", "nats"),
    _fraction("clip_fraction", "Share of tokens whose ratio was clipped."),
    _tokens("length_tokens", "Mean length of a completion."),
    _fraction("truncated_fraction", "Share of completions cut off by the length."),
    Measurement("staleness", "step", "Steps between the sampling and the trained policy."),
)
ROLLOUT_FINISHED: Final = _event(
    "rollout.finished",
    "A batch of rollouts is complete.",
    *_REWARDS,
    *_POLICY,
    _count("num_trajectories"),
    _DURATION,
)
GROUP_FINISHED: Final = _event(
    "group.finished",
    "All rollouts of one prompt are complete.",
    *_REWARDS,
    _tokens("length_tokens"),
    _fraction("truncated_fraction"),
    _count("group_size"),
)
ADVANTAGE_COMPUTED: Final = _event(
    "advantage.computed",
    "Rewards became advantages.",
    *_REWARDS,
    _number("advantage_mean"),
    _number("advantage_std"),
)
POLICY_UPDATED: Final = _event("policy.updated", "The policy took a step.", *_POLICY, _LOSS)

# --------------------------------------------------------- preference, distillation, regularizers
DPO_STEP: Final = _event(
    "dpo.step",
    "One step on preferences.",
    _LOSS,
    _fraction("accuracy", "Share of pairs whose chosen answer has the higher reward."),
    _number("margin", "Mean difference of the rewards."),
    _number("chosen_reward"),
    _number("rejected_reward"),
    _count("num_pairs"),
)
DISTILL_STEP: Final = _event(
    "distill.step", "One step of distillation.", _LOSS, _tokens("teacher_tokens")
)
REGULARIZER_COMPUTED: Final = _event(
    "regularizer.computed",
    "A term of the loss was computed.",
    _number("value"),
    _number("weight"),
    _number("contribution", "Weight times value."),
    _number("grad_norm"),
    _DURATION,
    metadata=("regularizer",),
)

# ----------------------------------------------------------------------------- models and tools
LLM_REQUEST: Final = _span(
    "llm.request",
    "A model was asked; metadata follows the GenAI conventions of OpenTelemetry.",
    _tokens("input_tokens"),
    _tokens("output_tokens"),
    _tokens("cached_tokens"),
    _ms("ttft_ms", "Time to the first token."),
    _COST,
    metadata=("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model"),
    crucible=("req_llm.request.start", "req_llm.request.stop", "req_llm.request.exception"),
)
TOOL_CALL: Final = _span(
    "tool.call",
    "A tool was called.",
    metadata=("tool", "call_id"),
    crucible=("altar.tool.start", "altar.tool.stop"),
)
TRACE_CREATED: Final = _event(
    "trace.created",
    "A decision was noted in a causal trace.",
    _fraction("confidence"),
    metadata=("decision", "alternatives", "reasoning"),
    crucible=("causal_trace.event.created", "crucible_trace.event.created"),
)
ENSEMBLE_PREDICT: Final = _span(
    "ensemble.predict",
    "Several models answered one question.",
    _fraction("consensus", "Share of the models that agree."),
    _count("num_successes"),
    _count("num_failures"),
    _COST,
    metadata=("models",),
    crucible=("ensemble.prediction.start", "ensemble.prediction.stop"),
)
ENSEMBLE_VOTE: Final = _event(
    "ensemble.vote",
    "Votes were counted.",
    _DURATION,
    _fraction("consensus"),
    metadata=("strategy", "winner"),
    crucible=("ensemble.vote.completed",),
)
HEDGE_REQUEST: Final = _span(
    "hedge.request",
    "A request that may be sent twice.",
    _ms("delay_ms", "Delay after which the second one goes out."),
    _ms("primary_latency_ms"),
    _COST,
    metadata=("strategy", "hedged", "hedge_won"),
    crucible=("hedging.request.start", "hedging.request.stop"),
)
HEDGE_FIRED: Final = _event(
    "hedge.fired",
    "The second request went out.",
    _ms("delay_ms"),
    crucible=("hedging.request.duplicated",),
)

# ----------------------------------------------------------------------------------- deployment
INFERENCE_REQUEST: Final = _span(
    "inference.request",
    "A deployed model answered.",
    _tokens("input_tokens"),
    _tokens("output_tokens"),
    _ms("queue_ms", "Time that it waited."),
    _ms("compute_ms", "Time that it was computed."),
    _count("batch_size"),
    metadata=("model", "version"),
    crucible=(
        "crucible_deployment.inference.start",
        "crucible_deployment.inference.stop",
        "crucible_deployment.inference.exception",
    ),
)
HEALTH_CHECK_COMPLETED: Final = _event(
    "health_check.completed",
    "A service was looked at.",
    _ms("latency_p50_ms"),
    _ms("latency_p99_ms"),
    _fraction("error_rate"),
    metadata=("status", "deployment"),
    crucible=("crucible_deployment.health_check.completed",),
)
MODEL_LOADED: Final = _event(
    "model.loaded",
    "A model is ready.",
    _DURATION,
    Measurement("bytes", "bytes"),
    metadata=("model",),
)
MODEL_UNLOADED: Final = _event("model.unloaded", "A model was let go.", metadata=("model",))
ROLLOUT_PROMOTED: Final = _event(
    "rollout.promoted",
    "A deployment got more traffic.",
    _fraction("share"),
    metadata=("deployment",),
)
ROLLOUT_ROLLED_BACK: Final = _event(
    "rollout.rolled_back", "A deployment was taken back.", metadata=("deployment", "reason")
)

# ------------------------------------------------------------------------- pipelines and studies
PIPELINE_RUN: Final = _span(
    "pipeline.run",
    "A pipeline, from its first stage to its last.",
    _count("num_stages"),
    metadata=("pipeline",),
    crucible=("crucible_framework.pipeline.start", "crucible_framework.pipeline.stop"),
)
STAGE_RUN: Final = _span(
    "stage.run",
    "One stage of a pipeline.",
    _count("index"),
    metadata=("pipeline", "stage"),
    crucible=("crucible_framework.stage.start", "crucible_framework.stage.stop"),
)
EXPLANATION_GENERATED: Final = _event(
    "explanation.generated",
    "A prediction was explained.",
    _DURATION,
    _count("n", "Examples explained."),
    metadata=("method", "model"),
    crucible=("crucible_xai.explanation.generated",),
)
ATTACK_EXECUTED: Final = _event(
    "attack.executed",
    "An adversarial attack was tried.",
    _DURATION,
    _count("n", "Examples attacked."),
    _fraction("success", "Share of the attacks that succeeded."),
    metadata=("attack", "model"),
    crucible=("crucible_adversary.attack.executed",),
)

# ----------------------------------------------------------------------------- data and machine
DATASET_LOADED: Final = _event(
    "dataset.loaded",
    "A data set is ready.",
    _count("rows"),
    _tokens("tokens"),
    _count("dropped", "Rows left out."),
    _DURATION,
    metadata=("dataset",),
)
BATCH_BUILT: Final = _event(
    "batch.built",
    "A batch was put together.",
    _count("rows"),
    _tokens("tokens"),
    _tokens("trained_tokens"),
    _tokens("padding_tokens"),
    _count("dropped"),
    metadata=("sample_ids",),
)
SAMPLE_DROPPED: Final = _event(
    "sample.dropped",
    "An example was left out.",
    _tokens("tokens"),
    metadata=("reason", "sample_id"),
)
GPU_SAMPLE: Final = _event(
    "gpu.sample",
    "How a GPU fares.",
    Measurement("util_percent", "percent"),
    Measurement("memory_bytes", "bytes"),
    Measurement("power_watts", "watts"),
    Measurement("temperature_celsius", "celsius"),
    metadata=("device",),
)
CPU_SAMPLE: Final = _event(
    "cpu.sample",
    "How the machine fares.",
    Measurement("util_percent", "percent"),
    Measurement("memory_bytes", "bytes"),
)
SYSTEM_OOM: Final = _event(
    "system.oom",
    "Memory ran out.",
    Measurement("memory_bytes", "bytes"),
    metadata=("device", "message"),
)

# ------------------------------------------------------------------- data of a step (wandb-shaped)
TABLE_LOGGED: Final = _event(
    "table.logged",
    "A table was logged; its rows are in the metadata.",
    _count("n", "Number of rows."),
    metadata=("key", "columns", "rows"),
)
HISTOGRAM_LOGGED: Final = _event(
    "histogram.logged",
    "A histogram was logged.",
    _count("n", "Number of values."),
    metadata=("key", "counts", "edges"),
)
VALUE_LOGGED: Final = _event(
    "value.logged", "A value that is no number was logged.", metadata=("key", "value")
)
SUMMARY_UPDATED: Final = _event(
    "summary.updated", "Values that sum up a run, by name in the metadata."
)

# --------------------------------------------------------------------------------------- alerts
ALERT_RAISED: Final = _event(
    "alert.raised",
    "A rule fired.",
    _number("score"),
    _number("threshold"),
    metadata=("rule", "key", "message"),
)
ALERT_RESOLVED: Final = _event(
    "alert.resolved",
    "What a rule fired for is over.",
    _number("score"),
    _number("threshold"),
    metadata=("rule", "key"),
)
