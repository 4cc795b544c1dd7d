"""Data sets: conversations, comparisons and prompts from files or the Hub, checked row by row.

Seeded orders and mixtures, held-out splits, and examples made into datums.
"""

from tinsmith.data.comparisons import Comparison, read_comparisons
from tinsmith.data.conversations import (
    Conversation,
    ConversationFile,
    epoch_order,
    read_conversations,
)
from tinsmith.data.datums import BuiltDatum, datum_from_example
from tinsmith.data.hub import HubDataset, hub_rows, list_presets
from tinsmith.data.mixtures import mixture_order
from tinsmith.data.preferences import BuiltPair, PreferenceDataset
from tinsmith.data.prompts import Prompt, final_answer, read_prompts
from tinsmith.data.sources import (
    TrainingData,
    load_comparisons,
    load_training_data,
    open_conversations,
)
from tinsmith.data.supervised import ExampleCounts, SupervisedDataset, TooLong

__all__ = [
    "BuiltDatum",
    "BuiltPair",
    "Comparison",
    "Conversation",
    "ConversationFile",
    "ExampleCounts",
    "HubDataset",
    "PreferenceDataset",
    "Prompt",
    "SupervisedDataset",
    "TooLong",
    "TrainingData",
    "datum_from_example",
    "epoch_order",
    "final_answer",
    "hub_rows",
    "list_presets",
    "load_comparisons",
    "load_training_data",
    "mixture_order",
    "open_conversations",
    "read_comparisons",
    "read_conversations",
    "read_prompts",
]
