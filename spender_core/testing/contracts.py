"""What every instrument, loader and model must satisfy."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spender_core import weights
from spender_core.batch import Flag, SpectrumBatch
from spender_core.errors import (
    FileError,
    InputError,
    MissingFileError,
    PartialReadWarning,
    RedshiftError,
    SpenderError,
)
from spender_core.grid import Grid
from spender_core.interfaces import Instrument, Loader, Model
from spender_core.records import ModelCard
from spender_core.testing.checks import CHECKS, Check
from spender_core.testing.example import Example
from spender_core.testing.faults import NotApplicable
from spender_core.testing.running import apply
from spender_core.testing.subject import Subject


def _made(check: Check, subject: Subject) -> None:
    """Make a check; one that has nothing to look at is skipped, saying why."""
    try:
        apply(check, subject)
    except NotApplicable as nothing:
        pytest.skip(str(nothing))


def _needing(need: str) -> pytest.MarkDecorator:
    checks = [check for check in CHECKS if check.needs == need]
    return pytest.mark.parametrize("check", checks, ids=lambda check: check.name.replace(" ", "_"))


class _Contract:
    """What contracts share."""

    @pytest.fixture
    def example(self) -> Example | None:
        """Files with what is true of them; None where the fixture `files` is enough."""
        return None


class InstrumentContract(_Contract):
    """Subclasses override the fixture `instrument`."""

    @_needing("instrument")
    def test_instrument_keeps(self, check: Check, instrument: Instrument, tmp_path: Path) -> None:
        """Every check of an instrument passes."""
        _made(check, Subject(lambda: instrument, tmp_path))

    @pytest.fixture
    def instrument(self) -> Instrument:
        """The instrument under test."""
        pytest.fail(f"{type(self).__name__} must override the fixture 'instrument'")

    def test_has_a_name_and_a_grid_in_angstrom(self, instrument: Instrument) -> None:
        """The name is an identifier; the grid increases, in Angstrom."""
        assert instrument.name.isidentifier(), f"{instrument.name!r} is not an identifier"
        assert isinstance(instrument.grid, Grid)
        wave = instrument.wave
        assert wave.dtype == np.float64
        assert (np.diff(wave) > 0).all()
        assert 100 < wave[0] < wave[-1] < 1e6, (
            f"the grid runs from {wave[0]:g} to {wave[-1]:g}: is it in Angstrom?"
        )

    def test_grid_hash_is_stable(self, instrument: Instrument) -> None:
        """Two instances of the instrument have one grid."""
        assert type(instrument)().grid.sha256 == instrument.grid.sha256

    def test_mask_fits_the_grid(self, instrument: Instrument) -> None:
        """The mask, if there is one, is boolean, of the grid's size, and leaves pixels."""
        if instrument.mask is not None:
            assert instrument.mask.dtype == bool
            assert instrument.mask.shape == instrument.wave.shape
            assert not instrument.mask.all()

    def test_survives_pickling(self, instrument: Instrument) -> None:
        """The instrument can be sent to another process."""
        copy = pickle.loads(pickle.dumps(instrument))
        assert copy.name == instrument.name
        assert copy.grid == instrument.grid

    def test_takes_arrays_on_its_own_grid(self, instrument: Instrument) -> None:
        """Values on the grid are taken as they are, normalised, and masked."""
        flux = np.linspace(2.0, 3.0, instrument.grid.size)
        batch = instrument.batch(instrument.wave, flux, np.full_like(flux, 4.0), z=0.0)
        assert batch.instrument == instrument.name
        restored = (batch.flux[0] * batch.norm[0]).numpy()
        np.testing.assert_allclose(restored, flux, rtol=1e-5)
        if instrument.mask is not None:
            assert not batch.good[0].numpy()[instrument.mask].any()

    def test_normalises_spectra_without_redshift(self, instrument: Instrument) -> None:
        """Without z the RMS is the norm, and two flags say so."""
        ones = np.ones(instrument.grid.size)
        batch = instrument.batch(instrument.wave, -2.0 * ones, ones)
        assert float(batch.norm[0]) == pytest.approx(2.0)
        assert Flag.NO_Z | Flag.NORM_RMS in Flag(int(batch.flags[0]))

    def test_refuses_a_spectrum_elsewhere(self, instrument: Instrument) -> None:
        """A spectrum that the grid does not cover is refused."""
        wave = instrument.wave[-1] * np.linspace(2.0, 3.0, 50)
        with pytest.raises(InputError, match="vacuum Angstrom"):
            instrument.batch(wave, np.ones(50), np.ones(50))


class LoaderContract(_Contract):
    """Subclasses override the fixtures `instrument`, and `example` or `files`."""

    @_needing("files")
    def test_loader_keeps(
        self,
        check: Check,
        instrument: Instrument,
        example: Example | None,
        files: list[Path],
        tmp_path: Path,
    ) -> None:
        """Every check of what is read passes."""
        known = example or Example(tuple(files))
        _made(check, Subject(lambda: instrument, tmp_path, known))

    @pytest.fixture
    def instrument(self) -> Instrument:
        """The instrument whose loader is tested."""
        pytest.fail(f"{type(self).__name__} must override the fixture 'instrument'")

    @pytest.fixture
    def files(self, example: Example | None) -> list[Path]:
        """Files of the instrument, with at least one usable spectrum each."""
        if example is None:
            pytest.fail(f"{type(self).__name__} must override the fixture 'example' or 'files'")
        return list(example.paths)

    @pytest.fixture
    def loader(self, instrument: Instrument) -> Loader:
        """The loader of the instrument."""
        assert isinstance(instrument.loader, Loader), f"{instrument.name} has no Loader"
        return instrument.loader

    def test_recognises_its_files(self, loader: Loader, files: list[Path]) -> None:
        """Its own files are recognised by their content."""
        assert all(loader.recognises(str(file)) for file in files)

    def test_does_not_recognise_others(self, loader: Loader, tmp_path: Path) -> None:
        """A FITS file with another content is not recognised."""
        from astropy.io import fits

        other = tmp_path / "other.fits"
        fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.zeros((4, 4)))]).writeto(other)
        assert not loader.recognises(str(other))

    def test_loads_raw_spectra(
        self, instrument: Instrument, loader: Loader, files: list[Path]
    ) -> None:
        """Raw spectra are on the grid, in the archive's units, with ids."""
        for file in files:
            batch = loader.load(str(file))
            assert isinstance(batch, SpectrumBatch)
            assert batch.flux.shape[1] == instrument.grid.size
            assert batch.instrument == instrument.name
            assert (batch.norm == 1).all(), "a loader does not normalise"
            assert batch.ids is not None
            assert batch.ids.dtype == loader.id_dtype
            assert len(np.unique(batch.ids)) == len(batch), "ids must be unique in a file"

    def test_reads_the_same_twice(self, instrument: Instrument, files: list[Path]) -> None:
        """Order and values are stable."""
        first, second = (instrument.read(str(files[0]), quality=False) for _ in range(2))
        assert torch.equal(first.flux, second.flux)
        assert torch.equal(first.ivar, second.ivar)
        assert (first.ids == second.ids).all()

    def test_read_joins_files_in_order(self, instrument: Instrument, files: list[Path]) -> None:
        """Many files give the batches of each, one after the other."""
        paths = [str(file) for file in (*files, files[0])]
        joined = instrument.read(paths, quality=False)
        single = [instrument.read(path, quality=False) for path in paths]
        assert torch.equal(joined.flux, torch.cat([batch.flux for batch in single]))

    def test_read_normalises(
        self, instrument: Instrument, loader: Loader, files: list[Path]
    ) -> None:
        """Flux * norm is the archive's flux; ivar is 0 where the instrument is masked."""
        raw = loader.load(str(files[0]))
        batch = instrument.read(str(files[0]), quality=False)
        assert (batch.norm > 0).all()
        torch.testing.assert_close(batch.flux.double() * batch.norm[:, None], raw.flux.double())
        if instrument.mask is not None:
            assert not batch.good[:, torch.from_numpy(instrument.mask)].any()

    def test_reads_line_spread_functions_if_it_can(
        self, instrument: Instrument, loader: Loader, files: list[Path]
    ) -> None:
        """With `lsf=True` the same spectra come with an LSF each, or an error names the loader."""
        if type(loader).load_with_lsf is Loader.load_with_lsf:
            with pytest.raises(InputError, match=type(loader).__name__):
                instrument.read(str(files[0]), lsf=True)
            return
        for file in files:
            plain = instrument.read(str(file), quality=False)
            batch = instrument.read(str(file), quality=False, lsf=True)
            assert plain.lsf is None, "an LSF is read only on request"
            assert batch.lsf is not None
            assert len(batch.lsf) == len(batch)
            assert torch.equal(batch.flux, plain.flux)
            assert torch.equal(batch.ivar, plain.ivar)
            broadened = batch.lsf(batch.flux)
            assert broadened.shape == batch.flux.shape
            assert broadened.isfinite().all()

    def test_reads_rows_alone_if_it_can(self, loader: Loader, files: list[Path]) -> None:
        """`load_rows` gives the rows of `load`, in the order of the file, and lacks nothing."""
        if not loader.reads_rows:
            pytest.skip(f"{type(loader).__name__} has no load_rows, which is optional")
        field = next(
            name for name in loader.id_dtype.names or () if loader.id_dtype[name].kind == "i"
        )
        for file in files:
            whole = loader.load(str(file))
            assert whole.ids is not None
            values = tuple(whole.ids[field][::-2].tolist())
            keep = np.isin(whole.ids[field], values)
            rows = loader.load_rows(str(file), {field: (*values, -(2**62))}, False)
            assert rows.ids is not None
            assert (rows.ids == whole.ids[keep]).all()
            for name in ("flux", "ivar", "z", "zerr", "flags"):
                found, expected = getattr(rows, name), getattr(whole, name)[keep]
                torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
            assert len(loader.load_rows(str(file), {field: (-(2**62),)}, False)) == 0

    def test_loads_many_as_it_loads_one(
        self, loader: Loader, files: list[Path], tmp_path: Path
    ) -> None:
        """`load_many` gives what `load` gives, file by file, and an error for a bad one."""
        if not loader.loads_many:
            pytest.skip(f"{type(loader).__name__} has no load_many, which is optional")
        absent = str(tmp_path / "absent.fits")
        paths = [str(files[0]), absent, *map(str, files)]
        together, rows = loader.load_many([(path,) for path in paths], False)
        assert together is not None
        assert isinstance(rows[1], MissingFileError)
        for path, which in zip(paths, rows, strict=True):
            if not isinstance(which, slice):
                assert path == absent
                continue
            alone = loader.load(path)
            assert (together.ids[which] == alone.ids).all()
            for name in ("flux", "ivar", "z", "zerr", "flags"):
                found, expected = getattr(together, name)[which], getattr(alone, name)
                torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)

    def test_missing_file(self, instrument: Instrument, tmp_path: Path) -> None:
        """A missing file is named."""
        with pytest.raises(MissingFileError, match=r"absent\.fits"):
            instrument.read(str(tmp_path / "absent.fits"))

    def test_damaged_files(self, instrument: Instrument, files: list[Path], tmp_path: Path) -> None:
        """Truncated and wrong files are refused, naming them."""
        content = files[0].read_bytes()
        parts = {f"short{k}": content[: len(content) * k // 10] for k in (1, 3, 6, 9)}
        for name, part in (parts | {"text": b"<html>503</html>", "empty": b""}).items():
            damaged = tmp_path / f"{name}.fits"
            damaged.write_bytes(part)
            with pytest.raises(FileError, match=name):
                instrument.read(str(damaged))

    def test_garbled_files(self, instrument: Instrument, files: list[Path], tmp_path: Path) -> None:
        """Whatever byte is wrong, reading gives spectra, or one error that names the file."""
        rng, content = np.random.default_rng(0), files[0].read_bytes()
        garbled = tmp_path / "garbled.fits"
        for _ in range(20):
            damaged = bytearray(content)
            for place in rng.integers(0, min(len(content), 1 << 16), 3):
                damaged[place] = rng.integers(256)
            garbled.write_bytes(damaged)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # readers of FITS remark on oddities
                    told = f"garbled: {len(instrument.read(str(garbled), quality=False))} spectra"
            except SpenderError as error:
                told = str(error)
            assert "garbled" in told

    def test_good_files_come_without_the_bad_ones(
        self, instrument: Instrument, files: list[Path], tmp_path: Path
    ) -> None:
        """Of several files the good ones are delivered; `failures` lists the others."""
        bad = tmp_path / "empty.fits"
        bad.touch()
        with pytest.warns(PartialReadWarning, match="1 of 2 sources"):
            batch = instrument.read([str(bad), str(files[0])], quality=False)
        assert torch.equal(batch.flux, instrument.read(str(files[0]), quality=False).flux)
        assert [failure.source for failure in batch.failures] == [str(bad)]
        with pytest.raises(FileError, match="empty"):
            instrument.read([str(bad), str(files[0])], strict=True)


class ModelContract:
    """Subclasses override the fixture `model`."""

    @pytest.fixture
    def model(self) -> Model:
        """The model under test, with any weights."""
        pytest.fail(f"{type(self).__name__} must override the fixture 'model'")

    def test_shapes(self, model: Model) -> None:
        """Latents, restframe and observed spectra have the shapes of the interface."""
        model.eval()
        for instrument in model.instruments.values():
            s = model.encode(torch.rand(3, instrument.grid.size), instrument)
            x = model.decode(s)
            y, valid = model.transform(x, instrument, z=torch.full((3,), 0.05))
            assert s.shape[0] == 3
            assert x.shape == (3, len(model.wave_rest))
            assert y.shape == valid.shape == (3, instrument.grid.size)
            assert (y[~valid] == 0).all() or instrument.name in model.lsf

    def test_gradients_reach_all_parameters(self, model: Model) -> None:
        """The loss has a finite gradient for every parameter that it uses, and for z."""
        instrument = model.instrument
        z = torch.tensor([0.02, 0.05], dtype=torch.float64, requires_grad=True)
        flux = torch.rand(2, instrument.grid.size)
        model.loss(flux, torch.ones_like(flux), instrument=instrument, z=z).backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert gradients
        assert all(bool(gradient.isfinite().all()) for gradient in gradients)
        assert z.grad is not None
        assert z.grad.isfinite().all()

    def test_unknown_redshift_is_refused(self, model: Model) -> None:
        """A transform at NaN raises."""
        s = model.encode(torch.rand(1, model.instrument.grid.size))
        with pytest.raises(RedshiftError):
            model.transform(model.decode(s), z=[float("nan")])

    def test_weights_round_trip(self, model: Model, tmp_path: Path) -> None:
        """Config and weights make the same model again."""
        model.eval()
        path = tmp_path / "model.safetensors"
        flux = torch.rand(2, model.instrument.grid.size)
        s = model.encode(flux)
        card = ModelCard(
            name="contract", architecture="contract", latents=s.shape[1], config=model.config
        )
        weights.write(path, model, card)
        stored, tensors = weights.read(path)
        rest: Any = tensors.pop(weights.WAVE_REST)
        copy = type(model).build(stored, list(model.instruments.values()), rest).eval()
        weights.restore(copy, tensors, str(path))
        assert torch.equal(copy.wave_rest, model.wave_rest)
        assert torch.equal(copy.encode(flux), s)
        assert torch.equal(copy.decode(s), model.decode(s))
