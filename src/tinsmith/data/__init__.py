"""Data sets: conversation files, seeded orders, held-out splits, and examples made into datums."""

from tinsmith.data.conversations import (
    Conversation,
    ConversationFile,
    epoch_order,
    read_conversations,
)
from tinsmith.data.datums import BuiltDatum, datum_from_example
from tinsmith.data.supervised import ExampleCounts, SupervisedDataset, TooLong

__all__ = [
    "BuiltDatum",
    "Conversation",
    "ConversationFile",
    "ExampleCounts",
    "SupervisedDataset",
    "TooLong",
    "datum_from_example",
    "epoch_order",
    "read_conversations",
]
