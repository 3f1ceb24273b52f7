"""`Instrument.batch`: spectra of a user, as arrays or as `Spectrum` of specutils."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from spender_core.batch import Flag
from spender_core.errors import GridError, InputError
from spender_core.grid import Linear
from spender_core.interfaces import Instrument

GRID = Linear(5000.0, 2.0, 500)
ID = np.dtype([("FILE", "i8"), ("ROW", "i8")])


class Unmasked(Instrument):
    name = "unmasked"
    grid = GRID
    loader: Any = None


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


def test_one_redshift_serves_all_and_columns_pass_through(mine: Instrument) -> None:
    flux = np.ones((3, 500))
    ids = np.array([(1, 1), (1, 2), (1, 3)], dtype=ID)
    batch = mine.batch(GRID.wave, flux, flux, z=0.1, zerr=[0.1, 0.2, 0.3], ids=ids, flags=[0, 4, 0])
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
        ((GRID.wave, ONES, np.inf * ONES), "ivar must be finite and >= 0"),
        ((GRID.wave, np.nan * ONES, ONES), "flux is not finite in some pixels"),
        ((GRID.wave, ONES * 1j, ONES), "flux must hold real numbers, not complex128"),
        ((GRID.wave, ["a"] * 500, ONES), "flux must hold real numbers, not <U1"),
        ((GRID.wave, [[1.0], [1.0, 2.0]], ONES), "flux cannot be used as an array"),
        ((GRID.wave, ONES, [None] * 500), "ivar must hold real numbers, not object"),
        (("wave", ONES, ONES), "wave must hold real numbers, not <U4"),
        ((GRID.wave, ONES, ONES, "high"), "z must hold real numbers"),
        ((GRID.wave, ONES, ONES, np.inf), "z must be > -1, or NaN"),
        ((GRID.wave, [], []), "give flux and ivar as"),
        ((GRID.wave, ONES, np.nan * ONES), "ivar must be finite and >= 0"),
        ((GRID.wave, np.nan * ONES, ONES), "flux is not finite in some pixels with ivar > 0"),
        ((GRID.wave / 10, ONES, ONES), r"covers 500\.0 to 599\.8.*is it in vacuum Angstrom"),
        ((GRID.wave, ONES, ONES, -1.5), "z must be > -1"),
        ((GRID.wave, ONES, ONES, [0.1, 0.2]), "redshift|z must have shape"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    arguments: tuple[Any, ...], message: str, mine: Instrument
) -> None:
    with pytest.raises(InputError, match=message):
        mine.batch(*arguments)


def test_wavelengths_that_do_not_increase_are_refused(mine: Instrument) -> None:
    with pytest.raises(GridError, match="sort the spectrum first"):
        mine.batch(GRID.wave[::-1], ONES, ONES)


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
