"""The engine: many LoRA adapters trained and sampled over one frozen base model."""
