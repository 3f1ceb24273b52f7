"""`spender pull` and `spender cache`: what is there, where it came from, and cleaning up."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from servers import COMMIT, REPOSITORY, Hub, altered, drop

from spender_core.archives.downloads import cache
from spender_core.archives.location import parse
from spender_core.archives.remote import whole

Spender = Callable[..., Any]
CONTENT = b"weights" * 1000


def visible(root: Path | None = None) -> set[str]:
    return {p.name for p in (root or cache.home()).rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.fixture
def location(hub: Hub) -> str:
    return hub.offer("model.bin", CONTENT)


def test_pull_brings_every_model_that_it_can(spender: Spender, hub: Hub, location: str) -> None:
    other = hub.offer("other.bin", CONTENT[::-1])
    ran = spender("pull", location, f"hf:{REPOSITORY}/gone.bin", "no_such_model", other, location)
    assert ran.code == 1
    lines = ran.out.splitlines()
    assert [line.rpartition("/")[2] for line in lines] == ["model.bin", "other.bin"]
    assert all(Path(line).is_file() for line in lines)
    assert "not pulled: hf:pmelchior/spender/gone.bin: the server has no file" in ran.err
    assert "not pulled: no_such_model: no model named 'no_such_model'" in ran.err
    assert "2 of 4 models could not be pulled" in ran.err
    assert visible() == {"model.bin", "other.bin", "record.json"}


def test_pull_of_an_embedded_model_says_where_it_is(spender: Spender) -> None:
    ran = spender("pull", "sdss_demo")
    assert ran.code == 0
    assert Path(ran.out.strip()).name == "sdss_demo.safetensors"


def test_pull_of_nothing_is_refused(spender: Spender) -> None:
    ran = spender("pull")
    assert ran.code == 1
    assert "--all" in ran.err


def test_list_tells_where_files_came_from(
    spender: Spender, location: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spender("pull", location)
    monkeypatch.setenv("SPENDER_SHARED_CACHE", str(cache.home()))
    monkeypatch.setenv("SPENDER_HOME", str(tmp_path / "own"))
    ran = spender("cache", "list")
    assert ran.code == 0
    record = cache.entry(parse(location), cache.shared()[0]).record()
    assert record is not None
    for part in ("model.bin", record.sha256[:16], location, COMMIT[:8], "shared", record.time):
        assert part in ran.out
    assert f"{tmp_path / 'own'} (yours): 0 files" in ran.out


def test_list_of_an_empty_cache(spender: Spender) -> None:
    ran = spender("cache", "list")
    assert ran.code == 0
    assert "0 files" in ran.out


def test_list_names_installed_models(spender: Spender) -> None:
    one = cache.entry(parse("hf:pmelchior/spender/spender.sdss.paperII-c273bb69.pt"))
    one.folder.mkdir(parents=True)
    one.path.write_bytes(CONTENT)
    assert "sdss_II " in spender("cache", "list").out


def test_verify_finds_a_damaged_file_and_prune_removes_it(
    spender: Spender, hub: Hub, location: str
) -> None:
    other = hub.offer("other.bin", CONTENT)
    spender("pull", location, other)
    assert "2 files, none of them damaged" in spender("cache", "verify").out
    path = cache.entry(parse(location)).path
    path.write_bytes(CONTENT[:-1])
    ran = spender("cache", "verify")
    assert ran.code == 1
    assert f"damaged: {path}: has sha256 " in ran.out
    assert "ok: " in ran.out
    assert "1 of 2 are damaged or cannot be read; `spender cache prune`" in ran.err
    assert spender("cache", "prune").code == 0
    assert not path.exists()
    assert cache.entry(parse(other)).path.exists()
    assert spender("cache", "verify").code == 0


def test_prune_removes_what_interrupted_downloads_left(
    spender: Spender, hub: Hub, location: str
) -> None:
    hub.always = drop(10)
    assert spender("pull", location).code == 1
    assert visible() == {".model.bin.part", ".model.bin.part.json"}
    assert "not finished" in spender("cache", "list").out
    assert spender("cache", "prune").code == 0
    assert visible() == set()


def test_prune_leaves_a_download_that_goes_on(spender: Spender, hub: Hub, location: str) -> None:
    hub.always = drop(10)
    spender("pull", location)
    with FileLock(cache.entry(parse(location)).folder / ".lock"):
        ran = spender("cache", "prune")
    assert "0.0 MB removed" in ran.out
    assert ".model.bin.part" in visible()


def test_prune_of_a_model_keeps_its_hash_unless_it_is_forgotten(
    spender: Spender, hub: Hub, location: str
) -> None:
    spender("pull", location)
    assert spender("cache", "prune", location).code == 0
    assert visible() == {"record.json"}
    assert "removed" in spender("cache", "list").out
    hub.always = altered
    ran = spender("pull", location)
    assert "the first download from there had" in ran.err
    assert spender("cache", "prune", "--forget", location).code == 0
    assert visible() == set()
    assert spender("pull", location).code == 0


def test_prune_all(spender: Spender, hub: Hub, location: str) -> None:
    spender("pull", location, hub.offer("other.bin", CONTENT))
    assert spender("cache", "prune", "--all", "--forget").code == 0
    assert visible() == set()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sdss_II", "not in the cache"),
        ("sdss_demo", "comes with its plugin"),
        ("sdss_3", "Did you mean"),
        ("../../etc", "neither of the form"),
    ],
)
def test_prune_of_what_is_not_there_is_refused(spender: Spender, name: str, message: str) -> None:
    ran = spender("cache", "prune", name)
    assert ran.code == 1
    assert message in ran.err


def test_prune_never_touches_a_shared_cache(
    spender: Spender, location: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spender("pull", location)
    shared = cache.home()
    monkeypatch.setenv("SPENDER_SHARED_CACHE", str(shared))
    monkeypatch.setenv("SPENDER_HOME", str(tmp_path / "own"))
    assert spender("cache", "prune", "--all", "--forget").code == 0
    assert visible(shared) == {"model.bin", "record.json"}


def test_size_tells_the_folders(spender: Spender, location: str) -> None:
    spender("pull", location)
    ran = spender("cache", "size")
    assert f"{cache.home()} (yours): 1 files, 0.0 MB, " in ran.out
    assert " free" in ran.out


def test_files_of_archives_are_counted_and_removed_on_request(
    spender: Spender, location: str
) -> None:
    spender("pull", location)
    for name in ("a", "b"):
        whole.save(f"https://archive.invalid/{name}", bytes(700_000), "v1")
    folder = cache.home() / "data"
    assert f"{folder} (spectra): 2 files, 1.4 MB of at most 20.0 GB" in spender("cache", "size").out
    spender("cache", "prune")
    assert len(list(folder.rglob("*.whole"))) == 2
    assert "1.4 MB removed" in spender("cache", "prune", "--data").out
    assert not list(folder.rglob("*.whole"))
    assert f"{cache.home()} (yours): 1 files" in spender("cache", "size").out


def test_the_cache_needs_neither_torch_nor_astropy(spender_home: Path) -> None:
    script = (
        "import sys; from spender_core.cli import app; app(['cache', 'list'], standalone_mode=False);"
        "print({'torch', 'astropy', 'fsspec'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "set()"


def test_on_a_terminal_a_progress_bar_is_shown(hub: Hub, location: str) -> None:
    hub.files["model.bin"] = CONTENT * 100
    hub.pause = 0.1
    primary, secondary = os.openpty()
    command = [sys.executable, "-m", "spender_core.cli", "pull", location]
    with subprocess.Popen(command, stderr=secondary, stdout=subprocess.PIPE) as running:
        os.close(secondary)
        shown = b""
        while True:
            try:
                piece = os.read(primary, 1 << 16)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            shown += piece
    os.close(primary)
    assert running.returncode == 0
    assert b"downloading" in shown
    assert b"MB/s" in shown or b"kB/s" in shown


# -- what is not of the cache's making ------------------------------------------------------


def test_prune_touches_nothing_of_strangers(
    spender: Spender, location: str, tmp_path: Path
) -> None:
    spender("pull", location)
    models = cache.home() / "models"
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    for file in ("chapter.tex", ".env", "model.bin"):
        (thesis / file).write_text("years of work")
    (models / "my_run").mkdir()
    (models / "my_run" / "best.safetensors").write_text("weeks of work")
    (models / "thesis").symlink_to(thesis)
    (models / ("0" * 16)).symlink_to(thesis)
    (models / "notes.txt").write_text("notes")
    own = cache.entry(parse(location)).folder
    (own / "folder").mkdir()
    (own / ".hidden").write_text("mine")
    (own / "link").symlink_to(thesis)
    before = {path for path in tmp_path.rglob("*") if path.name not in ("model.bin", "record.json")}
    assert spender("cache", "prune", "--all", "--forget").code == 0
    after = set(tmp_path.rglob("*"))
    assert before <= after
    assert (thesis / "model.bin").exists()
    assert not (own / "model.bin").exists()
    assert not (own / "record.json").exists()


def test_prune_removes_a_damaged_record_and_keeps_the_file(spender: Spender, location: str) -> None:
    spender("pull", location)
    one = cache.entry(parse(location))
    (one.folder / "record.json").write_text("{")
    assert spender("pull", location).code == 1
    ran = spender("cache", "verify")
    assert ran.code == 1
    assert "record.json is damaged" in ran.out
    assert spender("cache", "prune").code == 0
    assert one.path.exists()
    assert spender("pull", location).code == 0
    assert spender("cache", "verify").code == 0


def test_a_file_put_there_by_hand_is_not_pruned(spender: Spender, location: str) -> None:
    one = cache.entry(parse(location))
    one.folder.mkdir(parents=True)
    one.path.write_bytes(CONTENT)
    assert "not downloaded by spender" in spender("cache", "verify").out
    assert spender("cache", "prune").code == 0
    assert one.path.exists()


def test_a_record_that_names_a_file_elsewhere_is_damaged(spender: Spender, location: str) -> None:
    spender("pull", location)
    path = cache.entry(parse(location)).folder / "record.json"
    for old, new in (("model.bin", "../../../../../../etc/hostname"), ("main", "\\u001b[31m")):
        text = path.read_text()
        path.write_text(text.replace(f'"{old}"', f'"{new}"'))
        ran = spender("cache", "list")
        assert ran.code == 0
        assert "its record or folder cannot be read" in ran.out
        assert "\x1b" not in ran.out
        path.write_text(text)


def test_pull_of_a_path_that_is_not_there_fails(spender: Spender, tmp_path: Path) -> None:
    ran = spender("pull", tmp_path / "x.safetensors")
    assert ran.code == 1
    assert f"there is no file {tmp_path}/x.safetensors" in ran.err


def test_secrets_are_not_shown(spender: Spender, hub: Hub) -> None:
    url = f"{hub.url.replace('//', '//me:hush@')}/cdn/gone.bin?token=hush"
    for command in (("pull", url), ("cache", "prune", url), ("info", url)):
        ran = spender(*command)
        assert ran.code == 1
        assert "hush" not in ran.out + ran.err
