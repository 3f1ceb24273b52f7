"""Datasets are read as they were written, from anywhere, and what is wrong with one is told."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from small_datasets import COUNT, Finer, Other, Tiny, written
from stores import public_bucket

from spender_core.batch import SpectrumBatch
from spender_core.datasets.layout import SPLITS, split_of
from spender_core.datasets.reading import Dataset
from spender_core.datasets.shards import write_dataset
from spender_core.errors import FileError, InputError, SpenderError
from spender_core.line_spread import BandedLSF, GaussianLSF

pytest.importorskip("pyarrow")

COLUMNS = ("flux", "ivar", "z", "zerr", "norm", "flags")


def same(found: SpectrumBatch, expected: SpectrumBatch) -> bool:
    """Tell whether two batches agree in every value that a dataset holds, in float32."""
    pairs = [(getattr(found, name), getattr(expected, name)) for name in COLUMNS]
    alike = all(torch.allclose(a.float(), b.float(), 0, 0, equal_nan=True) for a, b in pairs)
    assert found.ids is not None
    assert expected.ids is not None
    return alike and bool((found.ids == expected.ids).all())


def of_split(batch: SpectrumBatch, split: str) -> SpectrumBatch:
    assert batch.ids is not None
    return batch[np.flatnonzero(split_of(batch.ids, Tiny()) == split)]


@pytest.fixture
def copied(made: tuple[Path, SpectrumBatch], tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(made[0], tmp_path / "copy"))


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SpectrumBatch]:
    return written(tmp_path_factory.mktemp("few"), 200)


@pytest.mark.parametrize("split", SPLITS)
def test_spectra_are_read_as_they_were_written(
    made: tuple[Path, SpectrumBatch], split: str
) -> None:
    dataset = Dataset(made[0], Tiny())
    expected = of_split(made[1], split)
    found = dataset.read(split)
    assert dataset.rows(split) == len(expected)
    assert same(found, expected)
    assert found.instrument == "tiny"
    assert found.flux.dtype == torch.float32
    assert not dataset.has_lsf


def test_rows_are_read_in_the_order_asked_for(made: tuple[Path, SpectrumBatch]) -> None:
    dataset = Dataset(made[0], Tiny())
    rows = np.random.default_rng(2).integers(0, dataset.rows("train"), 40)
    rows[7] = rows[20]
    assert same(dataset.read("train", rows), of_split(made[1], "train")[rows])


def test_a_mask_chooses_rows(made: tuple[Path, SpectrumBatch]) -> None:
    dataset = Dataset(made[0], Tiny())
    mask = np.random.default_rng(2).random(dataset.rows("train")) < 0.01
    assert same(dataset.read("train", mask), of_split(made[1], "train")[np.flatnonzero(mask)])


@pytest.mark.parametrize("rows", [[-1], [COUNT], [], [1.9], [True, False]])
def test_rows_that_are_not_there_are_refused(
    made: tuple[Path, SpectrumBatch], rows: list[Any]
) -> None:
    with pytest.raises(InputError, match="rows must be whole numbers from 0"):
        Dataset(made[0], Tiny()).read("train", rows)


def test_columns_are_those_of_all_rows(made: tuple[Path, SpectrumBatch]) -> None:
    expected = of_split(made[1], "train")
    found = Dataset(made[0], Tiny()).columns("train", ["z", "flags", "ids", "id"])
    assert list(found) == ["z", "flags", "ids", "id"]
    assert np.array_equal(found["z"], expected.z.float().numpy(), equal_nan=True)
    assert np.array_equal(found["flags"], expected.flags.numpy())
    assert expected.ids is not None
    assert np.array_equal(found["ids"], expected.ids)
    assert np.array_equal(found["id"], expected.ids["ID"])


@pytest.mark.parametrize("name", ["spec", "redshift"])
def test_other_columns_are_refused(few: tuple[Path, SpectrumBatch], name: str) -> None:
    with pytest.raises(InputError, match=f"no column {name}"):
        Dataset(few[0], Tiny()).columns("train", [name])


@pytest.mark.parametrize("kind", ["gaussian", "banded"])
def test_line_spread_functions_are_read_on_request(tmp_path: Path, kind: str) -> None:
    root, batch = written(tmp_path, 60, lsf=kind)
    dataset = Dataset(root, Tiny())
    assert dataset.has_lsf
    assert dataset.read("train").lsf is None
    expected, found = of_split(batch, "train").lsf, dataset.read("train", lsf=True).lsf
    if isinstance(expected, BandedLSF):
        assert isinstance(found, BandedLSF)
        assert torch.equal(found.data, expected.data)
        assert found.offsets == expected.offsets
    else:
        assert isinstance(found, GaussianLSF)
        assert isinstance(expected, GaussianLSF)
        assert torch.equal(found.sigma, expected.sigma)


def test_line_spread_functions_that_are_not_there_are_refused(
    few: tuple[Path, SpectrumBatch],
) -> None:
    with pytest.raises(InputError, match=r"no line spread functions.*--lsf"):
        Dataset(few[0], Tiny()).read("train", lsf=True)


# -- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("instrument", "told"), [(Other(), "instrument tiny, not other"), (Finer(), "grid")]
)
def test_a_dataset_of_another_instrument_is_refused(
    few: tuple[Path, SpectrumBatch], instrument: Any, told: str
) -> None:
    with pytest.raises(InputError, match=told):
        Dataset(few[0], instrument)


def test_without_its_instrument_a_dataset_tells_what_it_holds(
    few: tuple[Path, SpectrumBatch],
) -> None:
    dataset = Dataset(few[0])
    assert dataset.about is not None
    assert dataset.about.instrument == "tiny"
    assert sum(dataset.rows(split) for split in SPLITS) == 200
    with pytest.raises(InputError, match="needs its instrument 'tiny'"):
        dataset.read("train")


def test_an_empty_folder_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"holds no dataset.*spender prepare"):
        Dataset(tmp_path, Tiny())


def test_no_root_is_told() -> None:
    with pytest.raises(InputError, match="no root"):
        Dataset("", Tiny())


def test_an_empty_split_is_told(tmp_path: Path) -> None:
    root, batch = written(tmp_path, 3)
    splits = set(split_of(batch.ids, Tiny()).tolist()) if batch.ids is not None else set()
    absent = next(split for split in SPLITS if split not in splits)
    with pytest.raises(InputError, match=f"split '{absent}'.*has no spectra"):
        Dataset(root, Tiny()).read(absent)


def test_an_unknown_split_is_refused(few: tuple[Path, SpectrumBatch]) -> None:
    with pytest.raises(InputError, match="no split 'training'; there are train"):
        Dataset(few[0], Tiny()).read("training")


def test_an_unfinished_dataset_is_refused(copied: Path) -> None:
    manifest = copied / "dataset.json"
    manifest.write_text(manifest.read_text().replace('"complete": true', '"complete": false'))
    with pytest.raises(InputError, match=r"not complete.*run it again"):
        Dataset(copied, Tiny())


# -- damage ---------------------------------------------------------------------------------


def test_a_missing_shard_is_named(copied: Path) -> None:
    (copied / "data" / "train-00000.parquet").unlink()
    with pytest.raises(FileError, match=r"train-00000\.parquet"):
        Dataset(copied, Tiny())
    (copied / "dataset.json").unlink()
    with pytest.raises(FileError, match=r"train-00000\.parquet is missing"):
        Dataset(copied, Tiny())


@pytest.mark.parametrize("keep", [0, 3, 1000, -20, -1000])
def test_a_truncated_shard_is_named(copied: Path, keep: int) -> None:
    shard = copied / "data" / "train-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(FileError, match=r"train-00001\.parquet is damaged.*spender prepare"):
        Dataset(copied, Tiny())


def test_damaged_pages_are_told_with_their_shard(copied: Path) -> None:
    shard = copied / "data" / "train-00001.parquet"
    content = bytearray(shard.read_bytes())
    content[4:60] = b"\xff" * 56
    shard.write_bytes(content)
    dataset = Dataset(copied, Tiny())
    with pytest.raises(FileError, match=r"train-00001\.parquet is damaged.*spender prepare"):
        dataset.read("train")


def test_flipped_bits_never_change_what_is_read(few: tuple[Path, SpectrumBatch]) -> None:
    """Each page has a checksum: flipped bits are told, or they lie where nothing is read."""
    shard = few[0] / "data" / "train-00000.parquet"
    whole, expected = shard.read_bytes(), of_split(few[1], "train")
    random, told = np.random.default_rng(0), 0
    try:
        for place in random.integers(0, len(whole), 150).tolist():
            content = bytearray(whole)
            content[place] ^= 1 << int(random.integers(8))
            shard.write_bytes(content)
            try:
                assert same(Dataset(few[0], Tiny()).read("train"), expected), place
            except FileError:
                told += 1
    finally:
        shard.write_bytes(whole)
    assert told > 100


def test_no_damage_escapes_as_an_error_of_pyarrow(copied: Path) -> None:
    """Bytes anywhere in a shard are overwritten; every error is one of ours."""
    shard = copied / "data" / "train-00001.parquet"
    whole = shard.read_bytes()
    random = np.random.default_rng(0)
    told = []
    for _ in range(60):
        content = bytearray(whole)
        place = int(random.integers(0, len(whole) - 16))
        content[place : place + 16] = random.bytes(16)
        shard.write_bytes(content)
        try:
            Dataset(copied, Tiny()).read("train")
        except SpenderError as error:
            told.append(str(error))
    assert told
    assert all("train-00001.parquet" in message for message in told)


def test_values_that_cannot_be_are_damage(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    root, _ = written(tmp_path, 50)
    shard = root / "data" / "train-00000.parquet"
    table = pq.read_table(shard)
    norm = table.column("norm").to_numpy().copy()
    norm[3] = -1
    place = table.schema.get_field_index("norm")
    pq.write_table(table.set_column(place, "norm", pa.array(norm)), shard)
    (root / "dataset.json").unlink()
    with pytest.raises(FileError, match=r"train-00000\.parquet is damaged: norm must be"):
        Dataset(root, Tiny()).read("train")


def test_a_shard_of_another_dataset_is_named(copied: Path, tmp_path: Path) -> None:
    other, _ = written(tmp_path / "other", 100, lsf="gaussian")
    shutil.copy(other / "data" / "train-00000.parquet", copied / "data" / "train-00001.parquet")
    with pytest.raises(FileError, match=r"train-00001\.parquet.*dataset\.json says"):
        Dataset(copied, Tiny())
    (copied / "dataset.json").unlink()
    with pytest.raises(FileError, match=r"train-00001\.parquet does not belong"):
        Dataset(copied, Tiny())


def test_an_id_that_is_missing_is_damage(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    root, _ = written(tmp_path, 50)
    shard = root / "data" / "train-00000.parquet"
    table = pq.read_table(shard)
    values = [None, *table.column("id").to_pylist()[1:]]
    place = table.schema.get_field_index("id")
    pq.write_table(table.set_column(place, "id", pa.array(values, pa.int64())), shard)
    (root / "dataset.json").unlink()
    with pytest.raises(FileError, match=r"train-00000\.parquet is damaged.*id has missing"):
        Dataset(root, Tiny()).read("train")


# -- which dataset it is --------------------------------------------------------------------


def test_a_fingerprint_tells_datasets_apart(
    made: tuple[Path, SpectrumBatch], few: tuple[Path, SpectrumBatch], copied: Path, tmp_path: Path
) -> None:
    of_made = Dataset(made[0], Tiny()).fingerprint
    assert Dataset(copied, Tiny()).fingerprint == of_made
    assert Dataset(few[0], Tiny()).fingerprint != of_made
    # as many spectra, but others
    others, _ = written(tmp_path / "others", 200, first=200)
    assert Dataset(others, Tiny()).fingerprint != Dataset(few[0], Tiny()).fingerprint
    # the same sizes, but other values
    mirrored = few[1].replace(ivar=few[1].ivar.flip(0))
    write_dataset(str(tmp_path / "mirrored"), [mirrored], Tiny())
    assert Dataset(tmp_path / "mirrored", Tiny()).fingerprint != Dataset(few[0], Tiny()).fingerprint


# -- elsewhere ------------------------------------------------------------------------------


class Ranges(SimpleHTTPRequestHandler):
    """Sends files, and parts of them; lists nothing."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content, asked = path.read_bytes(), self.headers.get("Range")
        first, last = 0, len(content) - 1
        if asked:
            start, stop = asked.removeprefix("bytes=").split("-")
            first, last = int(start), min(int(stop or last), last)
        self.send_response(206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last - first + 1))
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[first : last + 1])

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet."""


@pytest.fixture
def web(few: tuple[Path, SpectrumBatch]) -> Iterator[tuple[str, Path]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, directory=str(few[0])))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", few[0]
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_dataset_is_read_from_a_web_server(
    web: tuple[str, Path], few: tuple[Path, SpectrumBatch]
) -> None:
    dataset = Dataset(web[0], Tiny())
    assert same(dataset.read("train"), of_split(few[1], "train"))
    assert dataset.fingerprint == Dataset(few[0], Tiny()).fingerprint


def test_a_web_server_without_a_manifest_is_told(web: tuple[str, Path]) -> None:
    with pytest.raises(FileError, match=r"no .*/elsewhere/dataset\.json.*does not list"):
        Dataset(f"{web[0]}/elsewhere", Tiny())


@pytest.mark.parametrize("manifest", [True, False])
def test_a_dataset_is_read_from_a_bucket(
    few: tuple[Path, SpectrumBatch], monkeypatch: pytest.MonkeyPatch, manifest: bool
) -> None:
    import s3fs

    files = {
        f"surveys/tiny/{path.relative_to(few[0])}": path.read_bytes()
        for path in few[0].rglob("*")
        if path.is_file() and (manifest or path.suffix != ".json")
    }
    s3fs.S3FileSystem.clear_instance_cache()
    with public_bucket("spectra", files) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        dataset = Dataset("s3://spectra/surveys/tiny", Tiny())
        assert same(dataset.read("train"), of_split(few[1], "train"))
        with pytest.raises(FileError, match=r"s3://spectra/nothing holds no dataset"):
            Dataset("s3://spectra/nothing", Tiny())


def test_offline_nothing_remote_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPENDER_OFFLINE", "1")
    with pytest.raises(SpenderError, match="SPENDER_OFFLINE"):
        Dataset("s3://spectra/tiny", Tiny())
