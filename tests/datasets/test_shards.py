"""Shards written from memory: whole or not at all, and the same however the spectra arrive."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pixel_survey import PIXELS, Tiny, TinyLoader, contents, write_survey

from spender_core import registry
from spender_core.batch import SpectrumBatch
from spender_core.datasets.layout import ROW_GROUP, SHARD, metadata, schema, split_of
from spender_core.datasets.manifest import Manifest, verify
from spender_core.datasets.shards import ShardWriter, write_dataset
from spender_core.datasets.stores import Store
from spender_core.datasets.tables import to_batch, to_table
from spender_core.errors import FileError, InputError
from spender_core.line_spread import GaussianLSF

NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]


def spectra(count: int, first: int = 0, **changes: Any) -> SpectrumBatch:
    generator = torch.Generator().manual_seed(first)
    ids = np.zeros(count, dtype=TinyLoader.id_dtype)
    ids["OBJECT"] = np.arange(first, first + count)
    ids["FIELD"] = "f"
    columns: dict[str, Any] = {
        "flux": torch.rand(count, PIXELS, generator=generator),
        "ivar": torch.rand(count, PIXELS, generator=generator),
        "ids": ids,
        "instrument": "tiny",
    }
    return SpectrumBatch(**(columns | changes))


@pytest.fixture(scope="module")
def many() -> SpectrumBatch:
    return spectra(14_000)


def in_parts(batch: SpectrumBatch, seed: int) -> Iterator[SpectrumBatch]:
    """Yield a batch in parts of random lengths."""
    cuts = np.random.default_rng(seed).choice(len(batch), 20, replace=False)
    edges = [0, *sorted(cuts), len(batch)]
    for first, last in pairwise(edges):
        yield batch[first:last]


def test_every_spectrum_is_written_once_in_order(tmp_path: Path, many: SpectrumBatch) -> None:
    rows = write_dataset(str(tmp_path), [many], Tiny())
    assert many.ids is not None
    splits = split_of(many.ids, Tiny())
    for split, count in rows.items():
        files = sorted(tmp_path.glob(f"data/{split}-*.parquet"))
        assert [path.name for path in files] == [
            f"{split}-{k:05d}.parquet" for k in range(-(-count // SHARD))
        ]
        parts = [to_batch(pq.read_table(path), Tiny()) for path in files]
        assert [len(part) for part in parts[:-1]] == [SHARD] * (len(parts) - 1)
        written, expected = SpectrumBatch.cat(parts), many[splits == split]
        assert written.ids is not None
        assert (written.ids == expected.ids).all()
        assert torch.equal(written.flux, expected.flux)
    assert sum(rows.values()) == len(many)
    assert max(rows.values()) > SHARD


def test_row_groups_are_full_but_for_the_last(tmp_path: Path, many: SpectrumBatch) -> None:
    write_dataset(str(tmp_path), [many], Tiny())
    for path in tmp_path.glob("data/*.parquet"):
        with pq.ParquetFile(path) as file:
            about = file.metadata
            sizes = [about.row_group(k).num_rows for k in range(about.num_row_groups)]
            assert metadata(file.schema_arrow) is not None
        assert all(size == ROW_GROUP for size in sizes[:-1])
        assert 0 < sizes[-1] <= ROW_GROUP
        assert about.row_group(0).column(0).compression == "ZSTD"


def test_the_bytes_do_not_depend_on_how_spectra_arrive(tmp_path: Path, many: SpectrumBatch) -> None:
    write_dataset(str(tmp_path / "whole"), [many], Tiny())
    for seed in range(3):
        write_dataset(str(tmp_path / f"{seed}"), in_parts(many, seed), Tiny())
        assert contents(tmp_path / f"{seed}") == contents(tmp_path / "whole")


def test_the_manifest_knows_every_shard(tmp_path: Path, many: SpectrumBatch) -> None:
    rows = write_dataset(str(tmp_path), [many], Tiny())
    manifest = Manifest.read(Store(tmp_path))
    assert manifest is not None
    assert manifest.complete
    assert manifest.rows == rows
    assert set(manifest.shards) == {name for name in contents(tmp_path) if name.startswith("data/")}
    assert verify(str(tmp_path)) == []


def test_mocks_are_numbered(tmp_path: Path) -> None:
    desi = registry.instrument("desi")
    flux = torch.ones(3, desi.grid.size)
    batches = [SpectrumBatch(flux, flux, instrument="desi")] * 2
    write_dataset(str(tmp_path), batches, desi)
    parts = [to_batch(pq.read_table(path), desi) for path in tmp_path.glob("data/*.parquet")]
    written = SpectrumBatch.cat(parts)
    assert written.ids is not None
    assert sorted(written.ids["TARGETID"]) == list(range(6))
    assert set(written.ids["HEALPIX"]) == {-1}


def test_a_dataset_is_not_overwritten_unasked(tmp_path: Path) -> None:
    write_dataset(str(tmp_path), [spectra(200)], Tiny())
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"holds a dataset already.*overwrite"):
        write_dataset(str(tmp_path), [spectra(10)], Tiny())
    assert contents(tmp_path) == before
    rows = write_dataset(str(tmp_path), [spectra(1, first=3)], Tiny(), overwrite=True)
    assert sum(rows.values()) == 1
    assert len(contents(tmp_path)) == 2


@pytest.mark.parametrize(
    ("batches", "options", "message"),
    [
        ([], {}, "no batch"),
        ([spectra(3, instrument="desi")], {}, "not of tiny"),
        ([spectra(3)], {"lsf": True}, "no line spread functions"),
        ([spectra(3), spectra(3, flux=torch.ones(3, 4), ivar=torch.ones(3, 4))], {}, "16 pixels"),
    ],
)
def test_spectra_that_do_not_fit_are_refused(
    tmp_path: Path, batches: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        write_dataset(str(tmp_path), batches, Tiny(), **options)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    "changes",
    [{"norm": 1e-46}, {"norm": 1e39}, {"z": -1 + 1e-9}, {"zerr": 1e39}],
    ids=str,
)
def test_values_that_float32_cannot_hold_are_refused_by_name(
    tmp_path: Path, changes: dict[str, float]
) -> None:
    batch = spectra(50)
    for name, value in changes.items():
        column = torch.ones(50, dtype=torch.float64)
        column[17] = value
        batch = batch.replace(**{name: column})
    with pytest.raises(InputError, match=r"1 spectra have values.*float32.*\(17, "):
        write_dataset(str(tmp_path), [batch], Tiny())
    assert contents(tmp_path) == {}


def test_an_infinite_error_is_no_overflow(tmp_path: Path) -> None:
    write_dataset(str(tmp_path), [spectra(50, zerr=torch.full((50,), torch.inf))], Tiny())
    assert verify(str(tmp_path)) == []


def test_whatever_fails_on_the_way_leaves_no_half_shard(
    tmp_path: Path, many: SpectrumBatch
) -> None:
    def broken() -> Iterator[SpectrumBatch]:
        yield many
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_dataset(str(tmp_path), broken(), Tiny())
    assert sorted(contents(tmp_path)) == ["data/train-00000.parquet", "dataset.json"]
    manifest = Manifest.read(Store(tmp_path))
    assert manifest is not None
    assert not manifest.complete
    assert verify(str(tmp_path)) == []


def test_memory_is_that_of_a_row_group(tmp_path: Path) -> None:
    """What waits to be written is less than a row group of each split, however much comes."""
    writer = ShardWriter(Store(tmp_path), "data/train-00000.parquet", schema(Tiny()))
    table = to_table(spectra(700), schema(Tiny()))
    for _ in range(9):
        writer.add(table)
        assert writer._number < ROW_GROUP
    assert writer.close().rows == 6300


def test_damage_is_named(tmp_path: Path, many: SpectrumBatch) -> None:
    write_dataset(str(tmp_path), [many], Tiny())
    first, second, third, *_ = sorted(tmp_path.glob("data/*.parquet"))
    first.write_bytes(first.read_bytes()[:-7])
    content = bytearray(second.read_bytes())
    content[len(content) // 2] ^= 1
    second.write_bytes(content)
    third.unlink()
    (tmp_path / "data" / "test-00009.parquet").write_bytes(b"what a killed run left")
    damaged = {damage.name: damage.reason for damage in verify(str(tmp_path))}
    assert "bytes instead of" in damaged.pop(f"data/{first.name}")
    assert "hash" in damaged.pop(f"data/{second.name}")
    assert "missing" in damaged.pop(f"data/{third.name}")
    assert "does not know it" in damaged.pop("data/test-00009.parquet")
    assert damaged == {}


def test_without_a_manifest_shards_are_decoded(tmp_path: Path, many: SpectrumBatch) -> None:
    write_dataset(str(tmp_path), [many], Tiny())
    (tmp_path / "dataset.json").unlink()
    assert verify(str(tmp_path)) == []
    path = tmp_path / "data" / "test-00000.parquet"
    path.write_bytes(path.read_bytes()[:500])
    (damage,) = verify(str(tmp_path))
    assert damage.name == "data/test-00000.parquet"
    assert "decoded" in damage.reason
    with pytest.raises(FileError, match="no dataset"):
        verify(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b'{"format": 9}', b"\xff", b"[" * 100_000, b'{"format": 1e999}']
)
def test_a_damaged_manifest_is_a_file_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(FileError, match=r"dataset\.json"):
        verify(str(tmp_path))


def test_where_nothing_can_be_written_is_told() -> None:
    with pytest.raises(InputError, match="https"):
        Store("https://example.org/dataset")
    with pytest.raises(InputError, match="no root"):
        Store("")


def test_gaussian_lsfs_come_back(tmp_path: Path) -> None:
    batch = spectra(100, lsf=GaussianLSF(torch.rand(100, PIXELS)))
    write_dataset(str(tmp_path), [batch], Tiny(), lsf=True)
    assert batch.ids is not None
    expected = batch[split_of(batch.ids, Tiny()) == "test"]
    read = to_batch(pq.read_table(tmp_path / "data/test-00000.parquet"), Tiny(), lsf=True)
    assert torch.equal(read.lsf.sigma, expected.lsf.sigma)


# -- small disks and closed folders -----------------------------------------------------------

FULL = """
import subprocess, sys
from pathlib import Path
from pixel_survey import Tiny, contents
from spender_core.datasets.manifest import verify
from spender_core.datasets.prepare import prepare
from spender_core.errors import SpenderError

disk, sources = Path(sys.argv[1]), sys.argv[2:]
try:
    prepare(disk / "root", Tiny(), sources)
except SpenderError as error:
    print("FIRST", type(error).__name__, error)
assert not [path for path in disk.rglob(".*part*")], list(disk.rglob("*"))
print("DAMAGED", verify(str(disk / "root")) if (disk / "root/dataset.json").exists() else [])
subprocess.run(["mount", "-o", "remount,size=40m", str(disk)], check=True)
done = prepare(disk / "root", Tiny(), sources)
prepare(disk / "again", Tiny(), sources)
print("SAME", contents(disk / "root") == contents(disk / "again"), len(done.kept))
"""


def test_on_a_full_disk_nothing_half_written_stays(tmp_path: Path) -> None:
    probe = subprocess.run([*NAMESPACE, "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"needs user namespaces: {probe.stderr.strip()}")
    files = write_survey(tmp_path / "survey", 12, 1500)
    disk = tmp_path / "disk"
    disk.mkdir()
    tests = Path(__file__).parents[1]
    mount = f'mount -t tmpfs -o size=1800k tmpfs "$0" && PYTHONPATH={tests} exec "{sys.executable}" -c "$@"'
    ran = subprocess.run(
        [*NAMESPACE, mount, str(disk), FULL, str(disk), *files],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "FIRST FileError cannot write" in ran.stdout
    assert "No space left" in ran.stdout
    assert "DAMAGED []" in ran.stdout
    assert "SAME True 1" in ran.stdout


def test_without_permission_the_folder_is_named(tmp_path: Path) -> None:
    command = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    probe = subprocess.run([*command, "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"needs user namespaces: {probe.stderr.strip()}")
    files = write_survey(tmp_path / "survey", 1, 10)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    code = f"import pixel_survey; pixel_survey.prepare({str(closed / 'root')!r}, {str(Path(files[0]).parent)!r})"
    env = ["env", f"PYTHONPATH={Path(__file__).parents[1]}", sys.executable, "-c", code]
    ran = subprocess.run([*command, *env], capture_output=True, text=True)
    assert ran.returncode == 1
    assert "FileError: cannot write" in ran.stderr
    assert str(closed / "root") in ran.stderr
    assert "Permission denied" in ran.stderr
    assert list(closed.iterdir()) == []
