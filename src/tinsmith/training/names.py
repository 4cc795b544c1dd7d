"""Names of the metrics that training loops record, `area/name` with the unit at the end."""

TRAIN_NLL = "train/nll"
"""Mean negative log-likelihood of a trained token, in nats, before the step's update."""
TRAIN_NUM_SEQUENCES = "train/num_sequences"
TRAIN_NUM_TOKENS = "train/num_tokens"
"""Input tokens of the step's batch."""
TRAIN_NUM_LOSS_TOKENS = "train/num_loss_tokens"
"""Targets with a loss weight in the step's batch."""
EVAL_NLL = "eval/nll"
"""Mean negative log-likelihood of a held-out trained token, in nats."""
EVAL_NUM_LOSS_TOKENS = "eval/num_loss_tokens"
EVAL_BITS_PER_BYTE = "eval/bits_per_byte"
"""Negative log-likelihood of held-out text in bits, by its UTF-8 bytes; without control tokens."""
EVAL_ACCURACY = "eval/accuracy"
"""Part of the held-out trained tokens that are the likeliest, given those before them."""
SAMPLE_SCORE = "sample/score"
"""Mean score of sampled answers, 0 to 1."""
SAMPLE_ENDED = "sample/ended_fraction"
"""Part of the sampled answers that ended by themselves."""
SAMPLE_TOKENS = "sample/mean_tokens"
OPTIM_LEARNING_RATE = "optim/learning_rate"
REGULARIZER_PREFIX = "reg/"
"""What regularizers report comes under this prefix and their names."""
OPTIM_PREFIX = "optim/"
"""What the service reports of an optimizer step comes under this prefix."""
PROGRESS_EPOCH = "progress/epoch"
"""Epochs done, with their fraction."""
PROGRESS_FRACTION = "progress/fraction"
"""Part of the run that is done, 0 to 1."""
PROGRESS_NUM_TOKENS = "progress/num_tokens"
"""Input tokens that the run has trained on."""
TIME_STEP_S = "time/step_s"
TIME_EVAL_S = "time/eval_s"
THROUGHPUT_TOKENS_PER_S = "throughput/tokens_per_s"

MEASURED_PREFIXES = ("time/", "throughput/")
"""Metrics that differ between two runs that are the same in every other respect."""


def of_set(metric: str, name: str) -> str:
    """A metric of one of several held-out sets: `eval/nll` of `chats` is `eval/chats/nll`."""
    area, _, rest = metric.partition("/")
    return f"{area}/{name}/{rest}" if name else metric
