"""Callbacks of other people's trainers: `integrations.transformers`, `integrations.lightning`."""
