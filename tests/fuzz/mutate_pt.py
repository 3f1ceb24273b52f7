"""Mutations that know .pt files: a zip of a pickle and of storages, built anew with right sums.

The zip is written here, stored or as deflate of a fixed code, so that the bytes depend on no
version of a library.
"""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from fuzz.mutations import BLIND, Mutator, Rng, integer, pick

CANARY = "spender-canary"
"""What the payloads here would create in the working folder, if they ran."""

GLOBALS = (
    "os system",
    "posix system",
    "subprocess Popen",
    "builtins eval",
    "builtins exec",
    "builtins getattr",
    "builtins open",
    "builtins __import__",
    "torch.hub load",
    "torch load",
    "torch.serialization load",
    "torch.jit load",
    "torch.package PackageImporter",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_sparse_tensor",
    "torch._utils _rebuild_qtensor",
    "torch._utils _rebuild_meta_tensor_no_storage",
    "torch._utils _rebuild_nested_tensor",
    "torch._utils _rebuild_device_tensor_from_numpy",
    "torch._utils _rebuild_wrapper_subclass",
    "torch._tensor _rebuild_from_type_v2",
    "torch.storage _load_from_bytes",
    "torch.storage UntypedStorage",
    "torch UntypedStorage",
    "torch HalfStorage",
    "torch QInt8Storage",
    "torch ComplexDoubleStorage",
    "torch Size",
    "torch Tensor",
    "torch device",
    "torch.nn.parameter Parameter",
    "numpy load",
    "numpy fromfile",
    "numpy memmap",
    "numpy ndarray",
    "numpy dtype",
    "numpy.core.multiarray _reconstruct",
    "numpy.core.multiarray scalar",
    "numpy._core.multiarray _reconstruct",
    "numpy._core.multiarray scalar",
    "numpy._core.multiarray frombuffer",
    "collections OrderedDict",
    "collections Counter",
    "_codecs encode",
    "_codecs lookup",
    "pathlib PosixPath",
    "shutil rmtree",
    "importlib import_module",
)
INTS = ("BININT", "BININT1", "BININT2", "LONG1")
PAYLOADS = (
    b"cos\nsystem\n(X\x14\0\0\0touch spender-canarytR0",
    b"cbuiltins\nexec\n(X\x22\0\0\0open('spender-canary','w').close()tR0",
    b"cbuiltins\neval\n(X\x1b\0\0\0open('spender-canary', 'w')tR0",
    b"(Vtouch spender-canary\nios\nsystem\n0",
    b"(cos\nsystem\nVtouch spender-canary\no0",
    b"\x8c\x02os\x8c\x06system\x93X\x14\0\0\0touch spender-canary\x85R0",
    b"ctorch.hub\nload\n(X\x03\0\0\0x/yX\x01\0\0\0ztR0",
)
OPCODES = b"()].}0123RbcioqrsutNIJKMLGVXSPQeald\x80\x81\x85\x86\x87\x88\x89\x8a\x8b\x8c\x93\x94\x95"


@dataclass(frozen=True)
class Entry:
    """An entry of a zip: content, and how it is told of."""

    name: str
    content: bytes
    method: int = 0
    packed: bytes | None = None
    crc: int | None = None
    size: int | None = None

    @property
    def raw(self) -> bytes:
        """Return the bytes in the file."""
        return self.content if self.packed is None else self.packed


def entries(data: bytes) -> list[Entry]:
    """Return the entries of a zip, or none if it cannot be opened."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            found = [info for info in file.infolist() if info.file_size <= 4 * len(data)]
            return [Entry(info.filename, file.read(info)) for info in found]
    except Exception:  # whatever zipfile makes of damage; then the blind mutations apply
        return []


def build(parts: Sequence[Entry], align: int = 64) -> bytes:
    """Write a zip, with the contents aligned as torch aligns them."""
    out, central = bytearray(), bytearray()
    for part in parts:
        name = part.name.encode("utf-8", "surrogateescape")[:60_000]
        crc = zlib.crc32(part.content) if part.crc is None else part.crc
        size = len(part.content) if part.size is None else part.size
        fields = struct.pack("<HHHHIII", 0, part.method, 0, 33, crc, len(part.raw), size % 2**32)
        start = len(out)
        pad = -(start + 34 + len(name)) % align
        extra = b"FB" + struct.pack("<H", pad) + b"Z" * pad
        out += b"PK\3\4\x14\0" + fields + struct.pack("<HH", len(name), len(extra)) + name + extra
        out += part.raw
        central += (
            b"PK\1\2\x14\0\x14\0"
            + fields
            + struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, start)
        )
        central += name
    end = struct.pack("<HHHHIIH", 0, 0, len(parts), len(parts), len(central), len(out), 0)
    return bytes(out + central) + b"PK\5\6" + end


def stored(content: bytes) -> bytes:
    """Return a deflate stream that keeps the bytes as they are."""
    blocks = [content[k : k + 65535] for k in range(0, len(content), 65535)] or [b""]
    out = b""
    for k, block in enumerate(blocks):
        out += struct.pack("<BHH", k == len(blocks) - 1, len(block), len(block) ^ 0xFFFF) + block
    return out


def packed_zeros(runs: int) -> tuple[bytes, int]:
    """Return a deflate stream of zeros, 13 bits for 258 of them, and how many they are."""
    literal, run, end = "00110000", "11000101" + "00000", "0000000"
    bits = "1" + "10" + literal + run * runs + end
    return np.packbits(
        np.array(list(bits), dtype=np.uint8), bitorder="little"
    ).tobytes(), 1 + 258 * runs


def _pickles(parts: Sequence[Entry]) -> list[int]:
    return [k for k, part in enumerate(parts) if part.name.endswith("data.pkl")]


def _on_pickle(data: bytes, rng: Rng, edit: Mutator) -> bytes:
    """Apply a mutation to the pickle of a zip, or to a file that is no zip."""
    parts = entries(data)
    places = _pickles(parts)
    if not parts or not places:
        return edit(data, rng, data)
    place = pick(rng, places)
    parts[place] = replace(parts[place], content=edit(parts[place].content, rng, data))
    return build(parts)


def _ops(code: bytes) -> list[tuple[str, int, int]]:
    """Return opcodes with where they begin and end, as far as they can be followed."""
    found = []
    try:
        for op, _, place in pickletools.genops(code):
            found.append((op.name, place or 0))
            if len(found) > 20_000:
                break
    except Exception:  # damaged: what came before is good enough
        pass
    places = [place for _, place in found] + [len(code)]
    return [(name, a, b) for (name, _), (a, b) in zip(found, pairwise(places), strict=True)]


def _as_opcode(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    width = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([width]) + value.to_bytes(width, "little", signed=True)


def _numbers(code: bytes, rng: Rng, other: bytes) -> bytes:
    ops = [op for op in _ops(code) if op[0] in INTS]
    for _, start, stop in [pick(rng, ops)] if ops else []:
        value = integer(rng) if rng.random() < 0.7 else int(rng.integers(300))
        code = code[:start] + _as_opcode(value) + code[stop:]
    return code


def _globals(code: bytes, rng: Rng, other: bytes) -> bytes:
    ops = [op for op in _ops(code) if op[0] == "GLOBAL"]
    for _, start, stop in [pick(rng, ops)] if ops else []:
        name = pick(rng, GLOBALS).replace(" ", "\n").encode()
        code = code[:start] + b"c" + name + b"\n" + code[stop:]
    return code


def _opcodes(code: bytes, rng: Rng, other: bytes) -> bytes:
    ops = _ops(code)
    if not ops:
        return code
    (_, start, stop), (_, begin, end) = pick(rng, ops), pick(rng, ops)
    action = int(rng.integers(5))
    if action == 0:
        return code[:start] + bytes([pick(rng, OPCODES)]) + code[start + 1 :]
    if action == 1:
        return code[:start] + code[stop:]
    if action == 2:
        return code[:start] + code[begin:end] + code[start:]
    if action == 3:
        return code[:start] + bytes(pick(rng, OPCODES) for _ in range(3)) + code[start:]
    return code[:start] + code[begin:end] + code[stop:]


def _strings(code: bytes, rng: Rng, other: bytes) -> bytes:
    ops = [op for op in _ops(code) if op[0] == "BINUNICODE"]
    words = ("storage", "cpu", "cuda:0", "meta", "privateuseone", "mps", "0", "99", "../../x", "")
    words += ("model", "losses", "decoder.wave_rest", "decoder.mlp.0.weight", "\x00", "x" * 300)
    for _, start, stop in [pick(rng, ops)] if ops else []:
        text = pick(rng, words).encode()
        code = code[:start] + b"X" + struct.pack("<I", len(text)) + text + code[stop:]
    return code


def _payload(code: bytes, rng: Rng, other: bytes) -> bytes:
    payload = pick(rng, PAYLOADS)
    if rng.random() < 0.3:
        return b"\x80\x02" + payload[:-1] + b"."
    ops = _ops(code)
    place = pick(rng, ops)[1] if ops and rng.random() < 0.5 else 2
    return code[:place] + payload + code[place:]


def _growth(code: bytes, rng: Rng, other: bytes) -> bytes:
    """Make a pickle that is deep, or that grows as it is read."""
    doubling = b"\x80\x02]q\x00" + b"(h\x00h\x00e" * 20 + b"."
    nested = b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b"."
    tuples = b"\x80\x02)" + b"\x85" * 50_000 + b"."
    marks = b"\x80\x02" + b"(" * 100_000 + b"."
    memo = b"\x80\x02" + b"]r\xff\xff\xff\x7f0" * 3 + b"."
    huge = b"\x80\x04\x8e" + struct.pack("<Q", pick(rng, (2**31, 2**62, 10**9))) + b"x."
    text = b"\x80\x02X" + struct.pack("<I", 2**31 - 1) + b"x."
    laughs = b"\x80\x02X\x01\0\0\0aq\x00" + b"".join(
        b"(" + b"h" + bytes([k]) + (b"h" + bytes([k])) * 9 + b"tq" + bytes([k + 1])
        for k in range(9)
    )
    buffers = (
        b"\x80\x02" + b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nJ\0\0\0\x40\x85"
    )
    buffers += b"U\x01b\x87R."
    zeros = b"\x80\x02cnumpy\nndarray\nJ\0\0\0\x7f\x85R."
    choices = (doubling, nested, tuples, marks, memo, huge, text, laughs + b".", buffers, zeros)
    return pick(rng, choices)


def _blind(code: bytes, rng: Rng, other: bytes) -> bytes:
    return pick(rng, BLIND)(code, rng, other)


def pickle_numbers(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Change an integer: sizes of storages, shapes, strides, offsets."""
    return _on_pickle(data, rng, _numbers)


def pickle_globals(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Name another function or class."""
    return _on_pickle(data, rng, _globals)


def pickle_opcodes(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Change, remove, copy or add instructions."""
    return _on_pickle(data, rng, _opcodes)


def pickle_strings(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Change a string: a device, the key of a storage, the name of a tensor."""
    return _on_pickle(data, rng, _strings)


def pickle_payload(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Put in a call that would leave a file behind."""
    return _on_pickle(data, rng, _payload)


def pickle_growth(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Replace the pickle by one that is deep, long or greedy."""
    return _on_pickle(data, rng, _growth)


def pickle_blind(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Change the bytes of the pickle, with the sum of the entry made right again."""
    return _on_pickle(data, rng, _blind)


def zip_entry(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Change one entry: its name, content, compression, sum or size."""
    parts = entries(data)
    if not parts:
        return data
    place = int(rng.integers(len(parts)))
    part, action = parts[place], int(rng.integers(8))
    if action == 0:
        del parts[place]
    elif action == 1:
        parts.insert(int(rng.integers(len(parts))), part)
    elif action == 2:
        name = pick(
            rng, ("../../x", "/etc/passwd", "", "data.pkl", "a" * 500, "x/data.pkl", "\x00")
        )
        parts[place] = replace(part, name=name)
    elif action == 3:
        parts[place] = replace(part, method=8, packed=stored(part.content))
    elif action == 4:
        packed, size = packed_zeros(int(pick(rng, (10, 1000, 20_000, 100_000))))
        # the sum is made right only where that is cheap
        crc = zlib.crc32(bytes(size))
        parts[place] = replace(part, method=8, packed=packed, size=size, crc=crc)
    elif action == 5:
        parts[place] = replace(part, crc=int(rng.integers(2**32)))
    elif action == 6:
        parts[place] = replace(part, size=integer(rng) % 2**32)
    else:
        parts[place] = replace(part, content=_blind(part.content, rng, other))
    return build(parts)


def zip_extra(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Add entries, or change the small ones by which torch tells what a file is."""
    parts = entries(data)
    if not parts:
        return data
    top = parts[0].name.partition("/")[0]
    more = {
        "byteorder": pick(rng, (b"big", b"little", b"", b"x" * 100)),
        "version": pick(rng, (b"999\n", b"", b"-1", b"1\n")),
        "constants.pkl": b"\x80\x02).",
        "code/__torch__.py": b"import os; os.system('touch spender-canary')",
        ".format_version": pick(rng, (b"1", b"99", b"")),
        ".storage_alignment": pick(rng, (b"64", b"0", b"-1", b"x")),
        "data/0": b"",
        "archive_format": b"pt2",
    }
    name = pick(rng, list(more))
    path = f"{pick(rng, (top, top, top, 'other'))}/{name}"
    kept = [part for part in parts if part.name != path]
    kept.insert(int(pick(rng, (0, len(kept)))), Entry(path, more[name]))
    if rng.random() < 0.1:
        kept += [Entry(f"{top}/data/x{k}", b"") for k in range(3000)]
    return build(kept)


MUTATORS: tuple[Mutator, ...] = (
    pickle_numbers,
    pickle_numbers,
    pickle_globals,
    pickle_opcodes,
    pickle_strings,
    pickle_payload,
    pickle_growth,
    pickle_blind,
    zip_entry,
    zip_extra,
)
