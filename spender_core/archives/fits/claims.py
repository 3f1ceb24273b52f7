"""What a FITS file claims to hold, checked against its size before anything is allocated.

A header may claim any size. Here the headers are walked once, with little memory, and
refused where the file cannot hold what they claim. The rules are those of the FITS standard
4.0 (Pence et al. 2010, A&A 524, A42, and its updates), with bounds where it has none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

from spender_core.archives.fits.tiles import (
    GZIP,
    LARGEST,
    RICE,
    Column,
    Heap,
    Tiles,
    check_tiles,
)
from spender_core.errors import DamagedFileError

BLOCK = 2880
"""Bytes; everything in a FITS file comes in blocks of this size."""

MOST_HDUS = 1000
MOST_BLOCKS = 100
"""Largest header of an HDU, in blocks: 3600 cards."""

MOST_HEADERS = 2 << 20
"""Bytes of all headers together, beyond a quarter of the file."""

MOST_TILES = 30_000
"""Tiles of a compressed image."""

ITEM = dict(zip("LXBIJKAEDCMPQ", (1, 1, 1, 2, 4, 8, 1, 4, 8, 8, 16, 8, 16), strict=True))
"""Bytes of an element of a table's column; of X, of 8 elements."""

_STRUCTURE = re.compile(
    r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|GROUPS|TFIELDS|TFORM\d+|TTYPE\d+|THEAP|ZIMAGE|"
    r"ZCMPTYPE|ZBITPIX|ZNAXIS\d*|ZTILE\d+|ZNAME\d+|ZVAL\d+|ZQUANTIZ|ZDITHER0"
)
_VALUE = re.compile(
    r" *(?:(?P<text>'(?:[^']|'')*')|(?P<number>[+-]?\d{1,18})|(?P<logical>[TF])|"
    r"(?P<real>[+-]?[\d.]+(?:[EeDd][+-]?\d+)?)) *(?:/.*)?"
)
_FORM = re.compile(r"(\d{0,12})([LXBIJKAEDCMPQ])(.*)")

Value = int | bool | str | float


@dataclass(frozen=True)
class Claim:
    """An HDU: its place in the file, its structural keywords, where its data are."""

    number: int
    keys: Mapping[str, Value]
    start: int
    size: int

    def whole(self, key: str, default: int | None = None, low: int = 0) -> int:
        """Return a whole number of the header, at least `low`."""
        value = self.keys.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise DamagedFileError(
                f"HDU {self.number} has {key} = {value!r}, not a whole number >= {low}"
            )
        return value

    def text(self, key: str) -> str:
        """Return a string of the header, "" if it is absent."""
        value = self.keys.get(key, "")
        if not isinstance(value, str):
            raise DamagedFileError(f"HDU {self.number} has {key} = {value!r}, not a string")
        return value.strip()


def check(file: BinaryIO, size: int, contents: bool = True) -> None:
    """Refuse a file whose headers claim what it cannot hold.

    Args:
        file: The file, which can be read at any place.
        size: Its size, bytes.
        contents: Look at compressed images too, and where their pieces lie.

    Raises:
        DamagedFileError: It claims too much, or is no FITS file.
    """
    for claim in walk(file, size):
        if claim.text("XTENSION") not in ("BINTABLE", "A3DTABLE"):
            continue
        columns = columns_of(claim)
        if claim.keys.get("ZIMAGE", False) is not False:
            tiles = tiles_of(claim, size)
            if contents:
                check_tiles(file, heap_of(claim, columns), tiles)
        elif contents and any(column.variable for column in columns):
            heap_of(claim, columns).check(file)


def walk(file: BinaryIO, size: int) -> Iterator[Claim]:
    """Yield the HDUs of a file, each with its data inside of the file."""
    position = headers = number = 0
    while position < size:
        if number == MOST_HDUS:
            raise DamagedFileError(f"it has more than {MOST_HDUS} HDUs")
        keys, length = _header(file, position, number)
        headers += length
        if headers > MOST_HEADERS + size // 4:
            raise DamagedFileError(f"its headers take {headers} of {size} bytes")
        claim = Claim(number, keys, position + length, 0)
        data = data_size(claim)
        end = claim.start + -(-data // BLOCK) * BLOCK
        if end > size:
            raise DamagedFileError(
                f"HDU {number} claims {data} bytes of data from byte {claim.start} on, and the file "
                f"has {size}: it is truncated, or its header is damaged"
            )
        yield Claim(number, keys, claim.start, data)
        position, number = end, number + 1


def _header(file: BinaryIO, position: int, number: int) -> tuple[dict[str, Value], int]:
    """Return the structural keywords of the header at a position, and its length."""
    keys: dict[str, Value] = {}
    first = b"SIMPLE  =" if number == 0 else b"XTENSION="
    for block in range(MOST_BLOCKS):
        file.seek(position + block * BLOCK)
        content = file.read(BLOCK)
        if block == 0 and not content.startswith(first):
            raise DamagedFileError(
                f"at byte {position}, where HDU {number} should begin, is {content[:20]!r}"
            )
        if len(content) < BLOCK:
            raise DamagedFileError(f"the header of HDU {number} is truncated")
        if note_cards(keys, content, number):
            return keys, (block + 1) * BLOCK
    raise DamagedFileError(f"the header of HDU {number} has no END within {MOST_BLOCKS} blocks")


def note_cards(keys: dict[str, Value], content: bytes, number: int) -> bool:
    """Add the cards of blocks that tell of the structure; tell whether the header ends there.

    Raises:
        DamagedFileError: One of them has an odd form, or is there twice.
    """
    text = content.decode("latin-1")
    for start in range(0, len(text), 80):
        name = _structural(text[start : start + 8])
        if name == "END":
            if not text[start + 3 : start + 80].strip():
                return True
        elif name:
            _note(keys, name, text[start : start + 80], number)
    return False


@lru_cache(maxsize=4096)
def _structural(start: str) -> str:
    """Return the name of a card that begins like this, "" if it tells nothing of the structure."""
    if start.rstrip() == "END":
        return "END"
    name = start.partition("=")[0].strip().upper()
    return name if _STRUCTURE.fullmatch(name) else ""


def _note(keys: dict[str, Value], name: str, card: str, number: int) -> None:
    value = _stated(card, name)
    if value is None or name in keys:
        raise DamagedFileError(
            f"HDU {number} has the card {card.strip()!r:.90}, malformed or repeated"
        )
    keys[name] = value


@lru_cache(maxsize=4096)
def _stated(card: str, name: str) -> Value | None:
    """Return the value of a card, None if it is malformed; columns are alike in many files."""
    value = _VALUE.fullmatch(card[10:])
    if card[:10] != f"{name:8s}= " or value is None:
        return None
    if value["text"] is not None:
        return value["text"][1:-1].replace("''", "'")
    if value["number"] is not None:
        return int(value["number"])
    if value["logical"] is not None:
        return value["logical"] == "T"
    return float("nan")  # none of these keywords may be a real number


def data_size(claim: Claim) -> int:
    """Return the bytes of data of an HDU (section 4.4.1.1 and 4.4.1.2 of the standard)."""
    if claim.number == 0 and claim.keys.get("SIMPLE") is not True:
        raise DamagedFileError("its first card is not SIMPLE = T")
    if claim.keys.get("GROUPS", False) is not False:
        raise DamagedFileError(f"HDU {claim.number} holds random groups, which hold no spectra")
    bits = claim.keys.get("BITPIX")
    if bits not in (8, 16, 32, 64, -32, -64):
        raise DamagedFileError(f"HDU {claim.number} has BITPIX = {bits!r}")
    axes = claim.whole("NAXIS")
    if axes > 999:
        raise DamagedFileError(f"HDU {claim.number} has NAXIS = {axes}")
    shape = [claim.whole(f"NAXIS{axis}") for axis in range(1, axes + 1)]
    extra, copies = claim.whole("PCOUNT", 0), claim.whole("GCOUNT", 1, 1)
    if claim.text("XTENSION") in ("BINTABLE", "A3DTABLE", "TABLE") and (
        axes != 2 or bits != 8 or copies != 1 or (shape[0] == 0 and shape[1] > 0)
    ):
        raise DamagedFileError(f"HDU {claim.number} is not a table of rows and columns")
    elements = math.prod(shape) if axes else 0
    return abs(int(bits)) // 8 * copies * (extra + elements)


def columns_of(claim: Claim) -> tuple[Column, ...]:
    """Return the columns of a table, which fill its rows."""
    fields, width, found = claim.whole("TFIELDS"), 0, []
    if fields > 999:
        raise DamagedFileError(f"HDU {claim.number} has TFIELDS = {fields}")
    for field in range(1, fields + 1):
        text = claim.text(f"TFORM{field}")
        form = _form(text)
        if form is None:
            raise DamagedFileError(f"HDU {claim.number} has TFORM{field} = {text!r}")
        repeat, kind, item, size = form
        found.append(Column(claim.text(f"TTYPE{field}"), kind, repeat, width, item))
        width += size
    if width != claim.whole("NAXIS1"):
        raise DamagedFileError(
            f"the columns of HDU {claim.number} take {width} bytes a row, and its NAXIS1 is "
            f"{claim.keys['NAXIS1']}"
        )
    return tuple(found)


@lru_cache(maxsize=1024)
def _form(text: str) -> tuple[int, str, int, int] | None:
    """Return elements, letter, bytes of an element in the heap, and bytes in a row of a format."""
    form = _FORM.fullmatch(text)
    if form is None or (form[2] in "PQ" and form[1] not in ("", "0", "1")):
        return None
    repeat, kind = int(form[1] or 1), form[2]
    size = -(-repeat // 8) if kind == "X" else repeat * ITEM[kind]
    return repeat, kind, ITEM.get(form[3][:1], 1), size


def heap_of(claim: Claim, columns: tuple[Column, ...]) -> Heap:
    """Return where the rows of a table and the arrays that they point to are."""
    width, rows = claim.whole("NAXIS1"), claim.whole("NAXIS2")
    start = claim.whole("THEAP", width * rows)
    if not width * rows <= start <= max(claim.size, width * rows):
        raise DamagedFileError(f"HDU {claim.number} has THEAP = {start}, outside of its data")
    return Heap(claim.number, claim.start, width, rows, start, claim.size - start, columns)


def tiles_of(claim: Claim, size: int) -> Tiles:
    """Return how an image is compressed, if it is in a way that can be checked."""
    method, axes = claim.text("ZCMPTYPE"), claim.whole("ZNAXIS", low=1)
    if claim.keys["ZIMAGE"] is not True or method not in (*GZIP, *RICE, "NOCOMPRESS"):
        raise DamagedFileError(
            f"HDU {claim.number} is compressed with {method!r}; only {', '.join(GZIP)} and RICE_1 "
            "are read. Decompress it with funpack"
        )
    if axes > 6:
        raise DamagedFileError(f"HDU {claim.number} has ZNAXIS = {axes}")
    image = tuple(claim.whole(f"ZNAXIS{k}", low=1) for k in range(1, axes + 1))
    tile = tuple(
        claim.whole(f"ZTILE{k}", image[0] if k == 1 else 1, low=1) for k in range(1, axes + 1)
    )
    bits = claim.keys.get("ZBITPIX")
    if bits not in (8, 16, 32, 64, -32, -64):
        raise DamagedFileError(f"HDU {claim.number} has ZBITPIX = {bits!r}")
    if math.prod(image) * abs(int(bits)) // 8 > size:
        raise DamagedFileError(
            f"HDU {claim.number} claims an image of {' x '.join(map(str, image))} pixels, more than "
            f"the whole file of {size} bytes; decompress it with funpack first"
        )
    whole = tuple(map(min, tile, image))
    number = math.prod(-(-n // t) for n, t in zip(image, whole, strict=True))
    if math.prod(whole) > LARGEST or number > MOST_TILES:
        raise DamagedFileError(
            f"HDU {claim.number} has {number} tiles of {math.prod(whole)} pixels; at most "
            f"{MOST_TILES} of {LARGEST} are read"
        )
    return Tiles(method, image, whole, *_settings(claim))


def _settings(claim: Claim) -> tuple[int, int]:
    """Return the pixels of a block and the bytes of a pixel, for Rice; check those of floats."""
    names = {claim.text(f"ZNAME{k}"): k for k in range(1, 10) if f"ZNAME{k}" in claim.keys}
    block, pixel = (
        claim.whole(f"ZVAL{names[name]}") if name in names else default
        for name, default in (("BLOCKSIZE", 32), ("BYTEPIX", 4))
    )
    if block not in (16, 32) or pixel not in (1, 2, 4):
        raise DamagedFileError(f"HDU {claim.number} has BLOCKSIZE = {block} and BYTEPIX = {pixel}")
    dither = claim.text("ZQUANTIZ") not in ("", "NONE", "NO_DITHER")
    if not (1 if dither else 0) <= claim.whole("ZDITHER0", 0) <= 10_000:
        raise DamagedFileError(f"HDU {claim.number} has ZDITHER0 = {claim.keys.get('ZDITHER0')}")
    return block, pixel
