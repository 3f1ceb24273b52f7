"""The header of a safetensors file, checked before anything is allocated.

A file begins with the length of its header, 8 bytes, little-endian. The header is JSON:
for each tensor its type, shape and the bytes it takes of the data that follow, and
strings under `__metadata__`. See https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, BinaryIO

from spender_core.archives.location import is_page
from spender_core.errors import WeightsError
from spender_core.records import printable

LONGEST_HEADER = 2**20
"""Bytes of a header. Those of the published models take some 4000."""
MOST_TENSORS = 4_000

ITEM_SIZES = {
    "BOOL": 1,
    **{"U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8},
    **{"F16": 2, "BF16": 2, "F32": 4, "F64": 8},
}
"""Bytes of one element of each type."""

_METADATA = "__metadata__"
_MOST_DIMENSIONS = 16
_MOST_ELEMENTS = 2**48

_CONTENTS = (
    (b"PK\x03\x04", "is a zip archive, such as torch writes; such files end in .pt"),
    (b"SIMPLE  =", "is a FITS file, which holds spectra rather than weights"),
    (b"version https://git-lfs", "is a pointer of Git LFS; download the file it stands for"),
    (b"\x1f\x8b", "is compressed with gzip; unpack it first"),
    (b"\x80", "is a bare pickle, which could run code"),
)


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies in the data of a file, and what it is."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """A header that agrees with its file in every byte.

    Attributes:
        metadata: The strings stored beside the tensors.
        entries: The tensors, by name.
        data: Where their data begin, in bytes from the start of the file.
    """

    metadata: dict[str, str]
    entries: dict[str, Entry]
    data: int


def read_header(file: BinaryIO, size: int) -> Header:
    """Read the header of a file of `size` bytes, opened at its start.

    Raises:
        WeightsError: It is no safetensors file, or does not agree with its size. The
            message continues "... is not a readable safetensors file: ".
    """
    head = file.read(64)
    if len(head) < 8:
        raise WeightsError(f"it has {size} bytes, too few for a header; download it again")
    length = int.from_bytes(head[:8], "little")
    if length > min(size - 8, LONGEST_HEADER) or length < 2:
        raise WeightsError(content_of(head) or _wrong_length(length, size))
    file.seek(8)
    raw = file.read(length)
    if raw.count(b"{") > 2 * MOST_TENSORS or raw.count(b"[") > 4 * MOST_TENSORS:
        raise WeightsError(f"its header lists more than {MOST_TENSORS} tensors")
    try:
        content = strict_json(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = printable(str(error)[:200]) or type(error).__name__
        raise WeightsError(content_of(head) or f"its header is no JSON: {reason}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"its header is a {type(content).__name__}, not an object")
    metadata = _strings(content.pop(_METADATA, {}))
    if len(content) > MOST_TENSORS:
        raise WeightsError(f"its header lists more than {MOST_TENSORS} tensors")
    entries = {name: _entry(name, value) for name, value in content.items()}
    _check_offsets(entries, size - 8 - length)
    return Header(metadata, entries, 8 + length)


def content_of(head: bytes) -> str:
    """Return what the first bytes of a file tell that it is, as "is a ...", or nothing."""
    for magic, content in _CONTENTS:
        if head.startswith(magic):
            return f"it {content}"
    if is_page(head):
        return "it is a web page: the address does not give the file itself, or needs a login"
    return ""


def begins_header(head: bytes) -> bool:
    """Tell whether a file may be a safetensors file, by its first bytes."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= LONGEST_HEADER


def strict_json(text: str) -> Any:
    """Parse JSON that names nothing twice.

    Raises:
        ValueError: It is malformed, or an object has two values of one name.
        RecursionError: It is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in made if names.count(name) > 1)
        raise ValueError(f"{printable(twice[:80])!r} is given twice")
    return made


def _wrong_length(length: int, size: int) -> str:
    if length > LONGEST_HEADER:
        return f"its header claims {length} bytes, allowed are {LONGEST_HEADER}"
    return f"its header claims {length} bytes, of {size} in the file; download it again"


def _strings(metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise WeightsError(f"its {_METADATA} must be strings by name")
    return metadata


def _entry(name: str, value: Any) -> Entry:
    shown = printable(name[:80])
    if not name or shown != name:
        raise WeightsError(f"a tensor has the name {shown!r}, which is not printable or too long")
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise WeightsError(f"tensor {name!r} must have dtype, shape and data_offsets, no more")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
        given = printable(str(dtype)[:20])
        raise WeightsError(
            f"tensor {name!r} is of type {given!r}; known are {', '.join(ITEM_SIZES)}"
        )
    if not _counts(shape) or len(shape) > _MOST_DIMENSIONS:
        raise WeightsError(f"the shape of tensor {name!r} must be whole numbers, not negative")
    if math.prod(max(n, 1) for n in shape) > _MOST_ELEMENTS:
        raise WeightsError(f"the shape of tensor {name!r} is beyond all bounds")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise WeightsError(f"the data_offsets of tensor {name!r} must be its first and last byte")
    if offsets[1] - offsets[0] != math.prod(shape) * ITEM_SIZES[dtype]:
        raise WeightsError(
            f"tensor {name!r} of {dtype} and shape {shape} takes "
            f"{math.prod(shape) * ITEM_SIZES[dtype]} bytes, its header gives it "
            f"{offsets[1] - offsets[0]}"
        )
    return Entry(dtype, tuple(shape), offsets[0], offsets[1])


def _counts(values: Any) -> bool:
    """Tell whether this is a list of whole numbers from 0 on."""
    return isinstance(values, list) and all(type(n) is int and n >= 0 for n in values)


def _check_offsets(entries: dict[str, Entry], size: int) -> None:
    """Check that the tensors fill the data, without overlap or gap."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != end:
            what = "overlaps the one before it" if entry.start < end else "leaves a gap before it"
            raise WeightsError(f"tensor {name!r} {what}, at byte {entry.start} of the data")
        end = entry.stop
    if end != size:
        raise WeightsError(f"its tensors take {end} bytes, but {size} follow the header")
