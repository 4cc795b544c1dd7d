"""A configuration model as command-line flags: defaults, then TOML files, then flags.

`parse_config` builds the flags from the fields of a pydantic model (nested models become dotted
flags), lets tyro parse them, and hands the values back to the model, so that every rule lives in
the model alone and every mistake is one line: what was wrong, what is allowed, what to type.
"""

import contextlib
import io
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from tinsmith.core.errors import ConfigError, TinsmithError, unknown_name

__all__ = ["parse_config", "read_toml_files"]

Config = TypeVar("Config", bound=BaseModel)

# Any, in this module: settings as they come from TOML and flags, before the model has checked them.
Settings = dict[str, Any]


def parse_config(
    model: type[Config],
    arguments: Sequence[str],
    *,
    settings: Mapping[str, Any],
    positional: str | None = None,
    prog: str,
    description: str,
) -> Config:
    """Return the configuration that files and flags describe together.

    Args:
        model: The configuration to build.
        arguments: The words after the command's name.
        settings: What the files said, below the flags.
        positional: The one field that is given without a flag.
        prog: The command's name in help texts.
        description: The text above the flags in `--help`.

    Raises:
        ConfigError: A flag is unknown, or a value is not allowed.
    """
    import tyro

    shape = _shape_of(model, settings, positional=positional)
    complaints = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaints):
            parsed = tyro.cli(
                shape,
                args=list(arguments),
                prog=prog,
                description=description,
                config=(tyro.conf.EnumChoicesFromValues, tyro.conf.AvoidSubcommands),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise _usage_error(complaints.getvalue(), prog) from None
    return _validated(model, asdict(parsed))


def read_toml_files(files: Sequence[Path], model: type[BaseModel]) -> Settings:
    """Return the settings of some TOML files, later files over earlier ones.

    Raises:
        ConfigError: A file is missing, is not TOML, or names a setting that does not exist.
    """
    merged: Settings = {}
    for path in files:
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                f"config={path}: {error.strerror}", field="config", hint="name a TOML file"
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"config={path}: not TOML: {error}", field="config", hint="mend that line"
            ) from error
        try:
            _check_names(content, model)
        except TinsmithError as error:
            raise ConfigError(f"{path}: {error.message}", hint=error.hint) from error
        _merge(merged, content)
    return merged


def _check_names(content: Mapping[str, Any], model: type[BaseModel], prefix: str = "") -> None:
    for name, value in content.items():
        info = model.model_fields.get(name)
        if info is None:
            raise unknown_name("setting", prefix + name, [prefix + n for n in model.model_fields])
        nested = _nested_model(info)
        if nested and isinstance(value, Mapping):
            _check_names(value, nested, f"{prefix}{name}.")


def _merge(below: Settings, above: Mapping[str, Any]) -> None:
    for name, value in above.items():
        if isinstance(value, Mapping) and isinstance(below.get(name), dict):
            _merge(below[name], value)
        else:
            below[name] = dict(value) if isinstance(value, Mapping) else value


def _nested_model(info: FieldInfo) -> type[BaseModel] | None:
    kind = info.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _shape_of(
    model: type[BaseModel],
    settings: Mapping[str, Any],
    *,
    positional: str | None = None,
    prefix: str = "",
) -> type:
    """Return a plain dataclass with the model's fields, and the settings as its defaults.

    tyro fills this instead of the model: were the model itself filled, its rules would speak
    through tyro's boxes.
    """
    required: list[Any] = []
    optional: list[Any] = []
    for name, info in model.model_fields.items():
        nested = _nested_model(info)
        if nested is not None:
            values = _nested_values(info, settings.get(name))
            inner = _shape_of(nested, values, prefix=f"{prefix}{name}.")
            optional.append((name, inner, field(default_factory=inner)))
            continue
        kind = _flag(name, info, is_positional=name == positional)
        if name in settings:
            value = _coerced(prefix + name, info, settings[name])
            if _is_table_list(info):
                value = tuple(map(str, value))
            optional.append((name, kind, field(default_factory=_constant(value))))
        elif info.is_required():
            required.append((name, kind))
        else:
            value = info.get_default(call_default_factory=True)
            optional.append((name, kind, field(default_factory=_constant(value))))
    return make_dataclass(model.__name__, [*required, *optional])


def _flag(name: str, info: FieldInfo, *, is_positional: bool) -> Any:
    """Return a field's type with what tyro should know about its flag."""
    import tyro

    if is_positional:
        described = tyro.conf.arg(help=info.description, metavar=name.upper())
        return tyro.conf.Positional[Annotated[info.annotation, described]]
    # A flag cannot hold a table: it is written as in TOML, and the model reads the text.
    kind = tuple[str, ...] if _is_table_list(info) else info.annotation
    return Annotated[kind, tyro.conf.arg(help=info.description)]


def _is_table_list(info: FieldInfo) -> bool:
    """Whether a field is a list of tables, as `[[name]]` in TOML."""
    items = get_args(info.annotation) if get_origin(info.annotation) is tuple else ()
    return bool(items) and isinstance(items[0], type) and issubclass(items[0], BaseModel)


def _nested_values(info: FieldInfo, given: Any) -> Settings:
    """Return a nested model's default values with the settings of a file above them."""
    below = info.get_default(call_default_factory=True)
    values: Settings = below.model_dump() if isinstance(below, BaseModel) else {}
    return values | dict(given or {})


def _constant(value: Any) -> Any:
    return lambda: value


def _coerced(name: str, info: FieldInfo, value: Any) -> Any:
    """Return a setting of a file as the type that its field has."""
    try:
        kind: Any = info.annotation
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise _config_error(error, place=name, value=value) from error


def _validated(model: type[Config], values: Settings) -> Config:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        cause = (error.errors()[0].get("ctx") or {}).get("error")
        if isinstance(cause, TinsmithError):
            raise cause from error
        raise _config_error(error) from error


def _config_error(
    error: ValidationError, *, place: str | None = None, value: Any = None
) -> ConfigError:
    """Return the first mistake that pydantic found, in the house's form."""
    first = error.errors()[0]
    if place is None:
        place, value = ".".join(str(part) for part in first["loc"]), first["input"]
    text = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
    shown = f"{place}: " if not place or isinstance(value, Mapping) else f"{place}={value}: "
    # Of a list of tables the flag is the list.
    flag = "--" + re.split(r"\.\d", place)[0].replace("_", "-")
    return ConfigError(shown + text, field=place, hint=f"change {flag}")


def _usage_error(complaints: str, prog: str) -> ConfigError:
    """Return tyro's boxed complaint as one line and a hint."""
    blocks: list[list[str]] = [[]]
    for line in complaints.splitlines():
        text = line.strip().strip("│").strip()
        if not text or text[0] in "╭╰":
            continue
        if set(text) == {"─"}:
            blocks.append([])
        else:
            blocks[-1].append(text)
    if blocks[0] and blocks[0][0].startswith("Missing from"):
        blocks[0] = ["missing:", *(line for line in blocks[0][1:] if "(required)" not in line)]
    message = " ".join(blocks[0]).rstrip(":") or "the command line could not be read"
    suggestions = [
        line.split()[0]
        for block in blocks[1:]
        if block and block[0].startswith("Perhaps you meant")
        for line in block
        if line.startswith("--")
    ]
    hint = f"did you mean {suggestions[0]}?" if suggestions else f"see {prog} --help"
    message = message[0].lower() + message[1:]
    return ConfigError(message, hint=hint)
