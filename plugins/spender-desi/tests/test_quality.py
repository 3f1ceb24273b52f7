"""What DESI's pipeline flags is cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spender_desi.instrument import DESI

from spender_core.batch import Flag, SpectrumBatch
from spender_core.errors import NoSpectraError

CoaddWriter = Callable[..., Path]
RedrockWriter = Callable[..., Path]
Reader = Callable[[Path], SpectrumBatch]
Targets = Callable[[SpectrumBatch], list[int]]

BGS, LRG, ELG = 1 << 60, 1 << 0, 1 << 1


def one_of_four(value: Any, row: int = 1, rest: Any = 0) -> Any:
    values = [rest] * 4
    values[row] = value
    return np.array(values)


@pytest.mark.parametrize(
    ("column", "values", "flag"),
    [
        ("COADD_FIBERSTATUS", one_of_four(8), Flag.FIBRE),
        ("COADD_FIBERSTATUS", one_of_four(1 << 25), Flag.FIBRE),
        ("OBJTYPE", one_of_four("SKY", rest="TGT"), Flag.NOT_TARGET),
        ("OBJTYPE", one_of_four("BAD", rest="TGT"), Flag.NOT_TARGET),
        ("OBJTYPE", one_of_four("", rest="TGT"), Flag.NOT_TARGET),
    ],
    ids=["status 8", "status 2**25", "SKY", "BAD", "empty"],
)
def test_bad_fibres_are_cut(
    write_coadd: CoaddWriter,
    write_redrock: RedrockWriter,
    column: str,
    values: Any,
    flag: Flag,
    read_all: Reader,
    targets: Targets,
    target_ids: tuple[int, ...],
) -> None:
    coadd = write_coadd(fibermap={column: values})
    write_redrock(coadd)
    assert targets(DESI().read(str(coadd))) == [target_ids[row] for row in (0, 2, 3)]
    everything = read_all(coadd)
    assert targets(everything) == list(target_ids)
    assert Flag(int(everything.flags[1])) == flag


def test_redshift_warnings_are_cut(
    write_coadd: CoaddWriter,
    write_redrock: RedrockWriter,
    read_all: Reader,
    targets: Targets,
    target_ids: tuple[int, ...],
) -> None:
    coadd = write_coadd()
    write_redrock(coadd, ZWARN=one_of_four(4))  # the second row is the first target
    assert targets(DESI().read(str(coadd))) == list(target_ids[1:])
    assert Flag(int(read_all(coadd).flags[0])) == Flag.Z_WARNING


# What redrock says of the first target (at z = 0.1), and the classes that it fails.
UNCERTAIN = [
    ({"ZERR": 5.4e-4, "DELTACHI2": 40.1}, ()),
    ({"ZERR": 5.6e-4, "DELTACHI2": 100.0}, (BGS, BGS | ELG)),
    ({"ZERR": 1e-5, "DELTACHI2": 39.9}, (BGS, BGS | ELG)),
    ({"ZERR": 1e-5, "DELTACHI2": 14.9}, (BGS, BGS | ELG, LRG)),
    ({"ZERR": 1e-2, "DELTACHI2": 15.1}, (BGS, BGS | ELG)),
]


@pytest.mark.parametrize("phase", ["", "SV1_", "SV3_"])
@pytest.mark.parametrize("kind", [BGS, BGS | ELG, LRG, ELG, 0])
@pytest.mark.parametrize(("quality", "failing"), UNCERTAIN)
def test_uncertain_redshifts_are_cut_by_class(
    write_coadd: CoaddWriter,
    write_redrock: RedrockWriter,
    phase: str,
    kind: int,
    quality: dict[str, float],
    failing: tuple[int, ...],
    read_all: Reader,
    targets: Targets,
    target_ids: tuple[int, ...],
) -> None:
    columns = {"DESI_TARGET": None, f"{phase}DESI_TARGET": np.full(4, kind)}
    coadd = write_coadd(fibermap=columns)
    good = {"ZERR": 1e-5, "DELTACHI2": 1000.0}
    write_redrock(coadd, **{n: one_of_four(v, rest=good[n]) for n, v in quality.items()})
    expected = target_ids[1:] if kind in failing else target_ids
    assert targets(DESI().read(str(coadd))) == list(expected)
    flagged = [bool(flag & int(Flag.Z_UNCERTAIN)) for flag in read_all(coadd).flags.tolist()]
    assert flagged == [kind in failing, False, False, False]


def test_all_phases_of_the_survey_count(
    write_coadd: CoaddWriter,
    write_redrock: RedrockWriter,
    targets: Targets,
    target_ids: tuple[int, ...],
) -> None:
    phases = {"SV1_DESI_TARGET": one_of_four(BGS, row=0), "SV3_DESI_TARGET": np.full(4, ELG)}
    coadd = write_coadd(fibermap={"DESI_TARGET": None} | phases)
    write_redrock(coadd, DELTACHI2=np.full(4, 20.0))
    assert targets(DESI().read(str(coadd))) == list(target_ids[1:])


def test_nothing_left_is_an_error_that_says_why(
    write_coadd: CoaddWriter, target_ids: tuple[int, ...]
) -> None:
    coadd = write_coadd(fibermap={"OBJTYPE": np.array(["SKY"] * 4)})
    with pytest.raises(
        NoSpectraError, match=f"{target_ids[0]}-sv3-bright-57: sky fibre or no object"
    ):
        DESI().read(str(coadd))
