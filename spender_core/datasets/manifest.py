"""`ROOT/dataset.json`: which shards a dataset has, from which sources, and how far it has come."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from spender_core.datasets.layout import (
    FORMAT,
    MANIFEST,
    SHARD,
    SPLITS,
    Metadata,
    parquet,
    parse_shard_name,
    shard_name,
)
from spender_core.datasets.stores import Store
from spender_core.errors import Failure, FileError

_ODD = (ValueError, TypeError, KeyError, AttributeError)


class Shard(NamedTuple):
    """What a shard should be: spectra in it, its size in bytes, its hash."""

    rows: int
    bytes: int
    sha256: str


class Damage(NamedTuple):
    """A shard that is not what it should be: its name below the root, and what is wrong."""

    name: str
    reason: str


class Chunk(NamedTuple):
    """Some consecutive sources that have been read.

    Attributes:
        sources: How many.
        names: Digest of how they were asked for.
        content: Digest of what they gave.
        rows: Spectra of each split, in the order of `SPLITS`.
    """

    sources: int
    names: str
    content: str
    rows: tuple[int, ...]


@dataclass
class Manifest:
    """What is known of a dataset on the disk.

    Attributes:
        about: What each of its shards says of itself.
        settings: How the sources were read.
        complete: Whether all sources have been read; the shards listed are whole in any case.
        shards: By name below the root. Only the last of a split has less than `SHARD` rows.
        chunks: What has been read, in order.
        failures: Sources that could not be read.
    """

    about: Metadata
    settings: dict[str, Any] = field(default_factory=dict)
    complete: bool = False
    shards: dict[str, Shard] = field(default_factory=dict)
    chunks: list[Chunk] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def rows(self) -> dict[str, int]:
        """Spectra of each split in the shards."""
        rows = dict.fromkeys(SPLITS, 0)
        for name, shard in self.shards.items():
            found = parse_shard_name(name)
            if found:
                rows[found[0]] += shard.rows
        return rows

    def drop_unnoted(self) -> None:
        """Forget shards with rows of sources that no chunk tells of: a run was killed meanwhile."""
        noted = {s: sum(chunk.rows[k] for chunk in self.chunks) for k, s in enumerate(SPLITS)}
        for name, shard in list(self.shards.items()):
            split, number = parse_shard_name(name) or ("test", 0)
            if number * SHARD + shard.rows > noted.get(split, 0):
                del self.shards[name]

    def to_json(self) -> str:
        """Return it as JSON, a chunk on a line."""
        content = {
            "format": FORMAT,
            "about": asdict(self.about),
            "settings": self.settings,
            "complete": self.complete,
            "shards": {name: shard._asdict() for name, shard in sorted(self.shards.items())},
            "failures": [asdict(failure) for failure in self.failures],
            "chunks": [],
        }
        head = json.dumps(content, indent=1).removesuffix("[]\n}")
        lines = ",\n".join(f"  {json.dumps(chunk)}" for chunk in self.chunks)
        return f"{head}[\n{lines}\n ]\n}}\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Read one.

        Raises:
            FileError: It is damaged, or of another version.
        """
        try:
            content = json.loads(text)
            if content["format"] == FORMAT:
                return cls(
                    about=Metadata.from_json(json.dumps(content["about"])),
                    settings=dict(content["settings"]),
                    complete=bool(content["complete"]),
                    shards={name: _shard(name, of) for name, of in content["shards"].items()},
                    chunks=[_chunk(*chunk) for chunk in content["chunks"]],
                    failures=[Failure(**failure) for failure in content["failures"]],
                )
        except (ArithmeticError, RecursionError, *_ODD) as error:
            raise FileError(f"{MANIFEST} is damaged: {error!r:.200}") from error
        raise FileError(
            f"{MANIFEST} has the format {content['format']!r:.20}, and this version reads {FORMAT}; "
            "update spender-core"
        )

    @classmethod
    def read(cls, store: Store) -> Manifest | None:
        """Read that of a dataset; None if it has none.

        Raises:
            FileError: It cannot be read, is damaged, or of another version.
        """
        try:
            with store.open(MANIFEST) as file:
                return cls.from_json(file.read())
        except FileNotFoundError:
            return None

    def write(self, store: Store) -> None:
        """Put it in its place, whole.

        Raises:
            FileError: It cannot be written.
        """
        with store.replacing(MANIFEST) as temporary:
            temporary.write_text(self.to_json(), encoding="utf-8")


def _shard(name: str, content: Mapping[str, Any]) -> Shard:
    if parse_shard_name(name) is None or not 0 < int(content["rows"]) <= SHARD:
        raise ValueError(f"{name} is no shard")
    return Shard(int(content["rows"]), int(content["bytes"]), str(content["sha256"]))


def _chunk(sources: int, names: str, content: str, rows: list[int]) -> Chunk:
    if len(rows) != len(SPLITS) or min(sources, *rows) < 0:
        raise ValueError("a chunk does not tell its rows")
    return Chunk(int(sources), str(names), str(content), tuple(map(int, rows)))


def check_shard(store: Store, name: str, shard: Shard, whole: bool = True) -> Damage | None:
    """Compare a shard with what it should be: its size, and its content if `whole`."""
    size = store.size(name)
    if size is None:
        return Damage(name, "it is missing")
    if size != shard.bytes:
        return Damage(name, f"it has {size} bytes instead of {shard.bytes}")
    if whole and store.sha256(name) != shard.sha256:
        return Damage(name, "its hash differs from the one it was written with")
    return None


def verify(root: str) -> list[Damage]:
    """Return the damaged shards of a dataset, by name, with what is wrong with each.

    Every shard is read in full. One of spender 0.3, which tells no hashes, is decoded instead.

    Raises:
        FileError: There is no dataset, or its manifest is damaged.
    """
    store = Store(root)
    manifest = Manifest.read(store)
    there = [name for name in store.names() if parse_shard_name(name)]
    if manifest is None:
        if not there:
            raise FileError(f"{store.shown} holds no dataset: no {shard_name('train', 0)}")
        return [damage for name in there if (damage := _undecodable(store, name))]
    found = (check_shard(store, name, shard) for name, shard in manifest.shards.items())
    strays = [
        Damage(name, f"{MANIFEST} does not know it: an unfinished run has left it")
        for name in there
        if name not in manifest.shards
    ]
    return [damage for damage in found if damage] + strays


def _undecodable(store: Store, name: str) -> Damage | None:
    """Decode a shard, a row group at a time."""
    _, pq = parquet()
    try:
        with (
            store.open(name) as opened,
            pq.ParquetFile(opened, page_checksum_verification=True) as file,
        ):
            for number in range(file.num_row_groups):
                file.read_row_group(number)
    except Exception as error:  # whatever pyarrow raises of damaged bytes
        return Damage(name, f"it cannot be decoded: {error!s:.200}")
    return None
