"""Mock galaxies: reproducible, and what they claim to be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from spender_core.batch import SpectrumBatch
from spender_core.datasets import mock
from spender_core.grid import Linear
from spender_core.interfaces import Instrument
from spender_core.ops.mask import sky_line_mask


class Survey(Instrument):
    name = "survey"
    grid = Linear(3800.0, 3.0, 1800)  # to 9197 Angstrom
    loader: Any = None
    mask = sky_line_mask(grid.wave)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def observed(seed: int = 1, n: int = 16, **options: Any) -> SpectrumBatch:
    generator = seeded(seed)
    galaxies = mock.galaxies(n, (0.0, 0.4), generator)
    return mock.observe(galaxies, Survey(), generator, **options)


def test_the_seed_decides_everything() -> None:
    one, same, other = observed(1), observed(1), observed(2)
    for name in ("flux", "ivar", "z", "norm"):
        assert torch.equal(getattr(one, name), getattr(same, name))
        assert not torch.equal(getattr(one, name), getattr(other, name))


def test_galaxies_are_finite_positive_and_around_one() -> None:
    galaxies = mock.galaxies(64, (0.0, 0.5), seeded(0))
    assert galaxies.restframe.shape == (64, mock.FINE.size)
    assert galaxies.restframe.dtype == torch.float32
    assert galaxies.restframe.isfinite().all()
    assert (galaxies.restframe > 0).all()
    near = np.abs(mock.FINE.wave - 5500) < 50
    level = galaxies.restframe[:, torch.from_numpy(near)].median(dim=1).values
    assert 0.3 < level.min() < level.max() < 3


@pytest.mark.parametrize("z_range", [(0.0, 0.5), (0.3, 0.31), (-0.01, 0.01)])
def test_redshifts_fill_their_range(z_range: tuple[float, float]) -> None:
    z = mock.galaxies(64, z_range, seeded(0)).z
    width = z_range[1] - z_range[0]
    assert z.dtype == torch.float64
    assert z_range[0] <= z.min() < z_range[0] + 0.1 * width
    assert z_range[1] - 0.1 * width < z.max() <= z_range[1]


def test_some_galaxies_have_emission_lines_at_their_wavelengths() -> None:
    """H alpha at 6564.6 Angstrom in vacuum, well above the continuum beside it."""
    galaxies = mock.galaxies(64, (0.0, 0.5), seeded(0))
    wave = mock.FINE.wave
    beside = torch.from_numpy((np.abs(wave - 6480) < 30) | (np.abs(wave - 6650) < 30))
    near = np.flatnonzero(np.abs(wave - 6564.6) < 8)
    continuum = galaxies.restframe[:, beside].median(dim=1).values
    peak = galaxies.restframe[:, near].max(dim=1)
    strong = peak.values > 1.5 * continuum
    assert 5 < int(strong.sum()) < 60
    position = wave[near][peak.indices[strong]]
    assert np.abs(position - 6564.6).max() < 1.0


def test_strong_breaks_and_weak_ones() -> None:
    galaxies = mock.galaxies(64, (0.0, 0.5), seeded(0))
    wave = mock.FINE.wave
    red = galaxies.restframe[:, torch.from_numpy((wave > 4050) & (wave < 4250))].mean(dim=1)
    blue = galaxies.restframe[:, torch.from_numpy((wave > 3750) & (wave < 3950))].mean(dim=1)
    ratio = red / blue
    assert ratio.max() > 1.4
    assert ratio.min() < 1.2


@pytest.mark.parametrize("snr", [(2.0, 40.0), (10.0, 10.0)])
def test_signal_to_noise_is_in_its_range(snr: tuple[float, float]) -> None:
    measured = observed(3, n=48, snr=snr).snr
    assert measured.min() > 0.8 * snr[0]
    assert measured.max() < 1.2 * snr[1]
    if snr[1] > snr[0]:
        assert measured.max() > 3 * measured.min()


def test_the_noise_is_what_ivar_says() -> None:
    generator = seeded(5)
    galaxies = mock.galaxies(16, (0.0, 0.4), generator)
    noisy, clear = (
        mock.observe(galaxies, Survey(), seeded(1), snr=(level, level)) for level in (5.0, 1e6)
    )
    good = noisy.good & clear.good
    pull = (noisy.flux * noisy.norm[:, None] - clear.flux * clear.norm[:, None]) * (
        noisy.ivar.sqrt() / noisy.norm[:, None]
    )
    assert pull[good].std().item() == pytest.approx(1.0, abs=0.02)


def test_batches_are_prepared() -> None:
    batch = observed()
    assert batch.instrument == "survey"
    assert batch.flux.dtype == torch.float32
    assert (batch.norm > 0).all()
    assert not batch.good[:, torch.from_numpy(Survey.mask)].any()
    assert batch.good[:, torch.from_numpy(~Survey.mask)].all()
    assert not batch.z.isnan().any()
    assert (batch.flags == 0).all()


def test_ragged_ends_have_no_data() -> None:
    batch = observed(4, ragged=0.2)
    good = batch.good.numpy()
    first, last = good.argmax(axis=1), good[:, ::-1].argmax(axis=1)
    assert first.max() > 0
    assert last.max() > 0
    assert max(first.max(), last.max()) < 0.2 * good.shape[1] + 40  # masked lines apart
    assert (batch.flux[~batch.good].isfinite()).all()
