"""The families whose rendering is proved, one module each with its `FAMILIES`.

A new family is a module here: its rows, and the golden conversations that it refuses or writes
otherwise on purpose, each with its reason.
"""

import importlib
import pkgutil

from tests.unit.renderers.families.family import GOLDEN, NOW, Family, fitted, standin, template_of

FAMILIES: tuple[Family, ...] = tuple(
    family
    for found in sorted(pkgutil.iter_modules(__path__), key=lambda found: found.name)
    if found.name != "family"
    for family in importlib.import_module(f"{__name__}.{found.name}").FAMILIES
)

PROVED = tuple(family for family in FAMILIES if family.template)
"""Those whose template is at hand; the others keep the promises of every family, no more."""

__all__ = ["FAMILIES", "GOLDEN", "NOW", "PROVED", "Family", "fitted", "standin", "template_of"]
