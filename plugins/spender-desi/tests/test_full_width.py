"""Coadds with all HDUs and columns of the archive: what is read of them, and in what memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from full_coadds import Fabricated, write
from spender_desi.instrument import DESI

LENGTH = 7781

GROWTH = """
import json, sys
from spender_desi.instrument import DESI
sys.path.insert(0, sys.argv[1])
from growth import resident
from pathlib import Path

desi = DESI()
desi.loader.load(sys.argv[2])
Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
before = resident("VmRSS")
batch = desi.loader.load_with_lsf(sys.argv[3]) if sys.argv[4] else desi.loader.load(sys.argv[3])
lsf = 0 if batch.lsf is None else batch.lsf.data.nbytes
print(json.dumps([resident("VmHWM") - before, batch.flux.nbytes + batch.ivar.nbytes + lsf]))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Fabricated:
    """Return a coadd of 20 targets, whose redrock file has another order."""
    return write(tmp_path_factory.mktemp("full"), 20, shuffled=True, seed=2)


def test_redshifts_belong_to_their_targets(made: Fabricated) -> None:
    batch = DESI().read(str(made.coadd))
    assert batch.ids is not None
    assert batch.ids["TARGETID"].tolist() == made.targets.tolist()
    assert batch.z.tolist() == made.z.tolist()


@pytest.mark.parametrize("survey", ["sv1", "sv2", "sv3", "main", "special", "cmx"])
def test_masks_compressed_or_not_are_the_same(tmp_path: Path, survey: str) -> None:
    batches = []
    for compressed in (True, False):
        there = write(tmp_path / str(compressed), 5, survey=survey, compressed=compressed)
        batches.append(DESI().loader.load(str(there.coadd)))
    first, second = batches
    assert 0.001 < (first.ivar == 0).double().mean() < 0.1
    assert torch.equal(first.flux, second.flux)
    assert torch.equal(first.ivar, second.ivar)
    assert torch.equal(first.flags, second.flags)


def test_matrices_of_some_targets(made: Fabricated) -> None:
    loader = DESI().loader
    some = made.targets[[3, 17]]
    whole = loader.load_with_lsf(str(made.coadd))
    part = loader.load_rows(str(made.coadd), {"TARGETID": tuple(some.tolist())}, True)
    assert part.lsf is not None
    assert whole.lsf is not None
    assert torch.equal(part.lsf.data, whole.lsf.data[[3, 17]])
    assert torch.equal(part.flux, whole.flux[[3, 17]])
    assert float(part.lsf.data.sum(dim=1).mean()) == pytest.approx(1, abs=0.01)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells peak memory")
@pytest.mark.parametrize(("targets", "lsf"), [(600, ""), (60, "lsf")])
def test_memory_is_that_of_the_result(tmp_path: Path, targets: int, lsf: str) -> None:
    """A block of targets more, not a copy of the whole file."""
    small = write(tmp_path, 2, healpix=1, resolution=bool(lsf)).coadd
    large = write(tmp_path, targets, healpix=2, resolution=bool(lsf)).coadd
    tests = str(Path(__file__).parents[3] / "tests")
    command = [sys.executable, "-c", GROWTH, tests, str(small), str(large), lsf]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    grown, result = json.loads(done.stdout)
    blocks = 256 * LENGTH * (9 if not lsf else 9 + 4 * 11)
    assert result <= grown + (8 << 20)
    assert grown < result + min(blocks, result) + (32 << 20), f"{grown / 1e6:.0f} MB"


def test_other_seeds_give_other_spectra(tmp_path: Path) -> None:
    first, second, third = (
        write(tmp_path / name, 2, seed=seed).coadd.read_bytes()
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == second
    assert not np.array_equal(first, third)
