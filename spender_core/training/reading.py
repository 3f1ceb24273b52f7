"""Recipes read from TOML, changed by settings, and refused with what would be right."""

from __future__ import annotations

import difflib
import os
import tomllib
import types
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from spender_core.errors import FileError, InputError, MissingFileError
from spender_core.records import printable

M = TypeVar("M", bound=BaseModel)

_LONGEST = 1 << 20
"""Bytes of a recipe; those of spender have some thousand."""

_QUOTES = "'\""

_SHOWN = 5
"""Faults that a message lists."""

_KINDS = {
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a string",
}
"""What pydantic calls by names of Python."""

_INSTEAD = {"steps": "epochs", "epochs": "steps"}
"""Of a phase: setting one takes the other away."""


def packaged() -> tuple[str, ...]:
    """Return the names of the recipes that come with spender."""
    folder = resources.files("spender_core.training") / "recipes"
    names = (file.name for file in folder.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def text_of(source: str | os.PathLike[str]) -> tuple[str, str]:
    """Return the text of a recipe, by name or path, and how to name it in messages."""
    name = os.fspath(source)
    try:
        if name in packaged() and not Path(name).is_file():
            folder = resources.files("spender_core.training") / "recipes"
            return (folder / f"{name}.toml").read_text(encoding="utf-8"), f"recipe {name}"
        with Path(name).open("rb") as file:
            data = file.read(_LONGEST + 1)
        if len(data) > _LONGEST:
            raise FileError(f"{name} has more than {_LONGEST} bytes; that is no recipe")
        return data.decode("utf-8"), name
    except (FileNotFoundError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise FileError(f"{name} is not UTF-8 text, as a recipe is: {error.reason}") from error
        near = _nearest(name, packaged())
        raise MissingFileError(
            f"there is no recipe {printable(name)!r}.{near} Give the path of a TOML file, or one of "
            f"those that come with spender: {', '.join(packaged())}"
        ) from error
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"cannot read the recipe {name}: {error.strerror}") from error


def parsed(text: str, source: str) -> dict[str, Any]:
    """Return the content of TOML text."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputError(f"{source} is not TOML: {printable(reason)}") from error


def check_version(content: Mapping[str, Any], source: str, version: int) -> None:
    """Refuse a recipe of another version, before anything else of it is judged."""
    given = content.get("recipe")
    if given == version and not isinstance(given, bool | float):
        return
    if given is None:
        raise InputError(
            f"{source} does not say of which version it is; put `recipe = {version}` at its top, "
            f"the only version that this spender reads"
        )
    newer = isinstance(given, int) and given > version
    todo = (
        "install a spender that reads it (pip install --upgrade spender-core), or write the recipe "
        f"anew as version {version}"
        if newer
        else f"put `recipe = {version}` at its top, and check its keys against the documentation"
    )
    raise InputError(
        f"{source} is a recipe of version {_shown(given)}; this spender reads version {version} "
        f"only: {todo}"
    )


def validated(model: type[M], content: Mapping[str, Any], source: str) -> M:
    """Return the model of plain data.

    Raises:
        InputError: It is not valid; keys, values, and what is allowed are named.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        lines = [_fault(model, one) for one in faults[:_SHOWN]]
        if len(faults) > _SHOWN:
            lines.append(f"and {len(faults) - _SHOWN} more")
        raise InputError(f"{source} cannot be used: " + "; ".join(lines)) from error


def overridden(model: type[BaseModel], content: Mapping[str, Any], setting: str) -> dict[str, Any]:
    """Return a copy of plain data with one value replaced, typed as the model wants it.

    Args:
        model: The model of the data.
        content: The data.
        setting: As "phases.0.steps=100"; "none" takes an optional value away.

    Raises:
        InputError: There is no such key, or the value is not of its type.
    """
    dotted, equals, text = setting.partition("=")
    path = [part.strip() for part in dotted.strip().split(".")]
    if not equals or not all(path):
        raise InputError(f"{setting!r:.200} is no setting; write it as phases.0.steps=100")
    made: dict[str, Any] = _replaced(model, content, path, text.strip(), ())
    return made


def _replaced(kind: Any, content: Any, path: list[str], text: str, before: tuple[str, ...]) -> Any:
    """Return plain data with the value at a path replaced; `kind` is the type of the data."""
    kind, key, rest = _unwrapped(kind), path[0], path[1:]
    here = (*before, key)
    if isinstance(content, list | tuple):
        if not key.isdecimal() or int(key) >= len(content):
            raise InputError(
                f"no entry {'.'.join(here)}: the recipe has {len(content)} of {'.'.join(before)}, "
                "counted from 0; a list of numbers is set as a whole"
            )
        entries = list(content)
        inner = next(iter(get_args(kind)), Any)
        entries[int(key)] = (
            _replaced(inner, entries[int(key)], rest, text, here) if rest else _typed(inner, text)
        )
        return entries
    if _is_model(kind):
        if key not in kind.model_fields:
            raise InputError(_unknown_key(here, kind))
        inner = kind.model_fields[key].rebuild_annotation()
    else:
        inner = get_args(kind)[1] if get_origin(kind) is dict else Any
    made = dict(content) if isinstance(content, Mapping) else {}
    if before and before[0] == "phases" and not rest:
        made.pop(_INSTEAD.get(key, ""), None)
    if rest:
        empty: Any = [] if get_origin(_unwrapped(inner)) is tuple else {}
        made[key] = _replaced(inner, made.get(key, empty), rest, text, here)
    elif text == "none" and type(None) in get_args(inner):
        made.pop(key, None)
    else:
        made[key] = _typed(inner, text)
    return made


def _typed(kind: Any, text: str) -> Any:
    """Return the value that a text stands for where a type is wanted."""
    kind = _unwrapped(kind)
    if kind is str:
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
        return text[1:-1] if quoted else text
    if get_origin(kind) is tuple and get_args(kind)[0] is str and not text.startswith("["):
        return [word.strip() for word in text.split(",") if word.strip()]
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError, KeyError):
        return text  # a word; a value of the wrong type is refused with the rest


def _unwrapped(kind: Any) -> Any:
    """Return a type without annotations and without None as an alternative."""
    while True:
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        elif get_origin(kind) in (Union, types.UnionType):
            others = [one for one in get_args(kind) if one is not type(None)]
            if len(others) != 1:
                return Any
            kind = others[0]
        else:
            return kind


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _fault(model: type[BaseModel], fault: Any) -> str:
    """Say in one line what is wrong with a key, and what is allowed."""
    path = tuple(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return _unknown_key(path, _kind_at(model, fault["loc"][:-1]))
    if fault["type"] == "missing":
        inside = ".".join(path[:-1]) or "the recipe"
        return f"{inside} lacks {path[-1]!r}, which has no default"
    message: str = fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    allowed = _literals(_kind_at(model, fault["loc"]))
    if allowed:
        message = f"allowed are {', '.join(map(repr, allowed))}"
        message = f"{message}.{_nearest(_shown(fault['input']).strip(_QUOTES), map(str, allowed))}".rstrip(
            "."
        )
    elif not fault["msg"].startswith("Value error, "):
        message = f"it should be {_KINDS.get(fault['type'], message)}"
    if not path:
        return message
    value = (
        "" if isinstance(fault["input"], Mapping | BaseModel) else f" = {_shown(fault['input'])}"
    )
    return f"{printable('.'.join(path))}{value}: {message}"


def _kind_at(model: Any, path: Iterable[Any]) -> Any:
    """Return the type that belongs to a path in a model."""
    kind = _unwrapped(model)
    for part in path:
        if _is_model(kind):
            field = kind.model_fields.get(str(part))
            inner = field.rebuild_annotation() if field is not None else Any
        else:
            arguments = get_args(kind)
            inner = arguments[-1 if get_origin(kind) is dict else 0] if arguments else Any
        kind = _unwrapped(inner)
    return kind


def _literals(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) is Literal else ()


def _unknown_key(path: tuple[str, ...], kind: Any) -> str:
    allowed = list(kind.model_fields) if _is_model(kind) else []
    where = ".".join(path[:-1]) or "a recipe"
    return (
        f"unknown key {printable('.'.join(path))!r:.200}.{_nearest(path[-1], allowed)} Keys of "
        f"{printable(where):.100} are {', '.join(allowed)}"
    )


def _nearest(name: str, allowed: Iterable[str]) -> str:
    near = difflib.get_close_matches(name[:100], list(allowed), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def _shown(value: Any) -> str:
    try:
        text = printable(repr(value))
    except ValueError:  # of an integer with more digits than Python writes
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."
