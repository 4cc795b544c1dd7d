"""Pure mathematics of training: losses and learning-rate schedules.

Losses need torch and are imported by module, `tinsmith.algorithms.losses`; the schedules are here.
"""

from tinsmith.algorithms.schedules import Constant, Cosine, Linear, Schedule, make_schedule

__all__ = ["Constant", "Cosine", "Linear", "Schedule", "make_schedule"]
