"""Headers of FITS files: where each ends, what it says of the structure, and all its values.

What tells of the structure is read by the rules of `claims`. Values of other keywords are read when
they are asked for: a header of SDSS has 500 cards, of which few are needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from spender_core.archives.fits.claims import (
    BLOCK,
    MOST_BLOCKS,
    Claim,
    Value,
    columns_of,
    data_size,
    note_cards,
)
from spender_core.archives.fits.tiles import Column
from spender_core.errors import DamagedFileError

CARD = 80
"""Characters of a card."""

_END = b"END".ljust(CARD)
_REMEMBERED = 1 << 16
"""Bytes of the longest header of which the structure is remembered."""

_VALUE = re.compile(
    r" *(?:'(?P<text>(?:[^']|'')*)'|(?P<number>[+-]?\d+)(?= *(?:/|$))|(?P<logical>[TF])(?= *(?:/|$))|"
    r"(?P<real>[+-]?(?:\d+\.?\d*|\.\d+)(?:[EeDd][+-]?\d+)?)(?= *(?:/|$)))"
)
_LONG_NAME = re.compile(r"HIERARCH +([^=]*[^= ]) *=(.*)")


class Header(Mapping[str, Value]):
    """The values of a header by keyword, in capitals. The first counts of several.

    Keywords without a value, with one of a complex number or with one that cannot be understood
    are left out.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content

    @cached_property
    def _values(self) -> dict[str, Value]:
        text, found = self._content.decode("latin-1"), dict[str, Value]()
        for start in range(0, len(text), CARD):
            name = _name(text[start : start + CARD])
            if name and name not in found:
                value = _value(text, start)
                if value is not None:
                    found[name] = value
        return found

    @cached_property
    def _places(self) -> dict[bytes, int]:
        """Where the first card of each keyword is; they are found faster than read."""
        content = self._content
        starts = range(len(content) - CARD, -1, -CARD)
        return {content[start : start + 10]: start for start in starts}

    def __getitem__(self, key: str) -> Value:
        key = key.upper()
        if len(key) > 8 or " " in key:
            return self._values[key]
        place = self._places.get(f"{key:8s}= ".encode("latin-1", "replace"))
        if place is None:
            raise KeyError(key)
        value = _value(self._content[place : place + CARD].decode("latin-1"), 0)
        if value is None or (isinstance(value, str) and value.endswith("&")):
            return self._values[key]
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def number(self, key: str, default: float) -> float:
        """Return a number.

        Raises:
            DamagedFileError: It is none.
        """
        value = self.get(key, default)
        if isinstance(value, (bool, str)):
            raise DamagedFileError(f"its header has {key} = {value!r}, not a number")
        return value


@lru_cache(maxsize=32)
def _name(card: str) -> str:
    """Return the keyword of a card that has a value, else ""."""
    if card[8:10] == "= ":
        return card[:8].rstrip().upper()
    long = _LONG_NAME.match(card) if card.startswith("HIERARCH") else None
    return long[1].upper() if long else ""


def _value(text: str, start: int) -> Value | None:
    """Return the value of the card that begins there, and goes on in the next ones if it is long."""
    card = text[start : start + CARD]
    long = _LONG_NAME.match(card) if card.startswith("HIERARCH") else None
    found = _VALUE.match(long[2] if long else card[10:])
    if found is None:
        return None
    if found["number"] is not None:
        # of more digits, converting takes a time that grows with their square
        return int(found["number"][:80])
    if found["logical"] is not None:
        return found["logical"] == "T"
    if found["real"] is not None:
        return float(found["real"].upper().replace("D", "E"))
    value = found["text"].replace("''", "'").rstrip()
    while value.endswith("&"):
        start += CARD
        card = text[start : start + CARD]
        more = _VALUE.match(card[8:]) if card.startswith("CONTINUE") else None
        if more is None or more["text"] is None:
            break
        value = value[:-1] + more["text"].replace("''", "'").rstrip()
    return value


def find_header(
    read: Callable[[int, int], bytes], number: int, start: int, size: int, look: int
) -> bytes:
    """Return a header: all blocks of 2880 bytes from its start to its END.

    Args:
        read: Returns the bytes of the file from one place to another.
        number: Number of its HDU in the file.
        start: Where the header begins.
        size: Size of the file.
        look: Bytes that are looked at first.

    Raises:
        DamagedFileError: No header begins there, or it has no END.
    """
    first = b"SIMPLE  =" if number == 0 else b"XTENSION="
    while True:
        stop = min(start + min(look, MOST_BLOCKS * BLOCK), size)
        content = read(start, stop)
        if not content.startswith(first):
            raise DamagedFileError(
                f"at byte {start}, where HDU {number} should begin, is {content[:20]!r}"
            )
        place = content.find(_END)
        while place >= 0 and place % CARD:
            place = content.find(_END, place + 1)
        if place >= 0:
            length = -(-(place + CARD) // BLOCK) * BLOCK
            if length <= len(content):
                return content[:length]
            stop_needed = start + length
            if stop_needed <= size:
                return content + read(stop, stop_needed)
        if stop == size:
            raise DamagedFileError(f"the header of HDU {number} is truncated")
        if look >= MOST_BLOCKS * BLOCK:
            raise DamagedFileError(
                f"the header of HDU {number} has no END within {MOST_BLOCKS} blocks"
            )
        look *= 4


@dataclass
class Layout:
    """What a header says of the structure of its HDU.

    Attributes:
        number: Number of the HDU in the file.
        keys: The structural keywords.
        size: Bytes of its data.
        header: All its values.
        table: What `fields` makes of it, once it was asked for.
    """

    number: int
    keys: Mapping[str, Value]
    size: int
    header: Header
    table: Any = None

    def claim(self, start: int) -> Claim:
        """Return what it claims of data that begin at a place."""
        return Claim(self.number, self.keys, start, self.size)

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The columns of a table.

        Raises:
            DamagedFileError: They do not fill its rows.
        """
        return columns_of(self.claim(0))


def layout_of(content: bytes, number: int) -> Layout:
    """Return what a header says.

    Args:
        content: The header.
        number: Number of its HDU in the file.

    Raises:
        DamagedFileError: It is malformed.
    """
    # first headers differ from file to file
    alike = number > 0 and len(content) <= _REMEMBERED
    understand = _remembered if alike else _understood
    return understand(content, number)


def _understood(content: bytes, number: int) -> Layout:
    keys: dict[str, Value] = {}
    note_cards(keys, content, number)
    return Layout(number, keys, data_size(Claim(number, keys, 0, 0)), Header(content))


_remembered = lru_cache(maxsize=64)(_understood)
"""Tables of one kind have the same header in many files."""
