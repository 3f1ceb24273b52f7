"""Mock galaxies: reproducible, and physical where physics says what they must be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from spender_core.datasets.mock import parametric
from spender_core.datasets.mock.emission import add_emission
from spender_core.datasets.mock.galaxies import (
    Extinction,
    PreparedPopulations,
    galaxies,
    prepare,
)
from spender_core.datasets.mock.sources import FINE, KMS, STEP, Draw, Sources
from spender_core.datasets.mock.templates import Populations, read_populations
from spender_core.errors import InputError


@pytest.fixture(scope="module")
def prepared() -> PreparedPopulations:
    return prepare(parametric.populations())


@pytest.fixture(scope="module")
def drawn(prepared: PreparedPopulations) -> Sources:
    return galaxies(256, prepared, seeded(3))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def no_dust(wave: Tensor) -> Tensor:
    return torch.ones(64, len(wave))


def lines_alone(seed: int = 1) -> tuple[Tensor, dict[str, Tensor]]:
    """Emission on nothing, of 64 galaxies whose young stars cause an H alpha flux of 100."""
    restframe = torch.zeros(64, FINE.size)
    column = torch.ones(64)
    parameters = add_emission(
        restframe, Draw(64, seeded(seed)), 100 * column, column, 100 * column, 0 * column, no_dust
    )
    return restframe, parameters


def flux_near(restframe: Tensor, wave: float, kms: float = 600.0) -> Tensor:
    """Integrate restframes over a line, in Angstrom times their units."""
    pixels = FINE.wave
    inside = torch.from_numpy(np.abs(pixels / wave - 1) < kms / 299792.458)
    step = torch.from_numpy(np.diff(FINE.edges)).float()
    return (restframe * step)[:, inside].sum(dim=1)


def test_the_seed_decides_everything(prepared: PreparedPopulations) -> None:
    one, same, other = (galaxies(8, prepared, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.restframe, same.restframe)
    assert all(torch.equal(one.parameters[name], same.parameters[name]) for name in one.parameters)
    assert not torch.equal(one.restframe, other.restframe)


def test_restframes_are_positive_and_one_in_the_window(drawn: Sources) -> None:
    assert drawn.restframe.isfinite().all()
    assert drawn.restframe.min() > 0
    window = torch.from_numpy((FINE.wave > 5300) & (FINE.wave < 5850))
    level = drawn.restframe[:, window].median(dim=1).values
    assert level.min() > 0.9
    assert level.max() < 1.1


def test_balmer_lines_have_their_case_b_ratio_without_dust() -> None:
    restframe, parameters = lines_alone()
    narrow = (parameters["broad_halpha"] == 0) & (parameters["gas_dispersion"] < 90)
    assert narrow.sum() > 20
    hbeta, hgamma = flux_near(restframe, 4862.71)[narrow], flux_near(restframe, 4341.69)[narrow]
    assert torch.allclose(hgamma / hbeta, torch.tensor(0.468), rtol=2e-3)
    assert torch.allclose(parameters["halpha"][narrow] / hbeta, torch.tensor(2.863), rtol=2e-3)


def test_the_oxygen_doublet_has_the_ratio_of_its_transition_probabilities() -> None:
    restframe, parameters = lines_alone()
    narrow = (parameters["broad_halpha"] == 0) & (parameters["gas_dispersion"] < 90)
    ratio = (flux_near(restframe, 5008.24) / flux_near(restframe, 4960.30))[narrow]
    assert torch.allclose(ratio, torch.tensor(2.98), rtol=5e-3)
    o3 = (flux_near(restframe, 5008.24) / flux_near(restframe, 4862.71))[narrow]
    assert torch.allclose(o3.log10(), parameters["log_o3"][narrow], atol=5e-3)


def test_lines_are_as_wide_as_the_gas_moves() -> None:
    restframe, parameters = lines_alone()
    row = int((parameters["broad_halpha"] == 0).nonzero()[0])
    near = np.abs(FINE.wave / 5008.24 - 1) < 900 / 299792.458
    profile = restframe[row].numpy()[near].astype(np.float64)
    velocity = np.log(FINE.wave[near] / 5008.24) * 299792.458
    mean = (profile * velocity).sum() / profile.sum()
    width = np.sqrt((profile * (velocity - mean) ** 2).sum() / profile.sum())
    assert mean == pytest.approx(0, abs=1.0)
    assert width == pytest.approx(float(parameters["gas_dispersion"][row]), rel=0.02)


def test_dust_reddens_and_dims() -> None:
    dust = Extinction(torch.tensor([0.0, 0.5]), torch.tensor([0.7, 0.7]), torch.tensor([0.0, 0.2]))
    through = dust.transmission(torch.tensor([4000.0, 5500.0, 8000.0]))
    assert torch.equal(through[0], torch.ones(3))
    assert through[1, 1].item() == pytest.approx(np.exp(-0.7), rel=1e-5)
    assert through[1, 0] < through[1, 1] < through[1, 2] < 1


def test_all_kinds_of_galaxies_are_there(drawn: Sources) -> None:
    halpha = drawn.parameters["halpha"]
    assert (halpha < 1).float().mean() > 0.1
    assert (halpha > 30).float().mean() > 0.1
    wave = FINE.wave
    red = drawn.restframe[:, torch.from_numpy((wave > 4000) & (wave < 4100))].mean(dim=1)
    blue = drawn.restframe[:, torch.from_numpy((wave > 3850) & (wave < 3950))].mean(dim=1)
    d4000 = red / blue
    assert d4000.min() < 1.15
    assert d4000.max() > 1.7


def test_prepared_templates_are_broadened_and_keep_flux(prepared: PreparedPopulations) -> None:
    """Between contrasts 0.5 and 1.5, the mean at the lowest dispersion is nearly the template."""
    old = prepared.mixture[:, 0, -1].mean(dim=0)
    plain = prepared.populations.flux[-1]
    window = torch.from_numpy((FINE.wave > 5000) & (FINE.wave < 8000))
    assert (old / plain)[window].mean().item() == pytest.approx(1, abs=0.02)
    rough = [
        float(prepared.mixture[0, level, -1][window].diff().square().mean()) for level in range(4)
    ]
    assert rough == sorted(rough, reverse=True)
    deep = float(prepared.mixture[1, 0, -1][window].diff().square().mean())
    assert deep > 2 * rough[0]


def test_the_fine_grid_has_the_stated_velocity_step() -> None:
    assert pytest.approx(KMS, rel=1e-5) == 299792.458 * np.log(10) * STEP
    with pytest.raises(InputError, match="restframe must have shape"):
        Sources(torch.zeros(2, 5), torch.zeros(2), torch.zeros(2, dtype=torch.int8))


def test_sources_join_and_select(drawn: Sources) -> None:
    part = drawn[:4]
    moved = part.at(torch.full((4,), 0.1))
    both = Sources.cat([part, moved])
    assert len(both) == 8
    assert both.z.tolist() == pytest.approx([0.0] * 4 + [0.1] * 4, abs=1e-8)
    assert torch.equal(both[4:].restframe, part.restframe)
    bare = Sources(part.restframe, part.z, part.kind)
    assert Sources.cat([part, bare]).parameters["tau"][4:].isnan().all()


def test_populations_must_lie_on_the_fine_grid() -> None:
    with pytest.raises(InputError, match="flux must have shape"):
        Populations(torch.ones(2), torch.ones(2, 7), "nowhere")


@pytest.mark.parametrize(
    ("age", "value", "message"),
    [
        ([1.0], 1.0, "two ages or more"),
        ([1.0, 1.0], 1.0, "increase in equal steps"),
        ([0.1, 1.0, 2.0], 1.0, "increase in equal steps"),
        ([0.0, 1.0], 1.0, "increase in equal steps"),
        ([1.0, np.nan], 1.0, "increase in equal steps"),
        ([1.0, 2.0], 0.0, "finite and > 0"),
        ([1.0, 2.0], np.nan, "finite and > 0"),
    ],
)
def test_populations_that_cannot_be_mixed_are_refused(
    age: list[float], value: float, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Populations(torch.tensor(age), torch.full((len(age), FINE.size), value), "nowhere")


def test_the_dispersion_counts_what_the_populations_have(prepared: PreparedPopulations) -> None:
    """Templates broadened already are the same templates; the sum of squares is reported."""
    assert prepared.populations.dispersion == 70
    bare = replace(prepared, populations=replace(prepared.populations, dispersion=0.0))
    with_own, without = (galaxies(32, one, seeded(5)) for one in (prepared, bare))
    assert torch.equal(with_own.restframe, without.restframe)
    drawn = without.parameters["dispersion"]
    expected = (drawn.square() + 70**2).sqrt()
    torch.testing.assert_close(with_own.parameters["dispersion"], expected)
    with pytest.raises(InputError, match="dispersion must be"):
        replace(prepared.populations, dispersion=-1.0)


def test_nothing_cannot_be_drawn_or_joined(prepared: PreparedPopulations) -> None:
    with pytest.raises(InputError, match="1 or more, not 0"):
        galaxies(0, prepared, seeded(0))
    with pytest.raises(InputError, match="no sources to join"):
        Sources.cat([])


def test_a_folder_without_templates_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ndArch-ssp"):
        read_populations(tmp_path)


def test_real_templates_are_read_and_keep_flux(real_data: Path) -> None:
    populations = read_populations(real_data)
    assert populations.flux.shape == (15, FINE.size)
    assert populations.age[-1].item() == pytest.approx(10.0)
    from astropy.io import fits

    (path,) = real_data.rglob("ndArch-ssp_hires_galaxy-*.fits")
    image = fits.getdata(path).astype(np.float64)
    loglam = 3.18325 + 2.5e-5 * np.arange(image.shape[1])
    for low, high in ((2000.0, 3000.0), (5300.0, 5850.0), (8000.0, 10000.0)):
        theirs = image[:, (loglam > np.log10(low)) & (loglam < np.log10(high))].mean(axis=1)
        ours = populations.flux[:, torch.from_numpy((FINE.wave > low) & (FINE.wave < high))]
        assert ours.mean(dim=1).numpy() == pytest.approx(theirs, rel=2e-3)
