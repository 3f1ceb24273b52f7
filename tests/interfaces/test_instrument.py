"""What core builds on an instrument: `batch`, `read`, `prepare` and the quality cuts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spender_core.batch import Flag, SpectrumBatch
from spender_core.errors import GridError, InputError, MissingFileError, NoSpectraError
from spender_core.grid import Linear
from spender_core.interfaces import Instrument, Loader, Source

GRID = Linear(5000.0, 2.0, 500)
ID = np.dtype([("FILE", "i8"), ("ROW", "i8")])


class MemoryLoader(Loader):
    """Holds its "files" in memory, and counts how often each is loaded."""

    id_dtype = ID

    def __init__(self, files: dict[str, SpectrumBatch]) -> None:
        self.files, self.loads = files, Counter[str]()

    def recognises(self, url: str) -> bool:
        return url in self.files

    def load(self, url: str) -> SpectrumBatch:
        self.loads[url] += 1
        if url not in self.files:
            raise MissingFileError(f"there is no file {url}")
        return self.files[url]

    def locate(self, ids: Sequence[Any], root: str | None, release: str | None) -> list[Source]:
        folder = f"{root or 'archive'}/{release or 'latest'}"
        return [
            Source((f"{folder}/{row[0]}.lite", f"{folder}/{row[0]}.full"), {"ROW": row[1]})
            for row in ids
        ]


class Mine(Instrument):
    name = "mine"
    grid = GRID
    loader: Any = None
    mask = (GRID.wave > 5990) & (GRID.wave < 5998)


class Unmasked(Instrument):
    name = "unmasked"
    grid = GRID
    loader: Any = None


def raw(file: int, rows: Sequence[int], flags: Sequence[int] | None = None) -> SpectrumBatch:
    """Return unnormalised spectra whose level tells file and row."""
    level = torch.tensor([100.0 * file + row for row in rows])[:, None]
    flux = level.expand(-1, GRID.size).clone()
    ids = np.array([(file, row) for row in rows], dtype=ID)
    return SpectrumBatch(
        flux, torch.ones_like(flux), z=[0.0] * len(rows), ids=ids, instrument="mine", flags=flags
    )


@pytest.fixture
def instrument() -> Mine:
    """An instrument with two files, of three spectra and of one."""
    made = Mine()
    made.loader = MemoryLoader(
        {
            "archive/latest/1.lite": raw(1, [1, 2, 3]),
            "archive/latest/2.full": raw(2, [1]),
            "copy/old/1.lite": raw(3, [1]),
        }
    )
    return made


FIRST, SECOND = "archive/latest/1.lite", "archive/latest/2.full"


def levels(batch: SpectrumBatch) -> list[float]:
    return [round(float(value), 3) for value in batch.norm]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (FIRST, [101, 102, 103]),
        (Path(FIRST), [101, 102, 103]),
        ([SECOND, FIRST], [201, 101, 102, 103]),
        ((SECOND, FIRST), [201, 101, 102, 103]),
        ([Path(SECOND), SECOND], [201, 201]),
        ([(1, 3), (2, 1), (1, 1), (1, 3)], [103, 201, 101, 103]),
        (((1, 3), (2, 1)), [103, 201]),
        ((1, 2), [102]),
        (np.array([(1, 2), (2, 1)], dtype=ID), [102, 201]),
        (np.array([(1, 2), (2, 1)], dtype=ID)[0], [102]),
        ([np.array([(1, 2)], dtype=ID)[0]], [102]),
    ],
    ids=repr,
)
def test_read_gives_what_was_asked_for_in_order(
    instrument: Mine, source: Any, expected: list[float]
) -> None:
    batch = instrument.read(source)
    assert levels(batch) == expected
    assert batch.ids is not None
    assert [100 * int(file) + int(row) for file, row in batch.ids] == expected
    assert batch.instrument == "mine"


def test_a_single_id_may_begin_with_a_name() -> None:
    """As ids of DESI do: (survey, program, healpix)."""

    class Named(MemoryLoader):
        def locate(self, ids: Sequence[Any], root: str | None, release: str | None) -> list[Source]:
            return [Source((f"{name}/{number}",)) for name, number in ids]

    instrument = Mine()
    instrument.loader = Named({"sv3/57": raw(1, [1])})
    assert levels(instrument.read([("sv3", 57)])) == [101]
    assert levels(instrument.read(("sv3", 57))) == [101]


def test_a_file_with_several_of_the_ids_is_read_once(instrument: Mine) -> None:
    instrument.read([(1, 3), (1, 1), (1, 2)])
    assert instrument.loader.loads == {FIRST: 1}


def test_the_next_place_is_tried_where_a_file_is_missing(instrument: Mine) -> None:
    assert levels(instrument.read([(2, 1)])) == [201]
    assert set(instrument.loader.loads) == {"archive/latest/2.lite", SECOND}


def test_root_and_release_reach_the_loader(instrument: Mine) -> None:
    assert levels(instrument.read([(1, 1)], root="copy", release="old")) == [301]
    assert levels(instrument.read([(1, 1)], root=Path("copy"), release="old")) == [301]


def test_what_does_not_exist_is_named(instrument: Mine) -> None:
    with pytest.raises(MissingFileError, match=r"absent\.fits"):
        instrument.read([FIRST, "absent.fits"])
    with pytest.raises(MissingFileError, match=r"none of these.*latest/9\.lite, .*latest/9\.full"):
        instrument.read([(1, 1), (9, 1)])
    with pytest.raises(MissingFileError, match=r"1\.lite holds no spectrum with ROW 7"):
        instrument.read([(1, 7)])


@pytest.mark.parametrize("source", [[], (), np.array([], dtype=ID)], ids=repr)
def test_nothing_cannot_be_read(instrument: Mine, source: Any) -> None:
    with pytest.raises(InputError, match="nothing to read"):
        instrument.read(source)


def test_loaders_without_an_archive_ask_for_paths() -> None:
    class PathLoader(MemoryLoader):
        locate = Loader.locate

    instrument = Mine()
    instrument.loader = PathLoader({"a": raw(1, [1])})
    assert len(instrument.read("a")) == 1
    with pytest.raises(InputError, match=r"PathLoader knows no archive.*\(1, 2\); give paths"):
        instrument.read([(1, 2)])


FLAGS = [0, int(Flag.FIBRE), int(Flag.NO_Z), int(Flag.Z_WARNING | Flag.NOT_TARGET)]


def test_quality_cuts_leave_out_what_the_survey_rejects(instrument: Mine) -> None:
    instrument.loader.files["a"] = raw(1, [1, 2, 3, 4], FLAGS)
    assert levels(instrument.read("a")) == [101, 103]
    assert levels(instrument.read("a", quality=False)) == [101, 102, 103, 104]


def test_an_instrument_chooses_its_cuts(instrument: Mine) -> None:
    instrument.loader.files["a"] = raw(1, [1, 2, 3, 4], FLAGS)
    instrument.rejects = Flag.NO_Z
    assert levels(instrument.read("a")) == [101, 102, 104]


def test_spectra_without_a_good_pixel_are_cut(instrument: Mine) -> None:
    spectra = raw(1, [1, 2])
    instrument.loader.files["a"] = spectra.replace(ivar=spectra.ivar * torch.tensor([[0.0], [1.0]]))
    assert levels(instrument.read("a")) == [102]
    everything = instrument.read("a", quality=False)
    assert Flag.EMPTY in Flag(int(everything.flags[0]))


def test_all_spectra_cut_is_an_error_that_says_why(instrument: Mine) -> None:
    instrument.loader.files["a"] = raw(1, range(1, 8), [FLAGS[1], FLAGS[3], *[FLAGS[1]] * 5])
    with pytest.raises(NoSpectraError) as caught:
        instrument.read("a")
    message = str(caught.value)
    assert "none of 7 spectra passes the quality cuts of mine" in message
    assert "1-1: fibre flagged by the survey; 1-2: redshift warning" in message
    assert "sky fibre or no object" in message
    assert message.count("1-") == 5
    assert "; ...)" in message
    assert "quality=False" in message


def test_prepare_masks_before_it_normalises() -> None:
    spectra = raw(0, [2])
    flux = spectra.flux.clone()
    flux[:, Mine.mask] = 1e6
    batch = Mine().prepare(spectra.replace(flux=flux, z=[float("nan")]))
    assert levels(batch) == [2.0]
    assert not batch.good[0].numpy()[Mine.mask].any()
    assert batch.good[0].numpy()[~Mine.mask].all()


def test_prepare_keeps_flags_and_completes_them() -> None:
    spectra = raw(1, [1, 2], [int(Flag.FIBRE), 0]).replace(z=[0.1, float("nan")])
    batch = Mine().prepare(spectra)
    assert Flag(int(batch.flags[0])) == Flag.FIBRE
    assert Flag(int(batch.flags[1])) == Flag.NORM_RMS | Flag.NO_Z


def test_prepare_twice_keeps_the_archives_flux() -> None:
    once = Mine().prepare(raw(1, [1, 2]))
    twice = Mine().prepare(once)
    assert levels(twice) == [101.0, 102.0]
    torch.testing.assert_close(twice.flux, once.flux)


def test_flux_and_ivar_are_scaled_together() -> None:
    rng = np.random.default_rng(0)
    flux, ivar = rng.uniform(3, 5, 500), rng.uniform(1, 2, 500)
    batch = Unmasked().batch(GRID.wave, flux, ivar, z=0.0)
    norm = batch.norm[0].item()
    assert 3 < norm < 5
    np.testing.assert_allclose(batch.flux[0] * norm, flux, rtol=1e-6)
    np.testing.assert_allclose(batch.ivar[0] / norm**2, ivar, rtol=1e-6)


def test_the_units_of_a_users_flux_do_not_matter() -> None:
    """Also erg/s/cm2/A, where flux is near 1e-17 and ivar beyond the largest float32."""
    rng = np.random.default_rng(0)
    flux, ivar = rng.uniform(3, 5, 500), rng.uniform(1e5, 1e6, 500)
    usual = Unmasked().batch(GRID.wave, flux, ivar, z=0.0)
    for unit in (1e-17, 1e-25, 1e17):
        other = Unmasked().batch(GRID.wave, flux * unit, ivar / unit**2, z=0.0)
        torch.testing.assert_close(other.flux, usual.flux)
        torch.testing.assert_close(other.ivar, usual.ivar)
        assert other.norm.item() == pytest.approx(usual.norm.item() * unit)


def test_values_on_a_stretch_of_the_grid_are_taken_as_they_are() -> None:
    wave = GRID.wave[100:300]
    flux = np.linspace(1, 2, 200)
    batch = Unmasked().batch(wave, flux, np.ones(200), z=0.0)
    assert batch.good[0].nonzero()[:, 0].tolist() == list(range(100, 300))
    np.testing.assert_allclose(batch.flux[0, 100:300] * batch.norm[0], flux, rtol=1e-6)


def test_wavelengths_beyond_the_grid_are_left_out() -> None:
    wave = np.arange(4900.0, 6200.0, 2.0)
    flux = np.sin(wave / 50) + 2
    batch = Unmasked().batch(wave, flux, np.ones_like(wave), z=0.0)
    inside = (wave >= GRID.wave[0]) & (wave <= GRID.wave[-1])
    np.testing.assert_allclose(batch.flux[0] * batch.norm[0], flux[inside], rtol=1e-6)
    assert batch.good.all()


def test_other_samplings_are_rebinned() -> None:
    wave = np.linspace(5100, 5900, 1601)  # three pixels and two halves in one of the grid
    flux = np.stack([np.full(1601, 3.0), wave / 1000])
    batch = Unmasked().batch(wave, flux, np.ones_like(flux), z=0.0)
    restored = batch.flux * batch.norm[:, None]
    inside = torch.from_numpy((GRID.wave > 5102) & (GRID.wave < 5898))
    assert batch.good[:, inside].all()
    np.testing.assert_allclose(restored[0, inside], 3.0, rtol=1e-6)
    np.testing.assert_allclose(restored[1, inside], GRID.wave[inside] / 1000, rtol=1e-5)
    ivar = batch.ivar[0, inside] / batch.norm[0] ** 2
    variance = (3 * 0.5**2 + 2 * 0.25**2) / 2.0**2
    np.testing.assert_allclose(ivar, 1 / variance, rtol=1e-5)


def test_one_redshift_serves_all_and_columns_pass_through() -> None:
    flux = np.ones((3, 500))
    ids = np.array([(1, 1), (1, 2), (1, 3)], dtype=ID)
    batch = Mine().batch(
        GRID.wave, flux, flux, z=0.1, zerr=[0.1, 0.2, 0.3], ids=ids, flags=[0, 4, 0]
    )
    assert batch.z.tolist() == [0.1, 0.1, 0.1]
    assert batch.zerr.tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert batch.ids is not None
    assert batch.ids.tolist() == ids.tolist()
    assert batch.flags.tolist() == [0, 4, 0]


def test_masked_pixels_may_hold_anything() -> None:
    flux, ivar = np.ones(500), np.ones(500)
    flux[3], ivar[3] = np.nan, 0
    batch = Unmasked().batch(GRID.wave, flux, ivar)
    assert batch.flux.isfinite().all()
    assert not batch.good[0, 3]


ONES = np.ones(500)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((GRID.wave,), "needs wave, flux and ivar"),
        ((GRID.wave, ONES), "needs wave, flux and ivar"),
        ((GRID.wave, ONES[1:], ONES[1:]), r"wave has 500 pixels, flux has shape \(499,\)"),
        ((GRID.wave, ONES, ONES[1:]), r"ivar \(499,\)"),
        ((GRID.wave, np.ones((2, 3, 500)), np.ones((2, 3, 500))), "give flux and ivar as"),
        ((GRID.wave, ONES, -ONES), "ivar must be finite and >= 0"),
        ((GRID.wave, ONES, np.nan * ONES), "ivar must be finite and >= 0"),
        ((GRID.wave, np.nan * ONES, ONES), "flux is not finite in some pixels with ivar > 0"),
        ((GRID.wave / 10, ONES, ONES), r"covers 500\.0 to 599\.8.*is it in vacuum Angstrom"),
        ((GRID.wave, ONES, ONES, -1.5), "z must be > -1"),
        ((GRID.wave, ONES, ONES, [0.1, 0.2]), "redshift|z must have shape"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Mine().batch(*arguments)


def test_wavelengths_that_do_not_increase_are_refused() -> None:
    with pytest.raises(GridError, match="sort the spectrum first"):
        Mine().batch(GRID.wave[::-1], ONES, ONES)


class TestSpecutils:
    """A `Spectrum` of specutils brings wave, flux, uncertainty, mask and redshift."""

    @pytest.fixture
    def spectrum(self) -> Any:
        specutils = pytest.importorskip("specutils", reason="specutils is not installed")
        import astropy.units as u
        from astropy.nddata import StdDevUncertainty

        def make(wave: Any = GRID.wave * u.AA, **changes: Any) -> Any:
            size = len(wave)
            arguments = {
                "spectral_axis": wave,
                "flux": np.linspace(1, 2, size) * u.Unit("1e-17 erg / (s cm2 AA)"),
                "uncertainty": StdDevUncertainty(np.full(size, 0.5)),
            }
            return specutils.Spectrum(**(arguments | changes))

        return make

    def test_values_and_uncertainty(self, spectrum: Any) -> None:
        batch = Unmasked().batch(spectrum())
        np.testing.assert_allclose(batch.flux[0] * batch.norm[0], np.linspace(1, 2, 500), rtol=1e-6)
        np.testing.assert_allclose(batch.ivar[0] / batch.norm[0] ** 2, 4.0, rtol=1e-6)
        assert batch.z.isnan().all()

    def test_mask(self, spectrum: Any) -> None:
        mask = np.zeros(500, dtype=bool)
        mask[7] = True
        batch = Unmasked().batch(spectrum(mask=mask))
        assert (~batch.good[0]).nonzero()[:, 0].tolist() == [7]

    def test_pixels_that_are_not_finite_are_masked(self, spectrum: Any) -> None:
        import astropy.units as u
        from astropy.nddata import InverseVariance

        flux, ivar = np.ones(500), np.ones(500)
        flux[7], ivar[9] = np.nan, np.nan
        batch = Unmasked().batch(spectrum(flux=flux * u.Jy, uncertainty=InverseVariance(ivar)))
        assert (~batch.good[0]).nonzero()[:, 0].tolist() == [7, 9]

    def test_redshift(self, spectrum: Any) -> None:
        assert Unmasked().batch(spectrum(redshift=0.1)).z.tolist() == pytest.approx([0.1])
        assert Unmasked().batch(spectrum(redshift=0.1), z=0.2).z.tolist() == [0.2]

    def test_many_spectra(self, spectrum: Any) -> None:
        import astropy.units as u
        from astropy.nddata import StdDevUncertainty

        flux = np.stack([np.ones(500), np.full(500, 3.0)])
        batch = Unmasked().batch(
            spectrum(flux=flux * u.Jy, uncertainty=StdDevUncertainty(0.1 * flux))
        )
        assert batch.norm.tolist() == [1.0, 3.0]

    @pytest.mark.parametrize("unit", ["nm", "um"])
    def test_units_of_wavelength(self, spectrum: Any, unit: str) -> None:
        import astropy.units as u

        batch = Unmasked().batch(spectrum((GRID.wave * u.AA).to(unit)))
        np.testing.assert_allclose(batch.flux[0] * batch.norm[0], np.linspace(1, 2, 500), rtol=1e-6)

    def test_frequencies_run_the_other_way(self, spectrum: Any) -> None:
        import astropy.units as u

        batch = Unmasked().batch(spectrum((GRID.wave[::-1] * u.AA).to("Hz", u.spectral())))
        np.testing.assert_allclose(batch.flux[0] * batch.norm[0], np.linspace(2, 1, 500), rtol=1e-6)

    def test_units_of_the_uncertainty(self, spectrum: Any) -> None:
        import astropy.units as u
        from astropy.nddata import StdDevUncertainty

        made = spectrum(
            flux=np.ones(500) * u.Jy, uncertainty=StdDevUncertainty(np.full(500, 500.0), unit="mJy")
        )
        batch = Unmasked().batch(made)
        np.testing.assert_allclose(batch.ivar[0], 4.0, rtol=1e-6)

    def test_an_uncertainty_is_needed(self, spectrum: Any) -> None:
        with pytest.raises(InputError, match=r"no uncertainty; set spectrum\.uncertainty"):
            Unmasked().batch(spectrum(uncertainty=None))

    def test_it_comes_alone(self, spectrum: Any) -> None:
        with pytest.raises(InputError, match="brings its own flux and uncertainty"):
            Unmasked().batch(spectrum(), ONES, ONES)


@pytest.mark.parametrize(("good", "flagged"), [(0, False), (9, True), (10, False), (100, False)])
def test_a_spectrum_of_few_good_pixels_is_flagged(good: int, flagged: bool) -> None:
    class Hundred(Instrument):
        name, grid = "hundred", Linear(4000.0, 2.0, 100)
        loader = None  # type: ignore[assignment]

    ivar = np.where(np.arange(100) < good, 1.0, 0.0)
    batch = Hundred().batch(Hundred.grid.wave, np.ones(100), ivar, z=0.0)
    assert bool(int(batch.flags[0]) & Flag.SPARSE) == flagged
