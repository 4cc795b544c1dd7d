"""Measured ratios of Tinsmith against plain transformers + PEFT: `python -m bench`.

Every figure is a comparison within one run: ours and the peer take turns on the same machine, with
the same threads and the same batch. `__main__` runs the measurements, `results` holds and shows
them; `training`, `sampling`, `service`, `memory` and `imports` each measure one thing.
"""
