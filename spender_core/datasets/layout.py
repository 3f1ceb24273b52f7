"""How a dataset of spectra lies on the disk: names, columns, splits, and what a shard says of itself.

The layout is that of spender 0.3 (`spender.data.dataset`), so that either package reads what the
other has written: `ROOT/data/SPLIT-NUMBER.parquet`, in these columns and this order:

| column | type | what |
|---|---|---|
| spec, w | float32 [L] | flux over norm, and its inverse variance |
| z, zerr, norm | float32 | redshift, its uncertainty, normalisation |
| integer ids that name an object | int64 | plate, mjd, fiberid; target_id |
| other ids | int64 or string | run2d; survey, program, healpix, tileid |
| flags | int64 | bits of `batch.Flag` |
| lsf_sigma | float32 [L] | standard deviations of Gaussians, pixels; on request |
| lsf_bands | float32 [K L] | diagonals of a matrix, one after the other; on request |

Those from the other ids on are not in datasets of spender, which are read all the same.

Shapes: B spectra, L observed pixels, K diagonals.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spender_core import __version__
from spender_core.batch import SpectrumLSF
from spender_core.errors import FileError, InputError, PluginError, SpenderError
from spender_core.interfaces import Instrument
from spender_core.line_spread import BandedLSF, GaussianLSF

SPLITS = {"train": 0.7, "validation": 0.15, "test": 0.15}
"""Shares of the splits, by the hash of the ids; those of spender 0.3."""

ROW_GROUP = 1024
"""Spectra in a row group, the unit of reading."""

SHARD = 8192
"""Spectra in a shard."""

FORMAT = 1
"""Version of what a shard says of itself."""

KEY = b"spender_core"
"""Key of a shard's metadata under which that is."""

MANIFEST = "dataset.json"

SPECTRA = ("spec", "w")
NUMBERS = ("z", "zerr", "norm")
_OWN = (*SPECTRA, *NUMBERS, "flags", "lsf_sigma", "lsf_bands")
_SHARD_NAME = re.compile(r"data/([a-z]+)-([0-9]{5})\.parquet")

LSFKind = Literal["gaussian"] | tuple[Literal["banded"], tuple[int, ...]] | None
"""How line spread functions are stored: not at all, as widths, or as diagonals of these offsets."""


def parquet() -> tuple[Any, Any]:
    """Return the modules `pyarrow` and `pyarrow.parquet`.

    Raises:
        SpenderError: They are not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise SpenderError(
            'datasets are Parquet files, which need pyarrow; pip install "spender-core[parquet]"'
        ) from error
    return pyarrow, parquet


# -- names ------------------------------------------------------------------------------------


def shard_name(split: str, number: int) -> str:
    """Return the name of a shard below the root.

    Example:
        >>> shard_name("train", 3)
        'data/train-00003.parquet'
    """
    return f"data/{split}-{number:05d}.parquet"


def parse_shard_name(name: str) -> tuple[str, int] | None:
    """Return split and number of a shard by its name below the root; None for other files."""
    found = _SHARD_NAME.fullmatch(name)
    return (found[1], int(found[2])) if found and found[1] in SPLITS else None


# -- ids --------------------------------------------------------------------------------------


def id_dtype(instrument: Instrument) -> np.dtype[np.void]:
    """Return the fields of an instrument's ids; of one without a loader, a number."""
    return np.dtype([("ID", "i8")]) if instrument.loader is None else instrument.loader.id_dtype


def split_fields(instrument: Instrument) -> tuple[str, ...]:
    """Return the fields of the ids that name an object, whose hash tells its split.

    Those of `Loader.dataset_columns`, or else all that are integers, or else all.
    """
    dtype = id_dtype(instrument)
    names = tuple(dtype.names or ())
    given = tuple(_given_columns(instrument))
    return given or tuple(n for n in names if dtype[n].kind in "iu") or names


def id_fields(instrument: Instrument) -> dict[str, str]:
    """Return the columns of an instrument's ids by the survey's own names, in their order.

    Raises:
        PluginError: Its loader says what cannot be.

    Example:
        >>> from spender_core import registry
        >>> id_fields(registry.instrument("sdss"))
        {'PLATE': 'plate', 'MJD': 'mjd', 'FIBERID': 'fiberid', 'RUN2D': 'run2d'}
    """
    dtype = id_dtype(instrument)
    given = _given_columns(instrument)
    first = split_fields(instrument)
    others = [name for name in dtype.names or () if name not in first]
    fields = {name: given.get(name, name.lower()) for name in (*first, *others)}
    columns = list(fields.values())
    wrong = [name for name in fields if name not in (dtype.names or ())]
    clash = sorted({c for c in columns if c in _OWN or columns.count(c) > 1})
    odd = [name for name in dtype.names or () if dtype[name].kind not in "iuUS"]
    if wrong or clash or odd or not fields:
        raise PluginError(
            f"the ids of {instrument.name}, {dtype}, cannot be columns of a dataset: "
            f"{', '.join([*wrong, *clash, *odd]) or 'there are none'}; they must be integers or "
            f"strings with names of their own, none of {', '.join(_OWN)}. "
            "`dataset_columns` of its loader names them otherwise"
        )
    return fields


def _given_columns(instrument: Instrument) -> dict[str, str]:
    return dict(instrument.loader.dataset_columns) if instrument.loader is not None else {}


def split_of(ids: NDArray[np.void], instrument: Instrument) -> NDArray[np.str_]:
    """Return the split of each id, shape (B,): the same on every machine and in every release.

    The first 8 bytes of blake2b over the integers, as spender 0.3 does.

    Example:
        >>> from spender_core import registry
        >>> sdss = registry.instrument("sdss")
        >>> str(split_of(np.array([(266, 51602, 1, "26")], sdss.loader.id_dtype), sdss)[0])
        'train'
    """
    fields = split_fields(instrument)
    if all(ids.dtype[name].kind in "iu" for name in fields):
        columns = np.stack([ids[name].astype("<i8") for name in fields], axis=1)
        keys = [row.tobytes() for row in columns]
    else:
        keys = ["\0".join(map(str, row)).encode() for row in ids[list(fields)].tolist()]
    digests = b"".join(hashlib.blake2b(key, digest_size=8).digest() for key in keys)
    place = np.frombuffer(digests, "<u8") / 2.0**64
    edges = np.cumsum(list(SPLITS.values()))
    last = len(edges) - 1
    which = np.searchsorted(edges, place, side="right").clip(max=last)
    splits: NDArray[np.str_] = np.array(list(SPLITS))[which]
    return splits


# -- what a shard says of itself --------------------------------------------------------------


@dataclass(frozen=True)
class Metadata:
    """What a shard says of itself.

    Attributes:
        instrument: Name of the instrument.
        grid: Hash of its grid.
        pixels: Pixels of a spectrum, L.
        ids: Columns of the ids by the survey's names.
        dtypes: Their types in `SpectrumBatch.ids`, e.g. "<i8".
        lsf: How line spread functions are stored.
        format: Version of this record.
        version: Version of spender_core that wrote it.
    """

    instrument: str
    grid: str
    pixels: int
    ids: dict[str, str]
    dtypes: dict[str, str]
    lsf: LSFKind = None
    format: int = FORMAT
    version: str = field(default=__version__, compare=False)

    @classmethod
    def of(cls, instrument: Instrument, lsf: LSFKind = None) -> Metadata:
        """Return what shards of an instrument say."""
        ids, dtype = id_fields(instrument), id_dtype(instrument)
        types = {name: dtype[name].str for name in ids}
        return cls(instrument.name, instrument.grid.sha256, instrument.grid.size, ids, types, lsf)

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Metadata:
        """Read it.

        Raises:
            FileError: It is of another version, or no such record.
        """
        try:
            content = json.loads(text)
            form = content["format"]
            if form == FORMAT:
                lsf = content["lsf"]
                content["lsf"] = (lsf[0], tuple(lsf[1])) if isinstance(lsf, list) else lsf
                return cls(**content)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise FileError(f"a shard's record is damaged: {error!r:.200}") from error
        raise FileError(
            f"the dataset has the format {form!r:.20}, and this version reads {FORMAT}; update "
            "spender-core"
        )

    def differences(self, other: Metadata) -> list[str]:
        """Return in words what differs, less the way of storing line spread functions."""
        names = ("instrument", "grid", "pixels", "ids", "dtypes")
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in names]
        return [f"{name} {mine!s:.80}, not {theirs!s:.80}" for name, mine, theirs in pairs
                if mine != theirs]  # fmt: skip


def metadata(schema: Any) -> Metadata | None:
    """Return what a shard says of itself, by its Parquet schema; None of spender's datasets.

    Raises:
        FileError: It is of another version, or damaged.
    """
    text = (schema.metadata or {}).get(KEY)
    return None if text is None else Metadata.from_json(text)


def schema(instrument: Instrument, lsf: LSFKind = None) -> Any:
    """Return the `pyarrow.Schema` of an instrument's shards, with their metadata.

    Raises:
        SpenderError: pyarrow is not installed.
        PluginError: The instrument's ids cannot be columns.
    """
    pa, _ = parquet()
    about = Metadata.of(instrument, lsf)
    pixels = about.pixels
    kinds: dict[str, Any] = dict.fromkeys(SPECTRA, (np.float32, pixels))
    kinds |= dict.fromkeys(NUMBERS, (np.float32, 0))
    for name, column in about.ids.items():
        kinds[column] = (np.int64 if np.dtype(about.dtypes[name]).kind in "iu" else np.str_, 0)
    kinds["flags"] = (np.int64, 0)
    if lsf == "gaussian":
        kinds["lsf_sigma"] = (np.float32, pixels)
    elif lsf is not None:
        kinds["lsf_bands"] = (np.float32, pixels * len(lsf[1]))
    types = {np.float32: pa.float32(), np.int64: pa.int64(), np.str_: pa.string()}
    fields = [
        pa.field(name, pa.list_(types[kind], length) if length else types[kind])
        for name, (kind, length) in kinds.items()
    ]
    features = {name: _feature(types[kind], length) for name, (kind, length) in kinds.items()}
    described = json.dumps({"info": {"features": features}})
    return pa.schema(fields, {b"huggingface": described.encode(), KEY: about.to_json().encode()})


def _feature(kind: Any, length: int) -> dict[str, Any]:
    """Return a column as the library `datasets` describes it."""
    names = {"float": "float32", "int64": "int64", "string": "string"}
    value = {"dtype": names[str(kind)], "_type": "Value"}
    return {"feature": value, "length": length, "_type": "List"} if length else value


def lsf_kind(lsf: SpectrumLSF | None) -> LSFKind:
    """Return how line spread functions are stored.

    Raises:
        InputError: They are of a kind that cannot be.
    """
    if lsf is None:
        return None
    if isinstance(lsf, GaussianLSF):
        return "gaussian"
    if isinstance(lsf, BandedLSF):
        return "banded", lsf.offsets
    raise InputError(
        f"a {type(lsf).__name__} cannot be stored in a dataset; known are GaussianLSF and BandedLSF"
    )
