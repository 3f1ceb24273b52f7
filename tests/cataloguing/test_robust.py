"""What goes wrong: files that are broken, folders that are not writable, runs that are repeated."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spender_core import cataloguing, registry
from spender_core.cataloguing import parts
from spender_core.errors import FileError, InputError

pytest.importorskip("spender_sdss", reason="the plugin spender-sdss is not installed")
pytestmark = pytest.mark.usefixtures("one_thread")

HOSTILE = ("a 'b\";$(x)\n\x1b[31m.fits", "ſpéc-日本.fits", "-rf.fits", "@a.fits", os.fsdecode(b"\xff\xfe.fits"))  # fmt: skip


@pytest.fixture(scope="module")
def real(real_data: Path) -> list[Path]:
    return sorted(real_data.glob("sdss/sas/dr17/**/26/**/lite/**/spec-*.fits"))[:6]


@pytest.fixture
def good(real: list[Path], tmp_path: Path) -> list[Path]:
    """Copies of real files, some under names that nobody should choose."""
    folder = tmp_path / "data"
    folder.mkdir()
    names = (*HOSTILE, "plain.fits")
    return [Path(shutil.copy(file, folder / name)) for file, name in zip(real, names, strict=True)]


def broken(real: Path, folder: Path, number: int) -> list[str]:
    """Return files that cannot be read, of five kinds, for as many reasons."""
    whole, made = real.read_bytes(), []
    contents = (whole[: len(whole) // 3], bytes(len(whole)), b"<html>503</html>", b"", None)
    for place in range(number):
        path, content = folder / f"broken-{place:03d}.fits", contents[place % len(contents)]
        if content is not None:
            path.write_bytes(content)
        made.append(str(path))
    return made


def plan_of(files: list[Any], size: int = 10, **options: Any) -> cataloguing.Plan:
    how = cataloguing.how("sdss", everything=True, **options)
    return cataloguing.of_files(how, list(map(str, files)), size)


def run(plan: cataloguing.Plan, folder: Path, **options: Any) -> cataloguing.Done:
    return cataloguing.run(plan, folder, workers=0, **options)


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("part-*")}


def test_a_hundred_broken_files_are_listed_and_the_rest_is_done(
    good: list[Path], tmp_path: Path
) -> None:
    bad = broken(good[0], good[0].parent, 100)
    folder = tmp_path / "catalogue"
    done = run(plan_of([*bad, *good]), folder)
    assert (done.rows, done.failures, done.errors) == (len(good), 100, {})
    listed = [failure for _, failure in parts.read_listing(folder)]
    assert sorted(one.source for one in listed) == sorted(bad)
    assert all(one.message for one in listed)
    assert {one.error for one in listed} == {"FileError", "MissingFileError"}
    table = cataloguing.read(folder)
    alone = registry.instrument("sdss").read(list(map(str, good)), quality=False)
    assert alone.ids is not None
    assert sorted(table["FIBERID"]) == sorted(alone.ids["FIBERID"])
    assert all(str(source).isprintable() for source in table["source"])
    assert "plain.fits" in " ".join(table["source"])


def test_a_second_run_does_nothing(good: list[Path], tmp_path: Path) -> None:
    folder, plan = tmp_path / "catalogue", plan_of([*good, "/absent.fits"], 2)
    first = run(plan, folder)
    before = stamps(folder)
    second = run(plan_of(["/absent.fits", *good[::-1]], 2), folder)
    assert (second.kept, second.measured) == (first.of, 0)
    assert (second.rows, second.failures, second.listed) == (first.rows, 1, 1)
    assert stamps(folder) == before


def test_damaged_and_foreign_parts_are_made_again(
    good: list[Path], tmp_path: Path, digests: Any
) -> None:
    folder, plan = tmp_path / "catalogue", plan_of([*good, "/absent.fits"], 1)
    run(plan, folder)
    before = digests(folder)
    run(plan_of(good[1:], 1), tmp_path / "other")
    names = [f"part-{number:06d}.parquet" for number in range(plan.told["sources"]["number"])]
    (folder / names[5]).write_bytes((folder / names[5]).read_bytes()[:-20])
    shutil.copy(tmp_path / "other" / names[2], folder / names[1])
    shutil.copy(folder / names[3], folder / names[2])
    shutil.copy(folder / names[4], folder / "part-000099.parquet")
    failed = next(folder.glob("_failures/*"))
    failed.write_bytes(b"")
    done = run(plan, folder)
    assert done.kept == done.of - 4
    assert digests(folder) == before


def test_another_plan_is_refused_and_tells_what_differs(good: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "catalogue"
    run(plan_of(good, 2), folder)
    before = stamps(folder)
    with pytest.raises(InputError, match=r"another plan: sources number 6, now 5\. Give"):
        run(plan_of(good[1:], 2), folder)
    with pytest.raises(InputError, match=r"options refine 0, now 2"):
        run(plan_of(good, 2, refine=2), folder)
    with pytest.raises(InputError, match="other sources, or other partitions"):
        run(plan_of([*good[1:], "/absent.fits"], 2), folder)
    assert stamps(folder) == before
    assert run(plan_of(good[1:], 3), folder, overwrite=True).rows == 5
    assert sorted(path.name for path in folder.glob("part-*")) == [
        "part-000000.parquet",
        "part-000001.parquet",
    ]


def test_sources_that_failed_are_read_again_on_request(good: list[Path], tmp_path: Path) -> None:
    folder, late = tmp_path / "catalogue", tmp_path / "late.fits"
    plan = plan_of([*good, late], 2)
    assert run(plan, folder).failures == 1
    good[-1].replace(late)
    assert run(plan, folder).failures == 1
    done = run(plan, folder, retry=True)
    assert (done.failures, done.kept) == (0, done.of - 1)
    assert not list(folder.glob("_failures/*"))


def test_what_could_not_be_reached_is_read_again_by_itself(
    good: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPENDER_OFFLINE", "1")
    plan = plan_of([*good, "https://host.invalid/a.fits"], 2)
    assert run(plan, tmp_path / "catalogue").failures == 1
    done = run(plan, tmp_path / "catalogue")
    assert done.kept == done.of - 1


def test_a_folder_with_other_files_is_left_alone(good: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds other files, such as"):
        run(plan_of(good), good[0].parent)
    assert not [path for path in good[0].parent.iterdir() if path.name.startswith("_c")]


def test_two_runs_at_a_time_are_refused(good: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "catalogue"

    def meanwhile(_: cataloguing.Progress) -> None:
        with pytest.raises(InputError, match="another run is at work"):
            run(plan_of(good), folder)

    assert run(plan_of(good), folder, progress=meanwhile).rows == len(good)


@pytest.mark.parametrize("what", ["a file", "a part that is a folder"])
def test_a_place_that_cannot_be_written_is_told(
    good: list[Path], tmp_path: Path, what: str
) -> None:
    folder = tmp_path / "catalogue"
    if what == "a file":
        folder.write_text("a file")
    else:
        (folder / "part-000000.parquet" / "more").mkdir(parents=True)
        parts.write_plan(folder, plan_of(good).told, plan_of(good).hash, {})
    with pytest.raises(FileError, match=r"cannot (write|remove)"):
        run(plan_of(good), folder)


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of processes")
def test_a_full_disk_ends_the_run_and_leaves_nothing_half_written(
    good: list[Path], tmp_path: Path
) -> None:
    """A limit of the size of files stands in for the disk: writing fails halfway through."""
    code = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, resource.RLIM_INFINITY))\n"
        "from spender_core.cli import main\n"
        "sys.argv = ['spender', *sys.argv[1:]]\n"
        "main()\n"
    )
    folder = tmp_path / "catalogue"
    line = [sys.executable, "-c", code, "encode", *map(str, good), "--all", "--workers", "0"]
    ran = subprocess.run(
        [*line, "--partition", "3", "-o", f"{folder}/"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    (told,) = ran.stderr.splitlines()
    assert "cannot write" in told
    assert "part-00000" in told
    assert [path.name for path in folder.iterdir() if path.name[0] != "_"] == []
    assert run(plan_of(good, 3), folder).rows == len(good)
