"""Files become a dataset, resumably: killed, interrupted, damaged, grown, and on another store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from pixel_survey import Tiny, TinyLoader, contents, write_survey

from spender_core import registry
from spender_core.batch import SpectrumBatch
from spender_core.datasets.layout import split_of
from spender_core.datasets.manifest import Manifest, verify
from spender_core.datasets.prepare import prepare
from spender_core.datasets.stores import Store
from spender_core.datasets.tables import to_batch
from spender_core.errors import FileError, InputError, NoSpectraError, OfflineError

FILES, ROWS = 16, 1500


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A survey of 24,000 spectra: three shards to train on."""
    return write_survey(tmp_path_factory.mktemp("survey"), FILES, ROWS)


@pytest.fixture(scope="module")
def whole(files: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The dataset of an uninterrupted run."""
    root = tmp_path_factory.mktemp("whole")
    prepare(root, Tiny(), files)
    return contents(root)


def shards(found: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in found.items() if name.endswith(".parquet")}


def reads(instrument: Tiny) -> list[str]:
    assert isinstance(instrument.loader, TinyLoader)
    return sorted(instrument.loader.read)


def read_back(root: Path, split: str, lsf: bool = False) -> SpectrumBatch:
    paths = sorted(root.glob(f"data/{split}-*.parquet"))
    return SpectrumBatch.cat([to_batch(pq.read_table(path), Tiny(), lsf) for path in paths])


def test_a_dataset_holds_what_the_instrument_reads(tmp_path: Path) -> None:
    files = write_survey(tmp_path / "survey", 5, 100, bad=7)
    done = prepare(tmp_path / "root", Tiny(), files)
    expected = Tiny().read(files)
    assert expected.ids is not None
    splits = split_of(expected.ids, Tiny())
    assert sum(done.rows.values()) == len(expected) == 5 * 93
    for split, count in done.rows.items():
        written, there = read_back(tmp_path / "root", split), expected[splits == split]
        assert written.ids is not None
        assert there.ids is not None
        assert len(written) == count
        assert (written.ids == there.ids).all()
        for name in ("flux", "ivar", "flags"):
            assert torch.equal(getattr(written, name), getattr(there, name))
        for name in ("z", "zerr", "norm"):
            assert torch.equal(getattr(written, name), getattr(there, name).float().double())


def test_without_cuts_all_rows_are_kept_with_their_flags(tmp_path: Path) -> None:
    files = write_survey(tmp_path / "survey", 2, 50, bad=7)
    done = prepare(tmp_path / "root", Tiny(), files, quality=False)
    assert sum(done.rows.values()) == 100
    flagged = sum(int((read_back(tmp_path / "root", s).flags & 16 != 0).sum()) for s in done.rows)
    assert flagged == 14


@pytest.mark.parametrize("banded", [False, True])
def test_line_spread_functions_are_stored(tmp_path: Path, banded: bool) -> None:
    files = write_survey(tmp_path / "survey", 2, 60)
    prepare(tmp_path / "root", Tiny(banded), files, lsf=True)
    expected = Tiny(banded).read(files, lsf=True)
    assert expected.ids is not None
    there = expected[split_of(expected.ids, Tiny()) == "train"].lsf
    written = read_back(tmp_path / "root", "train", lsf=True).lsf
    assert type(written) is type(there)
    flux = torch.rand(len(there), 16)
    assert torch.equal(written(flux), there(flux))


def test_the_bytes_depend_on_the_sources_alone(
    files: list[str], whole: dict[str, bytes], tmp_path: Path
) -> None:
    prepare(tmp_path, Tiny(), files, chunk=3, threads=5)
    assert shards(contents(tmp_path)) == shards(whole)


def test_a_second_run_reads_nothing(
    files: list[str], whole: dict[str, bytes], tmp_path: Path
) -> None:
    first = prepare(tmp_path, Tiny(), files)
    again = Tiny()
    second = prepare(tmp_path, again, files)
    assert reads(again) == []
    assert contents(tmp_path) == whole
    assert second.rows == first.rows
    assert second.kept == tuple(sorted(first.written))
    assert second.written == ()
    assert second.read == 0


def test_a_dataset_grows_and_new_files_alone_are_read(
    files: list[str], whole: dict[str, bytes], tmp_path: Path
) -> None:
    for count in (1, 5, 11):
        prepare(tmp_path, Tiny(), files[:count])
    last = Tiny()
    done = prepare(tmp_path, last, files)
    assert reads(last) == sorted(Path(file).name for file in files[11:])
    assert shards(contents(tmp_path)) == shards(whole)
    assert sum(done.rows.values()) == FILES * ROWS
    assert verify(str(tmp_path)) == []


@pytest.mark.parametrize("fault", ["truncated", "changed", "missing", "empty"])
def test_a_damaged_shard_is_named_and_rebuilt_byte_for_byte(
    fault: str, files: list[str], whole: dict[str, bytes], tmp_path: Path
) -> None:
    prepare(tmp_path, Tiny(), files, chunk=1)
    path = tmp_path / "data" / "train-00001.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 255
    faulty = {"truncated": content[:9999], "changed": content, "missing": None, "empty": b""}[fault]
    path.unlink()
    if faulty is not None:
        path.write_bytes(faulty)
    (damage,) = verify(str(tmp_path))
    assert damage.name == "data/train-00001.parquet"
    again = Tiny()
    done = prepare(tmp_path, again, files, chunk=1)
    assert done.damaged == (damage,)
    assert done.written == (damage.name,)
    assert shards(contents(tmp_path)) == shards(whole)
    # a file has some 1,050 spectra to train on: those before and after the shard are not read
    assert reads(again) == [Path(file).name for file in files[7:16]]


def test_a_damaged_last_shard_is_rebuilt_while_the_dataset_grows(
    files: list[str], whole: dict[str, bytes], tmp_path: Path
) -> None:
    prepare(tmp_path, Tiny(), files[:13])
    (tmp_path / "data" / "train-00001.parquet").write_bytes(b"")
    (tmp_path / "data" / "test-00000.parquet").unlink()
    prepare(tmp_path, Tiny(), files)
    assert shards(contents(tmp_path)) == shards(whole)


def test_other_sources_are_refused(files: list[str], tmp_path: Path) -> None:
    prepare(tmp_path, Tiny(), files[:10], chunk=1)
    before = contents(tmp_path)
    wrong = [files[:9], [*files[:4], files[5]], files[::-1], [files[0], files[15], *files[1:15]]]
    wrong.append(files[1:])
    for sources, number in zip(wrong, (10, 5, 1, 2, 1), strict=True):
        with pytest.raises(InputError, match=rf"other sources.*number {number} .*--overwrite"):
            prepare(tmp_path, Tiny(), sources)
        assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "named"),
    [({"lsf": True}, "lsf True, not False"), ({"quality": False}, "quality False, not True")],
)
def test_other_settings_are_refused(
    files: list[str], tmp_path: Path, options: dict[str, Any], named: str
) -> None:
    prepare(tmp_path, Tiny(), files[:1])
    with pytest.raises(InputError, match=named):
        prepare(tmp_path, Tiny(), files[:1], **options)
    with pytest.raises(InputError, match="instrument desi, not tiny"):
        prepare(tmp_path, registry.instrument("desi"), files[:1])
    done = prepare(tmp_path, Tiny(), files[1:2], overwrite=True, **options)
    assert sum(done.rows.values()) == ROWS


def test_a_dataset_of_others_is_not_touched(files: list[str], tmp_path: Path) -> None:
    prepare(tmp_path, Tiny(), files[:1])
    (tmp_path / "dataset.json").unlink()
    before = contents(tmp_path)
    with pytest.raises(InputError, match="holds a dataset already"):
        prepare(tmp_path, Tiny(), files[:1])
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "wrong",
    [{"sources": []}, {"chunk": 0}, {"threads": 0}],
    ids=["no sources", "no chunk", "no threads"],
)
def test_what_cannot_be_is_refused(files: list[str], tmp_path: Path, wrong: dict[str, Any]) -> None:
    options = {"sources": files[:1]} | wrong
    with pytest.raises(InputError, match="at least 1"):
        prepare(tmp_path, Tiny(), **options)


def test_a_source_that_changed_is_told_when_it_is_needed_again(tmp_path: Path) -> None:
    files = write_survey(tmp_path / "survey", 8, 1500)
    root = tmp_path / "root"
    prepare(root, Tiny(), files, chunk=2)
    before = contents(root)
    for change in ({"seed": 99, "rows": 1500}, {"seed": 3, "rows": 1499}, {}):
        (root / "data" / "train-00000.parquet").unlink(missing_ok=True)
        Path(files[3]).write_text(json.dumps(change))
        with pytest.raises(FileError, match=r"002\.txt to .*003\.txt gave .*overwrite"):
            prepare(root, Tiny(), files)
        assert [n for n in contents(root) if n not in before] == []
    Path(files[3]).write_text(json.dumps({"seed": 3, "rows": 1500}))
    prepare(root, Tiny(), files)
    assert contents(root) == before


# -- sources that cannot be read --------------------------------------------------------------


def test_files_that_cannot_be_read_are_noted(tmp_path: Path) -> None:
    files = write_survey(tmp_path / "survey", 6, 100)
    Path(files[2]).write_text("{}")
    Path(files[4]).unlink()
    root = tmp_path / "root"
    done = prepare(root, Tiny(), files)
    assert sum(done.rows.values()) == 400
    assert [(f.source, f.error) for f in done.failures] == [
        (files[2], "FileError"),
        (files[4], "MissingFileError"),
    ]
    assert "no rows" in done.failures[0].message
    again = prepare(root, Tiny(), files)
    assert again.failures == done.failures
    # repaired, it comes in as a new source
    Path(files[4]).write_text(json.dumps({"seed": 4, "rows": 100}))
    more = prepare(root, Tiny(), [*files, files[4]])
    assert sum(more.rows.values()) == 500
    assert more.failures == done.failures


def test_a_source_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    files = write_survey(tmp_path / "survey", 3, 100)
    other = str(tmp_path / "root" / ".." / "survey" / "001.txt")
    for twice in ([*files, files[1]], [*files, other]):
        with pytest.raises(InputError, match=r"source 4 is source 2 again.*give it once"):
            prepare(tmp_path / "root", Tiny(), twice)
    with pytest.raises(InputError, match="source 2 is source 1 again"):
        prepare(tmp_path / "root", Tiny(), [(1,), (1,)], archive=tmp_path / "survey")
    Path(files[1]).write_text("{}")
    prepare(tmp_path / "root", Tiny(), files)
    with pytest.raises(InputError, match="source 5 is source 2 again"):
        prepare(tmp_path / "root", Tiny(), [*files, files[1], files[1]])


def test_a_spectrum_that_float32_cannot_hold_is_left_out(tmp_path: Path) -> None:
    files = write_survey(tmp_path / "survey", 3, 100)
    Path(files[1]).write_text(json.dumps({"seed": 1, "rows": 100, "norm": 1e39}))
    done = prepare(tmp_path / "root", Tiny(), files)
    assert sum(done.rows.values()) == 299
    (failure,) = done.failures
    assert failure.source.endswith("20260102, 'f1')")
    assert "float32" in failure.message
    assert sum(len(read_back(tmp_path / "root", split)) for split in done.rows) == 299


def test_strict_stops_at_the_first_and_keeps_what_is_done(tmp_path: Path) -> None:
    files = write_survey(tmp_path / "survey", 6, 100)
    Path(files[3]).write_text("{}")
    root = tmp_path / "root"
    with pytest.raises(FileError, match=r"003\.txt"):
        prepare(root, Tiny(), files, strict=True)
    assert verify(str(root)) == []
    manifest = Manifest.read(Store(root))
    assert manifest is not None
    assert not manifest.complete
    assert sum(manifest.rows.values()) == 300
    Path(files[3]).write_text(json.dumps({"seed": 3, "rows": 100}))
    again = Tiny()
    done = prepare(root, again, files, strict=True)
    assert sum(done.rows.values()) == 600
    assert reads(again) == ["003.txt", "004.txt", "005.txt"]


def test_a_server_that_is_away_is_no_fault_of_a_file(tmp_path: Path) -> None:
    files = write_survey(tmp_path / "survey", 4, 100)
    Path(files[2]).write_text(json.dumps({"seed": 2, "rows": 100, "away": True}))
    root = tmp_path / "root"
    with pytest.raises(OfflineError, match="try again"):
        prepare(root, Tiny(), files)
    Path(files[2]).write_text(json.dumps({"seed": 2, "rows": 100}))
    done = prepare(root, Tiny(), files)
    assert done.failures == ()
    prepare(tmp_path / "whole", Tiny(), files)
    assert shards(contents(root)) == shards(contents(tmp_path / "whole"))


def test_where_nothing_can_be_read_nothing_is_written(tmp_path: Path) -> None:
    files = write_survey(tmp_path / "survey", 2, 10, bad=10)
    root = tmp_path / "root"
    with pytest.raises(NoSpectraError, match="quality"):
        prepare(root, Tiny(), files)
    with pytest.raises(NoSpectraError, match="no file"):
        prepare(root, Tiny(), [str(tmp_path / "absent")])
    assert contents(root) == {}


def test_ids_are_read_from_an_archive(tmp_path: Path) -> None:
    write_survey(tmp_path / "survey", 9, 50)
    ids = [(number,) for number in (0, 3, 8, 12, 5)]
    options: dict[str, Any] = {"archive": tmp_path / "survey", "chunk": 2}
    done = prepare(tmp_path / "root", Tiny(), ids, **options)
    assert sum(done.rows.values()) == 200
    assert [failure.source for failure in done.failures] == ["(12,)"]
    again = Tiny()
    prepare(tmp_path / "root", again, [*ids, (7,)], **options)
    assert reads(again) == ["007.txt"]
