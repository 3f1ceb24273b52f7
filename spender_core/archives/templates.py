"""Templates of paths and URLs, such as `{run2d}/{plate:04d}/spPlate-{plate:04d}-{mjd}.fits`.

They come from data, also the user's own, and are filled with what users ask for, so both are
distrusted: a field is a bare name, with the format of a number at most, and what fills it cannot
lead out of the folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Formatter
from typing import Annotated

from pydantic import AfterValidator

from spender_core.archives.location import redacted
from spender_core.errors import InputError
from spender_core.records import printable

Value = str | int | float

_FIELD = re.compile(r"[a-z][a-z0-9_]*")
_FORMAT = re.compile(r"(0?\d{1,2}d|\.\d{1,2}[fg])?")
_TEXT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_LONGEST = 100


def fields_of(template: str) -> list[str]:
    """Return the names of a template's fields.

    Raises:
        ValueError: It is malformed, or asks for more than a value by its name.
    """
    found = []
    for _, name, form, conversion in Formatter().parse(template):
        if name is None:
            continue
        if not _FIELD.fullmatch(name) or not _FORMAT.fullmatch(form or "") or conversion:
            raise ValueError(
                f"{template!r:.200}: a field is a name in braces, with the format of a number "
                "if need be, e.g. {plate:04d}"
            )
        found.append(name)
    return found


def _path(template: str) -> str:
    fields_of(template)
    parts = template.split("/")
    if not template.isprintable() or re.search(r"[\\?#]|://", template):
        raise ValueError(f"{template!r:.200} is not a path below the root, with / between folders")
    if "" in parts or {".", ".."} & set(parts):
        raise ValueError(
            f"{template!r:.200} must stay below the root: it may not begin or end with /, nor "
            "have the parts . and .."
        )
    return template


def _url(template: str) -> str:
    fields_of(template)
    if not template.isprintable() or not re.match(r"https?://[^/{}@]+/", template):
        raise ValueError(
            f"{printable(redacted(template))!r:.200} is not the URL of a service, http:// or https:// "
            "and a host, without a login"
        )
    return template


PathTemplate = Annotated[str, AfterValidator(_path)]
"""A path below a root."""

UrlTemplate = Annotated[str, AfterValidator(_url)]
"""A URL, whose host is fixed."""


def fill(template: str, values: Mapping[str, Value]) -> str:
    """Put values into a template.

    Args:
        template: One that was checked.
        values: For each field a number, or text of letters, digits and `_.+-` that begins with
            none of `.+-`. More than there are fields is allowed.

    Raises:
        InputError: A value is missing, or not of this kind.
    """
    for name, value in values.items():
        if isinstance(value, str) and not is_part(value):
            raise InputError(
                f"{name} {value[:_LONGEST]!r} may only have letters, digits and underscores, and "
                "between them '.', '+' and '-'"
            )
    try:
        return template.format_map(dict(values))
    except KeyError as error:
        raise InputError(f"{template} needs {error.args[0]}; given are {list(values)}") from None
    except ValueError as error:
        raise InputError(
            f"{template} cannot be filled with {dict(values)!r:.200}: {error}"
        ) from None


def is_part(text: str) -> bool:
    """Tell whether text can stand in a path without leading elsewhere."""
    return len(text) <= _LONGEST and ".." not in text and _TEXT.fullmatch(text) is not None
