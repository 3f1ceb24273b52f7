"""Mock stars: reproducible, of all classes, and at vacuum wavelengths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits

from spender_core.datasets.mock.sources import FINE, KINDS
from spender_core.datasets.mock.stars import (
    FIRST,
    STAR,
    WEIGHTS,
    StarLibrary,
    reddening,
    stars,
)
from spender_core.errors import InputError


@pytest.fixture(scope="module")
def library() -> StarLibrary:
    return StarLibrary.parametric()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def write_class(folder: Path, name: str, **header: object) -> Path:
    """A class of two vectors, a level and a slope, and three archetypes; the last is negative."""
    wave = 3000 + 0.5 * np.arange(16001)
    primary = fits.PrimaryHDU(np.stack([np.ones(16001), (wave - 5575) / 1000]))
    primary.header.update({"CRVAL1": 3000.0, "CDELT1": 0.5} | header)
    rows = np.array([[1.0, 0.0], [2.0, 0.1], [1.0, 2.0]])
    path = folder / f"rrtemplate-STAR-{name}-v0.1.fits"
    fits.HDUList([primary, fits.ImageHDU(rows, name="ARCHETYPE_COEFF")]).writeto(path)
    return path


def test_the_seed_decides_everything(library: StarLibrary) -> None:
    one, same, other = (stars(16, library, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.restframe, same.restframe)
    assert not torch.equal(one.restframe, other.restframe)


def test_no_star_cannot_be_drawn(library: StarLibrary) -> None:
    with pytest.raises(InputError, match="1 or more, not 0"):
        stars(0, library, seeded(0))


def test_extinction_is_exponential(library: StarLibrary) -> None:
    """Of a mean of 0.15 mag; nothing piles up at its largest."""
    drawn = stars(2000, library, seeded(3)).parameters["extinction"]
    assert float(drawn.mean()) == pytest.approx(0.15, abs=4 * 0.15 / 2000**0.5)
    assert float(drawn.median()) == pytest.approx(0.15 * np.log(2), abs=0.015)
    assert float(drawn.max()) < 1.39
    assert int((drawn == drawn.max()).sum()) == 1


def test_stars_are_positive_and_one_in_the_window(library: StarLibrary) -> None:
    drawn = stars(300, library, seeded(0))
    assert drawn.grid == STAR
    assert bool((drawn.restframe >= 0).all())
    window = torch.from_numpy((STAR.wave > 5300) & (STAR.wave < 5850))
    level = drawn.restframe[:, window].mean(dim=1)
    assert float((level - 1).abs().max()) < 0.05
    assert bool((drawn.kind == KINDS.index("star")).all())


def test_the_grid_of_stars_is_a_part_of_the_fine_grid() -> None:
    assert np.allclose(STAR.wave, FINE.wave[FIRST:], rtol=1e-14)


def test_classes_are_drawn_by_weight(library: StarLibrary) -> None:
    kinds = stars(4000, library, seeded(0)).parameters["class"]
    share = torch.bincount(kinds.long(), minlength=len(WEIGHTS)) / len(kinds)
    wanted = torch.tensor(list(WEIGHTS.values())) / sum(WEIGHTS.values())
    assert torch.allclose(share, wanted, atol=0.03)
    only = stars(20, library, seeded(0), {"K": 1.0}).parameters["class"]
    assert bool((only == list(WEIGHTS).index("K")).all())


def test_the_law_of_reddening_has_its_published_values() -> None:
    """Table 3 of Cardelli et al. 1989, R_V = 3.1; O'Donnell 1994 changes U to I by up to 0.03."""
    bands = {3650.0: 1.569, 4400.0: 1.337, 5500.0: 1.0, 7000.0: 0.751, 9000.0: 0.479}
    for wave, published in bands.items():
        assert reddening(np.array([wave]))[0] == pytest.approx(published, abs=0.035)
    assert (np.diff(reddening(STAR.wave)) < 0).all()


def test_weights_must_name_classes_of_the_library(library: StarLibrary) -> None:
    for weights in ({"X": 1.0}, {"A": -1.0}, {"A": 0.0}, {}):
        with pytest.raises(InputError, match="weights must be"):
            stars(2, library, seeded(0), weights)


def test_a_folder_of_archetypes_is_read(tmp_path: Path) -> None:
    write_class(tmp_path, "G")
    read = StarLibrary.read(tmp_path)
    assert list(read.classes) == ["G"]
    assert read.classes["G"].coefficients.shape == (2, 2)
    assert "rrtemplate-STAR-G-v0.1.fits" in read.source
    drawn = stars(40, read, seeded(0))
    # the means over pixels of straight lines are those lines at the middles
    middle = (STAR.edges[1:] + STAR.edges[:-1]) / 2
    line = read.classes["G"].coefficients[1] @ read.classes["G"].basis
    assert np.allclose(line, 1 + 0.05 * (middle - 5575) / 1000, atol=1e-3)
    assert bool(drawn.restframe.isfinite().all())


def test_folders_without_stars_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no rrtemplate-STAR"):
        StarLibrary.read(tmp_path)
    write_class(tmp_path, "F", CRVAL1=4000.0)
    with pytest.raises(InputError, match="covers 4000 to"):
        StarLibrary.read(tmp_path)


def test_real_stars_are_positive_and_at_vacuum_wavelengths(real_data: Path) -> None:
    library = StarLibrary.read(real_data / "templates")
    assert list(library.classes) == list(WEIGHTS)
    drawn = stars(300, library, seeded(0))
    assert bool(drawn.restframe.isfinite().all())
    assert float((drawn.restframe <= 0).float().mean()) < 0.005
    for name, line, tolerance in (("F", 6564.61, 0.15), ("K", 8544.44, 0.3), ("WD", 4862.71, 0.5)):
        chosen = library.classes[name]
        flux = (chosen.coefficients.mean(dim=0) @ chosen.basis).double().numpy()
        near = np.abs(STAR.wave - line) < 8
        deep = (1 - flux[near] / flux[near].max()) ** 4
        centre = float((deep * STAR.wave[near]).sum() / deep.sum())
        # in air, they would lie 1.3 to 2.3 Angstrom away
        assert centre == pytest.approx(line, abs=tolerance), name
