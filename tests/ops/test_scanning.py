"""The scan of redshifts equals what brute force gives, bin by bin."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spender_core.errors import InputError
from spender_core.grid import Linear, Log
from spender_core.ops.scanning import STEP, Scan, peaks

OBSERVED = Log(3.6, 1e-4, 700)
REST = Linear(2500.0, 0.7, 4000)


def drawn() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    flux, x = (torch.rand(2, n, generator=generator, dtype=torch.float64) for n in (700, 4000))
    weight = torch.rand(2, 700, generator=generator, dtype=torch.float64)
    weight[:, 100:160] = 0
    return flux, weight, x


@pytest.mark.parametrize("order", [0, 1, 2])
def test_gain_equals_least_squares_at_every_redshift(order: int) -> None:
    flux, weight, x = drawn()
    scan = Scan(REST, OBSERVED, (-0.01, 0.3), order=order)
    gain = scan.gain(scan.spectra(flux, weight), x)
    assert gain.shape == (2, len(scan.z))
    place = np.linspace(-1, 1, 700)
    for row in range(2):
        root = weight[row].sqrt().numpy()
        for k in range(0, len(scan.z), 97):
            model = np.interp(OBSERVED.wave / (1 + float(scan.z[k])), REST.wave, x[row].numpy())
            design = np.stack([model * place**j * root for j in range(order + 1)], axis=1)
            found = np.linalg.lstsq(design, flux[row].numpy() * root, rcond=None)[0]
            explained = np.sum((design @ found) ** 2)
            assert float(gain[row, k]) == pytest.approx(explained, rel=1e-8)


def test_nodes_that_coincide_with_pixels_are_reached() -> None:
    rest = Log(3.4, 5e-5, 12000)
    scan = Scan(rest, OBSERVED, (0.0, 0.2), order=0)
    flux, weight = torch.ones(1, 700).double(), torch.ones(1, 700).double()
    gain = scan.gain(scan.spectra(flux, weight), torch.ones(1, 12000).double())
    assert torch.allclose(gain, torch.full_like(gain, 700.0))


def test_pixels_are_shared_out_among_bins_without_loss() -> None:
    observed = Linear(4000.0, 0.8, 1500)
    scan = Scan(REST, observed, (0.0, 0.1), order=0)
    flux = torch.rand(1, 1500).double()
    ones = torch.ones(1, 4000).double()
    gain = scan.gain(scan.spectra(flux, torch.ones_like(flux)), ones)
    assert float(gain[0, 0]) == pytest.approx(float(flux.sum() ** 2 / 1500), rel=1e-9)


def test_peaks_are_apart_and_highest_first() -> None:
    values = torch.zeros(1, 100)
    values[0, [10, 12, 50, 80]] = torch.tensor([3.0, 4.0, 9.0, 5.0])
    place, height = peaks(values, 3, 5)
    assert place[0].tolist() == [50, 80, 12]
    assert height[0].tolist() == [9.0, 5.0, 4.0]


@pytest.mark.parametrize("z_range", [(0.2, 0.1), (-1.5, 0.1), (0.0, float("nan"))])
def test_ranges_without_sense_are_refused(z_range: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="low < high"):
        Scan(REST, OBSERVED, z_range)
    assert pytest.approx(2.302585e-4) == STEP
