"""How a catalogue lies on the disk: names of files, columns, and what each file says of itself.

    FOLDER/part-000000.parquet            a partition: one row for each spectrum
    FOLDER/_catalogue.json                the plan, written first
    FOLDER/_failures/part-000000.parquet  sources of a partition that could not be read, if any
    FOLDER/_failures.csv                  all of them, written last

Whatever reads a folder of Parquet files leaves out names that begin with "_". Columns are flat and of
primitive types, so that every program that reads Parquet can read them.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from spender_core.cataloguing.measuring import REDSHIFTS
from spender_core.cataloguing.plan import How
from spender_core.datasets.layout import id_dtype, parquet
from spender_core.errors import PluginError
from spender_core.interfaces import Instrument

MANIFEST = "_catalogue.json"
FAILURES = "_failures"
LISTING = "_failures.csv"
LOCK = "_lock"
KEY = b"spender_catalogue"
"""Key of a part's metadata under which is what it says of itself, as JSON."""
LENGTH = b"table::len::"
"""Before the name of a column of text, the key of its longest text, as astropy has it."""

_PART = re.compile(r"part-([0-9]{6,})\.parquet")


def part_name(number: int) -> str:
    """Return the name of the file of a partition."""
    return f"part-{number:06d}.parquet"


def part_number(name: str) -> int | None:
    """Return the number of a partition by the name of its file; None for other files."""
    found = _PART.fullmatch(name)
    return int(found[1]) if found and part_name(int(found[1])) == name else None


@dataclass(frozen=True)
class About:
    """What a part says of itself.

    Attributes:
        plan: Hash of the plan.
        number: Of the partition.
        rows: Spectra in it.
        cut: Spectra that were left out by the survey's quality cuts.
        failures: Sources that could not be read.
        unreachable: Those among them whose server did not answer.
        made: Model, options, sources and versions.
    """

    plan: str
    number: int
    rows: int
    cut: int
    failures: int
    unreachable: int
    made: dict[str, Any]

    def to_json(self) -> bytes:
        """Return it as JSON, the same bytes for the same content."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_schema(cls, schema: Any) -> About | None:
        """Return what a Parquet file says; None if it says nothing that can be understood."""
        text = (schema.metadata or {}).get(KEY)
        try:
            return None if text is None else cls(**json.loads(text))
        except (ValueError, TypeError):
            return None


def columns(instrument: Instrument, how: How, latents: int) -> dict[str, Any]:
    """Return the columns of a catalogue with their types of numpy, in order.

    Raises:
        PluginError: The ids of the instrument have names of other columns.
    """
    dtype = id_dtype(instrument)
    ids = {name: _kind(dtype[name]) for name in dtype.names or ()}
    own: dict[str, Any] = {"source": np.str_, "instrument": np.str_, "model": np.str_}
    own |= {"z": np.float64, "zerr": np.float64, "snr": np.float32, "norm": np.float64}
    own |= {"flags": np.int64, "chi2": np.float32, "reached": np.bool_}
    own |= {"refined": np.bool_} if how.refine else {}
    own |= {f"s_{k}": np.float32 for k in range(latents)}
    own |= {"logP": np.float32} if how.flow is not None else {}
    if how.redshift:
        own |= dict.fromkeys(REDSHIFTS, np.float64) | {"z_flags": np.int64}
    own["remark"] = np.str_
    clash = {name.lower() for name in ids} & {name.lower() for name in own}
    if clash:
        raise PluginError(
            f"the ids of {instrument.name} have the field {', '.join(sorted(clash))}, which is a "
            "column of its own in a catalogue; its plugin must name it otherwise"
        )
    return ids | own


def schema(columns: dict[str, Any]) -> Any:
    """Return the `pyarrow.Schema` of columns."""
    pa, _ = parquet()
    types = {name: pa.string() if kind is np.str_ else pa.from_numpy_dtype(kind)
             for name, kind in columns.items()}  # fmt: skip
    return pa.schema(list(types.items()))


def _kind(dtype: np.dtype[Any]) -> Any:
    """Return the type of a column of ids."""
    if dtype.kind in "US":
        return np.str_
    return np.int64 if dtype.kind == "i" else np.dtype(dtype.newbyteorder("=")).type
