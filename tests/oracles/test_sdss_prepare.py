"""Real spectra of SDSS and BOSS are prepared as spender 0.3 does, where that is sound.

spender divides by the median of 5300-5850 Angstrom, which is 0 where that window is not
observed, and negative for some faint spectra and sky fibres: it then gives NaN, or turns
the spectrum upside down. All other files must agree; these must come out finite, upright
and flagged.

The redshift of a sky fibre means nothing and our loader drops it, where spender uses it.
To compare the rest, those files are prepared here with the redshift that spender read.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from spender_sdss.instrument import BOSS, SDSS
from torch import Tensor

from spender_core.batch import Flag, SpectrumBatch
from spender_core.interfaces import Instrument

theirs = pytest.importorskip("spender.data.sdss", reason="the oracle spender 0.3 is not installed")

TOLERANCE = 1e-6
CLASSES = {"sdss": theirs.SDSS, "boss": theirs.BOSS}


@dataclass(frozen=True)
class Prepared:
    """A file as spender prepares it, and as we do.

    Attributes:
        name: Of the file.
        spec: What spender returns, like w, norm, z and zerr.
        read: What `instrument.read` returns.
        raw: What the loader returns, with spender's redshift.
        same_z: The same, prepared.
    """

    name: str
    spec: Tensor
    w: Tensor
    norm: float
    z: float
    zerr: float
    read: SpectrumBatch
    raw: SpectrumBatch
    same_z: SpectrumBatch

    @property
    def sound(self) -> bool:
        return bool(np.isfinite(self.norm)) and self.norm > 0

    @property
    def is_target(self) -> bool:
        return not int(self.read.flags[0]) & Flag.NOT_TARGET


def _instrument_of(path: Path) -> Instrument:
    instruments: tuple[Instrument, ...] = (SDSS(), BOSS())
    fitting = [n for n in instruments if n.loader.recognises(str(path))]
    assert len(fitting) == 1, f"{path.name} is recognised by {fitting}"
    return fitting[0]


def _prepare(path: Path) -> Prepared:
    instrument = _instrument_of(path)
    spec, w, *numbers = CLASSES[instrument.name].prepare_spectrum(str(path))
    norm, z, zerr = (float(number) for number in numbers)
    raw = instrument.loader.load(str(path)).replace(z=[z])
    read = instrument.read(path, quality=False)
    return Prepared(path.name, spec, w, norm, z, zerr, read, raw, instrument.prepare(raw))


@pytest.fixture(scope="module")
def prepared(real_data: Path) -> list[Prepared]:
    paths = sorted((real_data / "sdss" / "sas").rglob("spec-*.fits"))
    with warnings.catch_warnings():
        # spender leaves its files open
        warnings.simplefilter("ignore", ResourceWarning)
        files = [_prepare(path) for path in paths]
        gc.collect()
    return files


def _deviations(
    files: list[Prepared],
    measure: Callable[[Prepared], float],
    record: Callable[[str, float], None],
) -> dict[str, float]:
    """Return the files that deviate by more than the tolerance, and note the largest."""
    measured = {file.name: measure(file) for file in files}
    assert len(measured) == len(files)
    record("files", len(measured))
    record("largest deviation", max(measured.values()))
    return {name: value for name, value in measured.items() if not value <= TOLERANCE}


def _relative(ours: Tensor, expected: Tensor) -> float:
    return float((ours.double() - expected.double()).abs().max() / expected.abs().max())


def _flux_of(batch: str) -> Callable[[Prepared], float]:
    return lambda file: _relative(getattr(file, batch).flux[0], file.spec)


def _ivar_of(batch: str) -> Callable[[Prepared], float]:
    return lambda file: _relative(getattr(file, batch).ivar[0], file.w)


def _norm_of(batch: str) -> Callable[[Prepared], float]:
    return lambda file: abs(float(getattr(file, batch).norm[0]) / file.norm - 1)


QUANTITIES = {"flux": _flux_of, "ivar": _ivar_of, "norm": _norm_of}


def test_there_is_enough_to_compare(
    prepared: list[Prepared], record_deviation: Callable[[str, float], None]
) -> None:
    sound = [file for file in prepared if file.sound]
    counts = {
        "files": len(prepared),
        "boss": sum(file.read.instrument == "boss" for file in prepared),
        "sound": len(sound),
        "sound targets": sum(file.is_target for file in sound),
        "negative norm": sum(file.norm < 0 for file in prepared),
        "zero norm": sum(file.norm == 0 for file in prepared),
    }
    for name, count in counts.items():
        record_deviation(name, count)
    assert counts["files"] >= 100
    assert counts["boss"] >= 20
    assert counts["sound"] >= 50
    assert counts["sound targets"] >= 30
    assert counts["negative norm"] >= 10
    assert counts["zero norm"] >= 40


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_sound_files_equal_spender_at_its_redshift(
    prepared: list[Prepared], quantity: str, record_deviation: Callable[[str, float], None]
) -> None:
    files = [file for file in prepared if file.sound]
    assert _deviations(files, QUANTITIES[quantity]("same_z"), record_deviation) == {}


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_sound_targets_are_read_as_by_spender(
    prepared: list[Prepared], quantity: str, record_deviation: Callable[[str, float], None]
) -> None:
    files = [file for file in prepared if file.sound and file.is_target]
    assert _deviations(files, QUANTITIES[quantity]("read"), record_deviation) == {}


def test_redshifts_are_those_of_spender(prepared: list[Prepared]) -> None:
    targets = [file for file in prepared if file.is_target]
    assert len(targets) >= 50
    for file in targets:
        assert float(file.read.z[0]) == file.z, file.name
        # a negative uncertainty is a failure code
        assert float(file.read.zerr[0]) == (file.zerr if file.zerr >= 0 else np.inf), file.name


def test_the_same_pixels_are_good(prepared: list[Prepared]) -> None:
    """Weights decide which pixels count; their number must agree to the last one."""
    mismatched = [
        file.name
        for file in prepared
        if file.sound and not torch.equal(file.same_z.good[0], file.w > 0)
    ]
    assert mismatched == []


def test_sound_files_are_not_flagged(prepared: list[Prepared]) -> None:
    flagged = [
        file.name
        for file in prepared
        if file.sound and int(file.same_z.flags[0]) & (Flag.NORM_RMS | Flag.EMPTY)
    ]
    assert flagged == []


def test_only_sky_fibres_are_read_with_another_norm(prepared: list[Prepared]) -> None:
    """As read, only sky fibres, which have no redshift, are normalised by their RMS."""
    for file in prepared:
        if file.sound:
            used_rms = bool(int(file.read.flags[0]) & Flag.NORM_RMS)
            assert used_rms == (not file.is_target), file.name


def test_all_others_are_flagged(prepared: list[Prepared]) -> None:
    others = [file for file in prepared if not file.sound]
    assert len(others) >= 50
    for file in others:
        for batch in (file.read, file.same_z):
            assert int(batch.flags[0]) & (Flag.NORM_RMS | Flag.EMPTY), file.name


@pytest.mark.parametrize("batch", ["read", "same_z"])
def test_all_files_are_finite_and_upright(prepared: list[Prepared], batch: str) -> None:
    for file in prepared:
        made: SpectrumBatch = getattr(file, batch)
        assert bool(made.flux.isfinite().all()), file.name
        assert bool(made.ivar.isfinite().all()), file.name
        assert float(made.norm[0]) > 0, file.name
        assert torch.equal(made.flux.sign(), file.raw.flux.sign()), file.name
        restored = made.flux.double() * made.norm[:, None]
        assert _relative(restored, file.raw.flux) <= TOLERANCE, file.name


def test_sky_fibres_have_no_redshift(prepared: list[Prepared]) -> None:
    sky = [file for file in prepared if not file.is_target]
    assert len(sky) >= 30
    assert all(bool(file.read.z.isnan()) for file in sky)
    assert all(int(file.read.flags[0]) & Flag.NO_Z for file in sky)
