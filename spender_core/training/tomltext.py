"""Plain data written as TOML, which the standard library only reads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPED = re.compile('[\x00-\x1f"\\\\\x7f]')
_SHORT = {"\n": "\\n", "\t": "\\t", '"': '\\"', "\\": "\\\\"}


def written(content: Mapping[str, Any]) -> str:
    """Return a table of numbers, strings, booleans, lists and tables as TOML text.

    Entries that are None are left out. Lists within lists, and tables within those, are inline.
    """
    return "\n".join(_table(content, ())).strip() + "\n"


def _table(content: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """Yield the lines of a table: first its own values, then the tables in it."""
    present = {key: value for key, value in content.items() if value is not None}
    later = {key: value for key, value in present.items() if _is_block(value)}
    for key, value in present.items():
        if key not in later:
            yield f"{_key(key)} = {_value(value)}"
    for key, value in later.items():
        inside = (*path, key)
        header = ".".join(map(_key, inside))
        if isinstance(value, Mapping):
            yield f"\n[{header}]"
            yield from _table(value, inside)
            continue
        for entry in value:
            yield f"\n[[{header}]]"
            yield from _table(entry, inside)


def _is_block(value: Any) -> bool:
    """Tell whether a value gets a header of its own."""
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(one, Mapping) for one in value)
    return isinstance(value, Mapping)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _string(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(key)} = {_value(one)}" for key, one in value.items())
        return f"{{{inner}}}"
    return repr(value)


def _string(text: str) -> str:
    return f'"{_ESCAPED.sub(_escape, text)}"'


def _escape(found: re.Match[str]) -> str:
    character = found.group()
    return _SHORT.get(character, f"\\u{ord(character):04x}")
