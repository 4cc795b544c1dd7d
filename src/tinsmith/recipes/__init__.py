"""Experiments ready to run, each one short file over the SDK and the training loops."""

__all__: list[str] = []
