"""The engine: many LoRA adapters trained and sampled over one frozen base model.

Its names are imported from their modules (`engine.engine.Engine`, the jobs of `engine.jobs`), so
that a process which only hands jobs over does not load torch.
"""

__all__: list[str] = []
