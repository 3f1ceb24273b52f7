"""Mutations of what is text: cards, ids as JSON, and names and locations of models."""

from __future__ import annotations

import json
import re

from fuzz.mutate_safetensors import change_leaf
from fuzz.mutations import Mutator, Rng, pick

TRICKS = (
    *("..", "../", "/", "//", "./", "~", "~/", "%2e%2e%2f", "\\", "\x00", "\n", " ", "?", "#"),
    *("://", "file://", "hf:", "package:", "http://127.0.0.1:1/", "s3://", "memory://", "data:"),
    *("simplecache::", "zip://", "local://", "file:///etc/passwd", "/etc/passwd", "{plate}", "%s"),
    *(
        ".pt",
        ".safetensors",
        "::",
        "@",
        ":",
        "a" * 300,
        "é",
        "\U0001f52d",
        "\u202e",
        "*",
        "[",
        "$HOME",
    ),
)


def json_leaf(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Change one place of a JSON text."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return data
    return json.dumps(change_leaf(tree, rng)).encode()


def json_word(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Put a trick with paths in place of one entry of a JSON list or object."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return data
    word: object = "".join(pick(rng, TRICKS) for _ in range(int(rng.integers(1, 4))))
    for holder in (tree[1] if isinstance(tree, list) and len(tree) > 1 else tree,):
        if isinstance(holder, list) and holder:
            holder[int(rng.integers(len(holder)))] = pick(rng, (word, [word], {"a": word}))
        elif isinstance(holder, dict) and holder:
            holder[pick(rng, list(holder))] = word
    return json.dumps(tree).encode()


def words(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Put tricks with paths into a text."""
    text = data.decode("utf-8", "replace")
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.integers(len(text) + 1))
        cut = int(pick(rng, (0, 0, 1, len(text))))
        text = text[:place] + pick(rng, TRICKS) + text[place + cut :]
    return text.encode("utf-8", "replace")


VALUES = (
    *("-1", "0", "1e308", "nan", "-inf", "9" * 30, "0x" + "f" * 4000, "true", '""', "[]", "{}"),
    *("[[0, 1], [1, 0]]", "[[1, 1], [0, 0]]", "1979-05-27", "{a = {b = 1}}", '"all"', "[[[]]]"),
)
"""Of TOML."""


def toml_value(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Put another value after one of the keys of a TOML text."""
    lines = data.decode("utf-8", "replace").split("\n")
    keyed = [k for k, line in enumerate(lines) if re.match(r"[\w.]+ *= *[^\[]", line)]
    if keyed:
        place = pick(rng, keyed)
        lines[place] = lines[place].partition("=")[0] + "= " + pick(rng, VALUES)
    return "\n".join(lines).encode()


def toml_lines(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Swap, repeat or remove lines of a TOML text, or take one of another."""
    lines, more = data.split(b"\n"), other.split(b"\n")
    a, b = (int(rng.integers(len(lines))) for _ in range(2))
    action = int(rng.integers(4))
    if action == 0:
        lines[a], lines[b] = lines[b], lines[a]
    elif action == 1:
        lines.insert(a, lines[b])
    elif action == 2:
        del lines[a]
    else:
        lines.insert(a, pick(rng, more))
    return b"\n".join(lines)


def mutators(kind: str) -> tuple[Mutator, ...]:
    """Return the mutations of a kind of text."""
    if kind == "recipes":
        return toml_value, toml_value, toml_lines
    return (words,) if kind == "names" else (json_leaf, json_leaf, json_word)
