"""Mutations that know FITS: cards, structure, cells of tables and descriptors of heaps.

The walker here is its own, and forgiving: what it cannot follow ends the list of HDUs.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from fuzz.mutations import Mutator, Rng, integer, pick

BLOCK, CARD = 2880, 80
STRUCTURE = re.compile(
    rb"BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TFIELDS|T(FORM|TYPE|DIM|ZERO|SCAL|NULL)\d+|THEAP|"
    rb"Z(NAXIS|TILE|BITPIX|CMPTYPE|IMAGE|NAME|VAL|QUANTIZ)\d*|XTENSION|EXTNAME|SIMPLE"
)
NUMBERS = ("0", "1", "-1", "1E18", "NAN", "T", "F", "1.5", "1D400", "(1,2)", "0x10", "")
NUMBERS += ("999999999", "99999999999999999999", "2147483647", "-2147483648", "60000000", "4000000")
TEXTS = ("'" + "A" * 60 + "'", "''", "'", "'&'", "'\x7f\x00'", "'../../etc/passwd'", "'NaN'")
FORMS = ("999999999E", "1PE(99999999)", "0A", "1QJ(5)", "-5J", "E" * 40, "99999X", "1C", "1M", "?")
FORMS += ("1PB", "0J", "2147483647A", "1L", "8A", "1PJ(-1)", "1J", "1D", "1K", "1E", "4000000E")
DIMS = ("(1000000,1000000)", "(0)", "(-1,4)", "(2,2)", "(", "(1" + ",1" * 25 + ")")
COMPRESSIONS = ("RICE_1", "GZIP_1", "GZIP_2", "PLIO_1", "HCOMPRESS_1", "NOCOMPRESS", "EVIL", "")
EXTENSIONS = ("IMAGE", "BINTABLE", "TABLE", "A3DTABLE", "FOO", "")
EXTRA = ("BZERO", "BSCALE", "BLANK", "ZBLANK", "ZSCALE", "ZZERO", "TSCAL1", "TZERO1", "TNULL1")
EXTRA += ("TDIM1", "THEAP", "ZVAL1", "ZVAL2", "ZNAME1", "ZQUANTIZ", "INHERIT", "GROUPS", "EXTEND")
EXTRA += ("TDIM2", "TSCAL2", "TZERO2", "CHECKSUM", "DATASUM", "HIERARCH A B", "HPXPIXEL", "TILEID")


@dataclass(frozen=True)
class Hdu:
    """Where a header and its data begin and end."""

    start: int
    data: int
    end: int
    cards: tuple[bytes, ...]

    def number(self, name: str, default: int = 0) -> int:
        """Return the value of an integer card."""
        for card in self.cards:
            if card[:8].rstrip() == name.encode():
                found = re.match(rb"\s*(-?\d+)", card[10:])
                return int(found[1]) if found else default
        return default


def walk(data: bytes) -> list[Hdu]:
    """Return the HDUs of a file, as far as they can be told."""
    found: list[Hdu] = []
    start = 0
    while start + BLOCK <= len(data) and len(found) < 40:
        cards, place = [], start
        while place + CARD <= len(data) and data[place : place + 8] != b"END     ":
            cards.append(data[place : place + CARD])
            place += CARD
        if place + CARD > len(data):
            break
        begin = start + -(-(place + CARD - start) // BLOCK) * BLOCK
        hdu = Hdu(start, begin, begin, tuple(cards))
        axes = [hdu.number(f"NAXIS{k + 1}") for k in range(min(hdu.number("NAXIS"), 9))]
        size = abs(hdu.number("BITPIX")) // 8 if axes else 0
        for axis in axes:
            size *= axis
        size += hdu.number("PCOUNT") if axes else 0
        end = begin + -(-size // BLOCK) * BLOCK
        if size < 0 or end > len(data) + BLOCK:
            end = len(data)
        found.append(Hdu(start, begin, min(end, len(data)), tuple(cards)))
        start = end
    return found


def _header(cards: list[bytes], end: bool = True) -> bytes:
    text = b"".join(card[:CARD].ljust(CARD) for card in cards) + (
        b"END".ljust(CARD) if end else b""
    )
    return text + b" " * (-len(text) % BLOCK)


def _with_cards(data: bytes, hdu: Hdu, cards: list[bytes], end: bool = True) -> bytes:
    return data[: hdu.start] + _header(cards, end) + data[hdu.data :]


def _value(name: bytes, rng: Rng) -> str:
    """Draw a hostile value for a card."""
    known = {b"TFORM": FORMS, b"TDIM": DIMS, b"ZCMPTYPE": COMPRESSIONS, b"XTENSION": EXTENSIONS}
    for start, choices in known.items():
        if name.startswith(start) and rng.random() < 0.8:
            return f"'{pick(rng, choices):8s}'"
    if name.startswith(b"BITPIX") and rng.random() < 0.8:
        return f"{pick(rng, (8, 16, 32, 64, -32, -64, 7, 0, -8))}"
    if rng.random() < 0.3:
        return str(integer(rng))
    return str(pick(rng, NUMBERS if rng.random() < 0.75 else TEXTS))


def _card(name: bytes, value: str) -> bytes:
    return name.ljust(8) + b"= " + value.rjust(20).encode("latin-1")


def _edit(data: bytes, rng: Rng, only: re.Pattern[bytes] | None) -> bytes:
    hdus = walk(data)
    if not hdus:
        return data
    hdu = pick(rng, hdus)
    cards = list(hdu.cards)
    places = [
        k
        for k, card in enumerate(cards)
        if card[8:10] == b"= " and (only is None or only.fullmatch(card[:8].rstrip()))
    ]
    for _ in range(int(pick(rng, (1, 1, 2))) if places else 0):
        place = pick(rng, places)
        name = cards[place][:8].rstrip()
        cards[place] = _card(name, _value(name, rng))
    return _with_cards(data, hdu, cards)


def card_value(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Replace the value of a card."""
    return _edit(data, rng, None)


def structure_value(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Replace the value of a card that says how the data lie."""
    return _edit(data, rng, STRUCTURE)


def card_order(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Swap, repeat, remove, garble or add cards, or leave END out."""
    hdus = walk(data)
    if not hdus:
        return data
    hdu = pick(rng, hdus)
    cards = list(hdu.cards) or [b"COMMENT"]
    a, b = (int(rng.integers(len(cards))) for _ in range(2))
    action = int(rng.integers(7))
    if action == 0:
        cards[a], cards[b] = cards[b], cards[a]
    elif action == 1:
        cards.insert(a, cards[b])
    elif action == 2:
        del cards[a]
    elif action == 3:
        k = int(rng.integers(CARD))
        cards[a] = cards[a][:k] + rng.bytes(1) + cards[a][k + 1 :]
    elif action == 4:
        name = pick(rng, EXTRA).encode()
        cards.append(_card(name, _value(name, rng)))
    elif action == 5:
        chain = [b"LONG    = 'x&'", *[b"CONTINUE  'x&'"] * 200]
        cards += pick(rng, ([b"COMMENT x"] * 2000, [b"HISTORY"] * 36, chain, [b"\0" * CARD]))
    return _with_cards(data, hdu, cards, end=action != 6)


def hdu_order(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Remove, repeat or swap HDUs, or take one from another file."""
    parts = [data[hdu.start : hdu.end] for hdu in walk(data)]
    if not parts:
        return data
    a, b = (int(rng.integers(len(parts))) for _ in range(2))
    action = int(rng.integers(5))
    if action == 0:
        del parts[a]
    elif action == 1:
        parts.insert(b, parts[a])
    elif action == 2:
        parts[a], parts[b] = parts[b], parts[a]
    elif action == 3:
        parts += [parts[a]] * int(rng.integers(2, 60))
    elif theirs := walk(other):
        hdu = pick(rng, theirs)
        parts[a] = other[hdu.start : hdu.end]
    return b"".join(parts)


def header_alone(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Keep a header and lose its data, or keep the data of another HDU behind it."""
    hdus = walk(data)
    if not hdus:
        return data
    hdu, donor = pick(rng, hdus), pick(rng, hdus)
    content = pick(rng, (b"", data[donor.data : donor.end]))
    return data[: hdu.data] + content + data[hdu.end :]


def cells(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Write extreme numbers, big-endian, into data: NaN, infinities, huge ones, integers."""
    hdus = [hdu for hdu in walk(data) if hdu.end > hdu.data]
    if not hdus:
        return data
    hdu, changed = pick(rng, hdus), bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        form = pick(rng, ("f", "d", "i", "q"))
        real = (float("nan"), float("inf"), -float("inf"), 3e38, -1.0, 0.0, 1e-45)
        width = struct.calcsize(form)
        value = pick(rng, real) if form in "fd" else _wrapped(integer(rng), width)
        place = hdu.data + int(rng.integers(hdu.end - hdu.data)) // 4 * 4
        changed[place : place + width] = struct.pack(f">{form}", value)
    return bytes(changed[: len(data)])


def rows(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Write extreme numbers into the first row of a table: of a compressed image, its heap."""
    tables = [hdu for hdu in walk(data) if any(c[:8] == b"TFIELDS " for c in hdu.cards)]
    if not tables:
        return data
    hdu, changed = pick(rng, tables), bytearray(data)
    row = hdu.number("NAXIS1") * int(rng.integers(max(1, min(hdu.number("NAXIS2"), 8))))
    for _ in range(int(rng.integers(1, 4))):
        width = int(pick(rng, (4, 4, 8)))
        place = hdu.data + row + int(rng.integers(4)) * 4
        value = integer(rng) if rng.random() < 0.7 else int(rng.integers(200))
        changed[place : place + width] = (value % 256**width).to_bytes(width, "big")
    return bytes(changed[: len(data)])


def _wrapped(value: int, width: int) -> int:
    half = 256**width // 2
    return (value + half) % (2 * half) - half


MUTATORS: tuple[Mutator, ...] = (
    card_value,
    structure_value,
    structure_value,
    card_order,
    hdu_order,
    header_alone,
    cells,
    rows,
)
