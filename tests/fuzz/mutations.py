"""Seeded mutations of files: a case is told by its kind, the campaign's seed and its number.

Half of the mutations know the format (`mutate_fits`, `mutate_safetensors`, `mutate_pt`), half
are blind. None of them depends on the versions of what reads or writes the files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fuzz import seeds
from fuzz.seeds import Files

Rng = np.random.Generator
Mutator = Callable[[bytes, Rng, bytes], bytes]
"""Changes a file; the third argument is another one, to take parts from."""

KEPT = -1000
"""Number of the case that is the first input of the corpus; the next ones are below it."""

MAGIC = (0, 1, -1, 2, 127, 128, 255, 256, 2**15 - 1, 2**16, 2**20, 2**24, 2**28, 2**31 - 1)
MAGIC += (-(2**31), 2**32, 2**40, 2**62, 2**63 - 1, -(2**63), 10**18, 99_999_999)


def integer(rng: Rng) -> int:
    """Draw an integer that readers tend to trip over."""
    return MAGIC[int(rng.integers(len(MAGIC)))]


def pick(rng: Rng, choices: Sequence[Any]) -> Any:
    """Draw one of several things, as it is."""
    return choices[int(rng.integers(len(choices)))]


def offset(rng: Rng, size: int) -> int:
    """Draw a place in a file: half of the time within its first or last 4096 bytes."""
    if size == 0:
        return 0
    where = int(rng.integers(4))
    if where == 0:
        return int(rng.integers(min(size, 4096)))
    if where == 1:
        return size - 1 - int(rng.integers(min(size, 4096)))
    return int(rng.integers(size))


def length(rng: Rng, size: int) -> int:
    """Draw a length, most often a short one."""
    return int(min(size, 2 ** rng.uniform(0, np.log2(size + 2))))


def flip_bits(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Flip up to 16 bits."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 17)) if changed else 0):
        changed[offset(rng, len(data))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def fill_run(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Set a run of bytes to 0, to 255, or at random."""
    start, n = offset(rng, len(data)), length(rng, len(data))
    n = min(n, len(data) - start)
    run = pick(rng, (b"\0" * n, b"\xff" * n, rng.bytes(n)))
    return data[:start] + run + data[start + n :]


def truncate(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Cut the file off."""
    return data[: offset(rng, len(data))]


def delete(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Take a run of bytes out."""
    start = offset(rng, len(data))
    return data[:start] + data[start + length(rng, len(data)) :]


def duplicate(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Repeat a run of bytes."""
    start, n = offset(rng, len(data)), length(rng, len(data))
    times = int(rng.integers(2, 5))
    return data[:start] + data[start : start + n] * times + data[start + n :]


def insert(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Put random bytes in."""
    start = offset(rng, len(data))
    return data[:start] + rng.bytes(int(rng.integers(1, 65))) + data[start:]


def magic_integer(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Write an extreme integer somewhere, of 1 to 8 bytes, in either order of bytes."""
    width = int(pick(rng, (1, 2, 4, 8)))
    value = integer(rng) % 256**width
    start = offset(rng, len(data)) // width * width
    order = pick(rng, ("little", "big"))
    return data[:start] + value.to_bytes(width, order) + data[start + width :]


def splice(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Begin as one file and go on as another."""
    return data[: offset(rng, len(data))] + other[offset(rng, len(other)) :]


def swap(data: bytes, rng: Rng, other: bytes) -> bytes:
    """Exchange two neighbouring runs of bytes."""
    start = offset(rng, len(data))
    first, second = length(rng, len(data)), length(rng, len(data))
    a, b = data[start : start + first], data[start + first : start + first + second]
    return data[:start] + b + a + data[start + first + second :]


BLIND: tuple[Mutator, ...] = (
    flip_bits,
    fill_run,
    truncate,
    delete,
    duplicate,
    insert,
    magic_integer,
    splice,
    swap,
)


def mutators(kind: str) -> tuple[Mutator, ...]:
    """Return the mutations that know the format of a kind."""
    from fuzz import mutate_fits, mutate_pt, mutate_safetensors, mutate_text

    modules = {"fits": mutate_fits, "pt": mutate_pt, "safetensors": mutate_safetensors}
    found: tuple[Mutator, ...] = getattr(modules.get(kind), "MUTATORS", ())
    return found or mutate_text.mutators(kind)


@dataclass(frozen=True)
class Case:
    """One mutated input.

    Attributes:
        kind: What it is a file of.
        number: Its number in the campaign.
        seed: Name of the sound file it was made from.
        steps: Names of the mutations.
        files: The files by name, the first of them to be read.
    """

    kind: str
    number: int
    seed: str
    steps: tuple[str, ...]
    files: Files = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(map(len, self.files.values()))


def make(kind: str, seed: int, number: int, real_share: float = 0.25) -> Case:
    """Make a case: the same bytes for the same arguments and the same sound files.

    Args:
        kind: One of `seeds.KINDS`.
        seed: Seed of the campaign.
        number: Number of the case; -1 and below, the sound files; `KEPT` and below, those of
            the corpus, sound ones and others.
        real_share: Which share of the cases comes from real files, where there are any.
    """
    if number <= KEPT:
        name, files = list(seeds.corpus(kind).items())[KEPT - number]
        return Case(kind, number, name, (), dict(files))
    if number < 0:
        return sound(kind, -1 - number)
    rng = np.random.default_rng([seed, seeds.KINDS.index(kind), number])
    (name, files), other = _draw(kind, rng, real_share), _draw(kind, rng, 0)[1]
    target = pick(rng, list(files)) if rng.random() < 0.3 else next(iter(files))
    steps = []
    for _ in range(int(pick(rng, (1, 1, 1, 2, 2, 4)))):
        known = mutators(kind)
        step = pick(rng, known) if known and rng.random() < 0.6 else pick(rng, BLIND)
        files[target] = step(files[target], rng, pick(rng, list(other.values())))
        steps.append(step.__name__)
    return Case(kind, number, name, tuple(steps), files)


def sound(kind: str, number: int) -> Case:
    """Return a sound file as a case: the small ones first, then real ones, over and over."""
    few, many = seeds.small(kind), seeds.real(kind)
    number %= len(few) + len(many)
    if number < len(few):
        name, files = few[number]
        return Case(kind, -1 - number, name, (), dict(files))
    name, paths = many[number - len(few)]
    files = {path.name: path.read_bytes() for path in paths}
    return Case(kind, -1 - number, name, (), files)


def _draw(kind: str, rng: Rng, real_share: float) -> tuple[str, Files]:
    if rng.random() < real_share and (found := seeds.real(kind)):
        name, paths = pick(rng, found)
        return name, {path.name: path.read_bytes() for path in paths}
    name, files = pick(rng, seeds.small(kind))
    return name, dict(files)


def write(case: Case, folder: Path) -> Path:
    """Write the files of a case, and return the path of the one to read."""
    for name, content in case.files.items():
        (folder / name).write_bytes(content)
    return folder / next(iter(case.files))
