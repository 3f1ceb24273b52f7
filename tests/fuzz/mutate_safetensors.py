"""Mutations that know safetensors: its JSON header, and the card within."""

from __future__ import annotations

import json
import struct
from typing import Any

from fuzz.mutations import Mutator, Rng, integer, pick

DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL", "F8_E4M3", "C64", "F4", "X", "")
ARCHITECTURES = ("spectrum_autoencoder", "maf", "os.system", "__import__", "os:system", "Model", "")


def hostile(rng: Rng) -> Any:
    """Draw a JSON value where another is expected."""
    deep: Any = []
    for _ in range(60):
        deep = [deep]
    values = (None, True, "", "x" * 5000, [], {}, [[]], {"a": 1}, 1.5, -0.0, float("nan"), 1e308)
    values += (deep, [1] * 3000, "sdss", "../../x", "\ud800", 10**30, [2] * 40)
    return integer(rng) if rng.random() < 0.5 else pick(rng, values)


def change_leaf(tree: Any, rng: Rng) -> Any:
    """Return a JSON value with one place in it changed: replaced, removed, renamed or added."""
    if isinstance(tree, dict) and tree and rng.random() < 0.9:
        key = pick(rng, list(tree))
        action = rng.random()
        if action < 0.08:
            return {k: v for k, v in tree.items() if k != key}
        if action < 0.14:
            return {(f"{k}x" if k == key else k): v for k, v in tree.items()}
        if action < 0.2:
            return tree | {str(pick(rng, ("extra", "", "__class__", "target"))): hostile(rng)}
        return tree | {key: change_leaf(tree[key], rng)}
    if isinstance(tree, list) and tree and rng.random() < 0.9:
        place = int(rng.integers(len(tree)))
        action = rng.random()
        if action < 0.15:
            return tree[:place] + tree[place + 1 :]
        if action < 0.3:
            return tree[:place] + [tree[place]] * int(pick(rng, (2, 3, 50))) + tree[place:]
        return [*tree[:place], change_leaf(tree[place], rng), *tree[place + 1 :]]
    return hostile(rng)


def split(data: bytes) -> tuple[dict[str, Any], bytes] | None:
    """Return header and data of a file, or None if it has no header any more."""
    if len(data) < 8:
        return None
    (size,) = struct.unpack("<Q", data[:8])
    try:
        header = json.loads(data[8 : 8 + size])
    except (ValueError, RecursionError):
        return None
    return (header, data[8 + size :]) if isinstance(header, dict) and header else None


def join(header: Any, content: bytes, wrong: int = 0) -> bytes:
    """Put a file together; `wrong` is added to the length of its header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", max(0, len(text) + wrong) % 2**64) + text + content


def _tensors(header: dict[str, Any]) -> list[str]:
    return [
        name
        for name, entry in header.items()
        if isinstance(entry, dict) and {"dtype", "shape", "data_offsets"} <= entry.keys()
    ]


def tensor_entry(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Change shape, type or place of a tensor."""
    parts = split(data)
    if parts is None or not (names := _tensors(parts[0])):
        return data
    header, content = parts
    name = pick(rng, names)
    entry = dict(header[name])
    action = int(rng.integers(7))
    if action == 0:
        entry["shape"] = change_leaf(entry["shape"], rng)
    elif action == 1:
        entry["shape"] = pick(rng, ([], [0], [2**32, 2**32], [1] * 70, [-1], [0, 2**62], [1.5]))
    elif action == 2:
        entry["data_offsets"] = change_leaf(entry["data_offsets"], rng)
    elif action == 3:
        entry["data_offsets"] = header[pick(rng, names)]["data_offsets"]
    elif action == 4:
        entry["data_offsets"] = pick(rng, ([5, 0], [0, 0], [0, len(content)], [0, 2**62], []))
    elif action == 5:
        entry["dtype"] = pick(rng, DTYPES)
    else:
        entry = change_leaf(entry, rng)
    return join(header | {name: entry}, content)


def tensor_alike(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Change a tensor to another that the format allows: its shape or type, of the same size."""
    parts = split(data)
    if parts is None or not (names := _tensors(parts[0])):
        return data
    header, content = parts
    name = pick(rng, names)
    entry = dict(header[name])
    same = {"F32": ("I32", "U32"), "F64": ("I64", "U64", "C64"), "I64": ("F64", "U64")}
    if rng.random() < 0.5:
        entry["dtype"] = pick(rng, same.get(str(entry["dtype"]), ("F32",)))
    else:
        shape = entry["shape"] if isinstance(entry["shape"], list) else []
        entry["shape"] = pick(rng, (shape[::-1], [1, *shape], [*shape, 1], sorted(shape, key=str)))
    return join(header | {name: entry}, content)


def tensor_names(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Rename, swap, remove or add tensors."""
    parts = split(data)
    if parts is None or not (names := _tensors(parts[0])):
        return data
    header, content = dict(parts[0]), parts[1]
    a, b = pick(rng, names), pick(rng, names)
    action = int(rng.integers(5))
    if action == 0:
        header[a], header[b] = header[b], header[a]
    elif action == 1:
        header[pick(rng, ("", "__metadata__", f"{a}.x", "x" * 10_000, "\x00"))] = header.pop(a)
    elif action == 2:
        del header[a]
    elif action == 3:
        empty = {"dtype": "F32", "shape": [0], "data_offsets": [len(content)] * 2}
        header |= {f"t{k}": empty for k in range(int(pick(rng, (1, 100, 10_000))))}
    else:
        more = {"dtype": "F64", "shape": [4], "data_offsets": [len(content), len(content) + 32]}
        header[f"encoders.{pick(rng, ('sdss', 'x'))}.extra"] = more
        content += rng.bytes(32)
    return join(header, content)


def card(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Change a field of the card."""
    parts = split(data)
    if parts is None or not isinstance(parts[0].get("__metadata__"), dict):
        return data
    header, content = parts
    try:
        described = json.loads(header["__metadata__"]["spender"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return data
    if isinstance(described, dict) and rng.random() < 0.6:
        field = pick(rng, ("config", "config", "config", "instruments", "architecture", "latents"))
        if field == "architecture":
            described[field] = pick(rng, ARCHITECTURES)
        else:
            described[field] = change_leaf(described.get(field, 0), rng)
    else:
        described = change_leaf(described, rng)
    text = json.dumps(described)
    if rng.random() < 0.1:
        text = pick(
            rng, ("[" * 50_000, text[:-1], f"{text}{text}", '{"a":' * 2000, "null", "\ud800")
        )
    return join(header | {"__metadata__": {"spender": text}}, content)


def header_text(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Damage the text of the header: keys twice, deep nesting, odd values, wrong length."""
    parts = split(data)
    if parts is None:
        return data
    header, content = parts
    text = json.dumps(header).encode()
    action = int(rng.integers(7))
    if action == 0:
        first = json.dumps(pick(rng, list(header.items()))[0]).encode()
        return join(text[:-1] + b", " + first + b": {}}", content)
    if action == 1:
        return join(b"[" * int(pick(rng, (50, 5000, 200_000))), content)
    if action == 2:
        return join(json.dumps(change_leaf(header, rng)).encode(), content)
    if action == 3:
        wrong = (1, -1, 8, -8, len(content), len(content) + 1, 100_000_001, 2**63, -len(text))
        return join(header, content, pick(rng, wrong))
    if action == 4:
        return join(text + b" " * int(pick(rng, (8, 4096, 100_000))), content)
    if action == 5:
        return join(header, content + rng.bytes(int(pick(rng, (1, 8, 1000)))))
    return join(header, content[: int(rng.integers(len(content) + 1))])


MUTATORS: tuple[Mutator, ...] = (
    tensor_entry,
    tensor_alike,
    tensor_names,
    card,
    card,
    header_text,
)
