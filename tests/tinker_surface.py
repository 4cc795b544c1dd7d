"""What of a package scripts can see: names, methods, parameters and defaults, as plain JSON.

The golden file `tests/golden/tinker_surface.json` is that of the official `tinker` package. After
a new release, in an environment that has it:

    python -m tests.tinker_surface tinker > tests/golden/tinker_surface.json
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import sys
from collections.abc import Mapping
from typing import Any

CLIENTS = (
    "ServiceClient",
    "TrainingClient",
    "SamplingClient",
    "RestClient",
    "AdminClient",
    "APIFuture",
)
REQUIRED = "required"
Surface = dict[str, Any]


def surface_of(package: str) -> Surface:
    """The public surface of `tinker`, or of a package that stands in for it."""
    module = importlib.import_module(package)
    types = importlib.import_module(f"{package}.types")
    type_names = [
        name
        for name, value in vars(types).items()
        if name[:1].isupper() and not inspect.ismodule(value)
    ]
    classes: dict[str, Any] = {name: getattr(module, name) for name in CLIENTS}
    classes["RetryConfig"] = _retry_config(package)
    classes |= {
        f"types.{name}": getattr(types, name)
        for name in type_names
        if inspect.isclass(getattr(types, name))
    }
    return {
        "package": package,
        "version": module.__version__,
        "names": sorted(module.__all__),
        "types": sorted(type_names),
        "classes": {name: _describe(value) for name, value in sorted(classes.items())},
    }


def differences(official: Surface, ours: Surface) -> dict[str, str]:
    """What a script written for one package would miss in the other, by place.

    More names, methods, and parameters that may be left out are no difference.
    """
    found = {name: "missing" for name in official["names"] if name not in ours["names"]}
    found |= {f"types.{name}": "missing" for name in official["types"] if name not in ours["types"]}
    for class_name, theirs in official["classes"].items():
        mine = ours["classes"].get(class_name)
        if mine is None:
            if class_name.removeprefix("types.") in ours["types"]:
                continue  # an alias here, which takes the same values
            found.setdefault(class_name, "missing")
            continue
        for field, default in theirs["fields"].items():
            place = f"{class_name}.{field}"
            if field not in mine["fields"]:
                if field not in mine["members"]:
                    found[place] = "missing"
            elif not _accepts(mine["fields"][field], default):
                found[place] = f"{default} there, {mine['fields'][field]} here"
        for method, parameters in theirs["methods"].items():
            place = f"{class_name}.{method}"
            own = mine["methods"].get(method)
            if own is None and method == "__init__":
                own = [[name, "keyword", default] for name, default in mine["fields"].items()]
            if own is None:
                found[place] = "missing"
            else:
                found |= _parameter_differences(place, parameters, own)
        for member in theirs["members"]:
            if member not in mine["members"] and member not in mine["fields"]:
                found[f"{class_name}.{member}"] = "missing"
    return found


def _accepts(mine: str, theirs: str) -> bool:
    """Whether a default means what the other one means; what must be given there may be given."""
    if theirs == REQUIRED or mine == theirs:
        return True
    try:
        return bool(ast.literal_eval(mine) == ast.literal_eval(theirs))  # 1 and 1.0
    except (SyntaxError, ValueError):
        return False


def _parameter_differences(
    place: str, theirs: list[list[str]], mine: list[list[str]]
) -> dict[str, str]:
    found: dict[str, str] = {}
    here = {name: (index, kind, default) for index, (name, kind, default) in enumerate(mine)}
    for index, (name, kind, default) in enumerate(theirs):
        if kind == "**":
            continue  # takes what it warns about and ignores
        if name not in here:
            found[f"{place}({name})"] = "missing"
            continue
        my_index, my_kind, my_default = here[name]
        if kind == "positional" and (my_kind != "positional" or my_index != index):
            here_is = "elsewhere" if my_kind == "positional" else my_kind
            found[f"{place}({name})"] = f"by position there, {here_is} here"
        elif not _accepts(my_default, default):
            found[f"{place}({name})"] = f"{default} there, {my_default} here"
    named = {name for name, _, _ in theirs}
    for name, kind, default in mine:
        if name not in named and default == REQUIRED and kind not in ("*", "**"):
            found[f"{place}({name})"] = "required here only"
    return found


def _retry_config(package: str) -> Any:
    home = "tinker.lib.retry_handler" if package == "tinker" else f"{package}.client"
    return importlib.import_module(home).RetryConfig


def _describe(cls: Any) -> dict[str, Any]:
    fields: Mapping[str, Any] = getattr(cls, "model_fields", {})
    methods: dict[str, Any] = {}
    members: list[str] = []
    base = set(dir(_pydantic_model())) if hasattr(cls, "model_fields") else set()
    decorators = getattr(cls, "__pydantic_decorators__", None)
    if decorators is not None:  # how a field is checked and written is no part of the surface
        base |= {*decorators.field_validators, *decorators.field_serializers}
    for name in dir(cls):
        if name.startswith("_") or name in base:
            continue
        value = inspect.getattr_static(cls, name)
        function = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
        if inspect.isfunction(function):
            is_static = isinstance(value, staticmethod)
            methods[name] = _parameters(function, skip_first=not is_static)
        elif name not in fields:
            members.append(name)
    if not hasattr(cls, "model_fields") and "__init__" in dir(cls):
        try:
            methods["__init__"] = _parameters(cls.__init__, skip_first=True)
        except (TypeError, ValueError):
            pass  # built in
    return {
        "fields": {name: _default_of(info) for name, info in sorted(fields.items())},
        "methods": dict(sorted(methods.items())),
        "members": sorted(members),
    }


def _pydantic_model() -> Any:
    return importlib.import_module("pydantic").BaseModel


def _default_of(info: Any) -> str:
    if info.is_required():
        return REQUIRED
    return repr(info.get_default(call_default_factory=True))


def _parameters(function: Any, *, skip_first: bool) -> list[list[str]]:
    kinds = {
        inspect.Parameter.POSITIONAL_ONLY: "positional",
        inspect.Parameter.POSITIONAL_OR_KEYWORD: "positional",
        inspect.Parameter.KEYWORD_ONLY: "keyword",
        inspect.Parameter.VAR_POSITIONAL: "*",
        inspect.Parameter.VAR_KEYWORD: "**",
    }
    found = list(inspect.signature(function).parameters.values())[1 if skip_first else 0 :]
    return [
        [
            parameter.name,
            kinds[parameter.kind],
            REQUIRED if parameter.default is parameter.empty else repr(parameter.default),
        ]
        for parameter in found
        if not parameter.name.startswith("_")
    ]


if __name__ == "__main__":
    json.dump(surface_of(sys.argv[1]), sys.stdout, indent=1, sort_keys=True)
    sys.stdout.write("\n")
