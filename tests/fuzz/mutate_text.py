"""Mutations of what is text: cards, ids as JSON, and names and locations of models."""

from __future__ import annotations

import json

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


def mutators(kind: str) -> tuple[Mutator, ...]:
    """Return the mutations of a kind of text."""
    return (words,) if kind == "names" else (json_leaf, json_leaf, json_word)
