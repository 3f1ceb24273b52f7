"""Streams of mock spectra, and their files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits

from spender_core import Instrument, SpectrumBatch
from spender_core.datasets.mock import writing
from spender_core.datasets.mock.artefacts import Artefacts
from spender_core.datasets.mock.conditions import Conditions
from spender_core.datasets.mock.observing import Observed
from spender_core.datasets.mock.sources import KINDS
from spender_core.datasets.mock.stream import MockSurvey, Templates
from spender_core.datasets.mock.writing import read_mocks, write_mocks
from spender_core.errors import FileError, InputError
from spender_core.grid import Log


class Mine(Instrument):
    name = "mine"
    grid = Log(3.6, 4e-4, 600)
    loader = None


TEMPLATES = Templates()


def survey(what: str = "galaxies", n: int | None = 7, **options: object) -> MockSurvey:
    return MockSurvey(Mine(), what, n=n, templates=TEMPLATES, **({"size": 3} | options))  # type: ignore[arg-type]


def same(one: Observed, other: Observed) -> bool:
    return (
        torch.equal(one.batch.flux, other.batch.flux)
        and torch.equal(one.batch.ivar, other.batch.ivar)
        and torch.equal(one.truth, other.truth)
        and torch.equal(one.batch.z, other.batch.z)
    )


@pytest.mark.parametrize("what", ["galaxies", "quasars", "stars", "mixed"])
def test_a_batch_is_the_same_alone_and_in_the_stream(what: str) -> None:
    streamed = list(survey(what))
    assert sum(len(observed.batch) for observed in streamed) == 7
    alone = survey(what)
    for number in reversed(range(len(alone))):
        assert same(alone.batch(number), streamed[number])


def test_seeds_and_numbers_give_different_batches() -> None:
    first = survey(seed=1).batch(0)
    assert not same(first, survey(seed=1).batch(1))
    assert not same(first, survey(seed=2).batch(0))


def test_a_mixed_survey_has_all_kinds_however_few() -> None:
    kinds = torch.cat([observed.sources.kind for observed in survey("mixed", 10, size=64)])
    counts = torch.bincount(kinds.long(), minlength=len(KINDS)).tolist()
    assert counts == [6, 2, 2]


def test_limits_are_those_asked_for() -> None:
    limited = survey(n=60, size=20, z_range=(0.2, 0.3), snr_range=(10.0, 12.0))
    z = torch.cat([observed.batch.z for observed in limited])
    assert 0.2 <= float(z.min()) <= float(z.max()) <= 0.3
    snr = torch.cat([observed.batch.snr for observed in limited])
    assert 8 < float(snr.median()) < 14


def test_an_endless_survey_goes_on() -> None:
    endless = survey("stars", None)
    stream = iter(endless)
    third = [next(stream) for _ in range(3)][2]
    assert same(third, endless.batch(2))
    with pytest.raises(TypeError, match="no end"):
        len(endless)
    with pytest.raises(InputError, match="without end"):
        write_mocks(endless, "never.fits")


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="what must be one of"):
        survey("planets")
    with pytest.raises(InputError, match="1 or more"):
        survey(n=0)
    with pytest.raises(InputError, match="no batch 3; they count from 0 to 2"):
        survey().batch(3)
    with pytest.raises(InputError, match="no ndArch-ssp"):
        MockSurvey(Mine(), templates=tmp_path)
    with pytest.raises(InputError, match=r"end it in .fits or .parquet"):
        write_mocks(survey(), tmp_path / "mocks.txt")


@pytest.mark.parametrize("suffix", [".fits", ".parquet"])
@pytest.mark.parametrize("what", ["galaxies", "mixed"])
def test_a_file_gives_back_what_was_written(tmp_path: Path, suffix: str, what: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    path, counts = tmp_path / f"mocks{suffix}", []
    write_mocks(survey(what), path, done=counts.append)
    assert sum(counts) == 7
    back, made = read_mocks(path), list(survey(what))
    batch = SpectrumBatch.cat([observed.batch for observed in made])
    assert torch.equal(back.batch.flux, batch.flux)
    assert torch.equal(back.batch.ivar, batch.ivar)
    assert torch.equal(back.batch.z, batch.z)
    assert torch.equal(back.batch.norm, batch.norm)
    assert torch.equal(back.batch.flags, batch.flags)
    assert back.batch.instrument == "mine"
    assert back.truth is not None
    assert torch.equal(back.truth, torch.cat([observed.truth for observed in made]))
    assert torch.equal(back.condition, torch.cat([observed.condition for observed in made]))
    assert back.provenance["seed"] == 0
    assert back.provenance["grid_sha256"] == Mine.grid.sha256
    if what == "mixed":
        assert back.sources is None
    else:
        assert back.sources is not None
        assert torch.equal(
            back.sources.restframe, torch.cat([observed.sources.restframe for observed in made])
        )
        assert back.sources.grid == made[0].sources.grid
        ages = torch.cat([observed.sources.parameters["log_age"] for observed in made])
        assert torch.equal(back.sources.parameters["log_age"], ages)


def test_the_file_tells_artefacts_and_which_conditions() -> None:
    one, same = survey().provenance(), survey().provenance()
    assert one == same
    assert one["artefacts"]["cosmic_rays"] == 1.5
    other = Conditions.parametric(Mine(), 64, torch.Generator().manual_seed(7))
    changed = survey(conditions=other, artefacts=Artefacts.none()).provenance()
    assert changed["conditions_sha256"] != one["conditions_sha256"]
    assert changed["artefacts"]["cosmic_rays"] == 0
    assert len(json.loads(json.dumps(one))["conditions_sha256"]) == 64


def test_the_fits_file_is_plain_and_the_same_every_time(tmp_path: Path) -> None:
    one, other = tmp_path / "one.fits", tmp_path / "other.fits"
    for path in (one, other):
        write_mocks(survey("quasars"), path)
    assert one.read_bytes() == other.read_bytes()
    assert one.stat().st_size % 2880 == 0
    with fits.open(one) as hdus:
        hdus.verify("exception")
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "WAVELENGTH", "RESTWAVE", "MOCKS"]
        assert np.array_equal(hdus["WAVELENGTH"].data, Mine.grid.wave)
        assert hdus["MOCKS"].data["flux"].shape == (7, 600)
        assert "p_slope" in hdus["MOCKS"].data.names


def test_without_truth_only_what_a_survey_knows_is_written(tmp_path: Path) -> None:
    write_mocks(survey(), tmp_path / "mocks.fits", truth=False)
    back = read_mocks(tmp_path / "mocks.fits")
    assert back.truth is None
    assert back.sources is None
    with fits.open(tmp_path / "mocks.fits") as hdus:
        assert not [name for name in hdus["MOCKS"].data.names if name.startswith("p_")]


def test_a_row_that_shines_in_is_a_row_of_the_file(tmp_path: Path) -> None:
    from spender_core.datasets.mock.artefacts import Artefacts

    blended = survey(n=40, size=8, artefacts=Artefacts(blends=1.0))
    write_mocks(blended, tmp_path / "mocks.fits")
    with fits.open(tmp_path / "mocks.fits") as hdus:
        blend = np.array(hdus["MOCKS"].data["blend"])
    rows = np.arange(40)
    struck = blend >= 0
    assert struck.sum() > 20
    assert np.array_equal(blend[struck] // 8, rows[struck] // 8)


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "mocks.fits"
    path.write_bytes(b"precious")

    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_mocks(survey(), path, done=stop)
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "free_space", lambda folder: 1000)
    with pytest.raises(FileError, match=r"the disk has 0\.0 GB left"):
        write_mocks(survey(), tmp_path / "mocks.fits")


def test_other_files_are_no_mocks(tmp_path: Path) -> None:
    fits.PrimaryHDU(np.zeros(3)).writeto(tmp_path / "a.fits")
    with pytest.raises(FileError, match="holds no mocks"):
        read_mocks(tmp_path / "a.fits")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    import pyarrow

    parquet.write_table(pyarrow.table({"x": [1]}), tmp_path / "a.parquet")
    with pytest.raises(FileError, match="holds no mocks"):
        read_mocks(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"nothing")
    with pytest.raises(FileError, match="cannot read"):
        read_mocks(tmp_path / "b.parquet")
