"""A plugin is written whole or not at all, and whatever its name its source is clean."""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as checked
from hypothesis import strategies as st

from spender_core.errors import FileError, InputError
from spender_core.scaffold import Settings, check_name, write
from spender_core.scaffold.names import LONGEST, package_of
from spender_core.scaffold.writing import FILES, rendered

NAMES = st.from_regex(r"[a-z][a-z0-9]{0,6}(_[a-z0-9]{1,4}){0,2}", fullmatch=True)
WORDS = st.sampled_from(
    ["instrument", "loader", "log", "linear", "table", "flag", "test", "example", "x" * LONGEST]
)
AUTHORS = ['Ada "L" Lovelace', "O'Neill \\ Söhne", "@name@ <a@b@c>", "'''", "光谱"]


def free(name: str) -> bool:
    try:
        check_name(name)
    except InputError:
        return False
    return True


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_all_files_are_written_as_others_can_read_them(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        made = write("my_survey", tmp_path)
    finally:
        os.umask(mask)
    assert made == tmp_path / "spender-my-survey"
    assert left_in(tmp_path)[0] == ".github"
    found = {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()}
    assert found == set(rendered("my_survey", Settings()))
    assert len(found) == len(FILES)
    assert made.stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in made.rglob("*") if path.is_file()} == {0o644}


@checked(deadline=None, max_examples=40, derandomize=True)
@given(NAMES.filter(free) | WORDS, st.sampled_from(["linear", "log"]), st.sampled_from(AUTHORS))
def test_source_of_any_name_can_be_read(name: str, grid: str, author: str) -> None:
    files = rendered(name, Settings(grid, author=author))
    for path, text in files.items():
        assert not re.search(r"@[a-z_]+@", text.replace(author, "")), path
        if path.endswith(".py"):
            ast.parse(text)
            assert max(map(len, text.splitlines()), default=0) <= 100, path
        elif path.endswith(".toml"):
            project = tomllib.loads(text)["project"]
            assert project["authors"] == [{"name": author}]
            assert project["entry-points"]["spender"] == {name: f"{package_of(name)}.plugin"}
    assert author in files["LICENSE"]


def test_every_edit_is_listed_in_the_readme_in_its_order() -> None:
    files = rendered("mine", Settings())
    readme = files["README.md"]
    steps = re.split(r"^\*\*\d\. ", readme.partition("## Other layouts")[0], flags=re.M)
    rows = [re.findall(r"^\| ([a-z LSF]+?) \|", step, flags=re.M) for step in steps]

    for step, path in ((2, "example.py"), (3, "instrument.py"), (4, "loader.py")):
        titles = re.findall(r"# EDIT: ([^.,]+)[.,]", files[f"spender_mine/{path}"])
        assert rows[step] == titles, path
    others = [path for path in files if "# EDIT:" in files[path]]
    assert set(others) == {
        "pyproject.toml",
        "spender_mine/example.py",
        "spender_mine/instrument.py",
        "spender_mine/loader.py",
        "spender_mine/plugin.py",
        "tests/test_mine.py",
    }
    assert rows[5] == ["cuts", "description", "project"]
    assert sum(map(len, rows)) == sum(text.count("# EDIT:") for text in files.values())


@pytest.mark.skipif(shutil.which("ruff") is None, reason="needs ruff, of the extra check")
@checked(
    deadline=None,
    max_examples=15,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    NAMES.filter(free) | WORDS,
    st.sampled_from(
        [
            Settings(),
            Settings("log"),
            Settings("log", 3.985, 1e-5, 3500),
            Settings("linear", 1000, 198.0, 500),
            Settings("linear", 9365.5, 0.015, 5000),
        ]
    ),
)
def test_source_of_any_name_is_clean(tmp_path: Path, name: str, settings: Settings) -> None:
    made = write(name, tmp_path, settings)
    try:
        for command in (["check", "--no-cache"], ["format", "--check", "--diff", "--no-cache"]):
            done = subprocess.run(
                ["ruff", *command, "."], cwd=made, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
    finally:
        shutil.rmtree(made)


@pytest.mark.parametrize("name", ["../escape", "", "sdss", "Upper"])
def test_a_refused_name_leaves_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "inside").mkdir()
    with pytest.raises(InputError):
        write(name, tmp_path / "inside")
    assert left_in(tmp_path) == ["inside"]


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_what_is_there_is_kept(tmp_path: Path, kind: str) -> None:
    there = tmp_path / "spender-mine"
    if kind == "folder":
        there.mkdir()
    elif kind == "file":
        there.write_text("precious")
    else:
        there.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is there already"):
        write("mine", tmp_path)
    assert left_in(tmp_path) == ["spender-mine"]


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(InputError, match="there is no folder"):
            write("mine", folder)
    assert left_in(tmp_path) == ["file"]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc, where nobody can write")
def test_a_folder_that_cannot_be_written_is_named() -> None:
    with pytest.raises(FileError, match="cannot write /proc/spender-mine"):
        write("mine", "/proc")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere"
)
def test_without_permission_nothing_is_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(FileError, match="cannot write"):
            write("mine", tmp_path)
    finally:
        tmp_path.chmod(0o755)
    assert left_in(tmp_path) == []


FULL = """
import resource, sys
from spender_core.errors import FileError
from spender_core.scaffold import write
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
try:
    write("mine", sys.argv[1])
except FileError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of a process")
def test_a_disk_that_is_full_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=False
    )
    assert "cannot write" in done.stdout, done.stderr
    assert left_in(tmp_path) == []


STOPPED = """
import os, signal, sys
from spender_core.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # shells undo it in the background

number = sys.argv[2]
sys.argv = ["spender", "new-plugin", "mine", "--to", sys.argv[1]]
sent = False

def hook(event, arguments):  # the first time that the loader is opened, after other files
    global sent
    if event == "open" and str(arguments[0]).endswith("loader.py") and not sent:
        sent = True
        os.kill(os.getpid(), int(number))

sys.addaudithook(hook)
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_writing_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, tmp_path, str(int(number))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0, done.stdout
    assert left_in(tmp_path) == []
    assert "Next" not in done.stdout


def test_of_two_that_write_one_name_one_does(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "spender_core.cli", "new-plugin", "mine", "--to", tmp_path]
    both = [subprocess.Popen(command, stdout=-1, stderr=-1, text=True) for _ in range(2)]
    told = [process.communicate() for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], told
    assert [path.name for path in tmp_path.iterdir()] == ["spender-mine"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"grid": "cubic"}, "linear or log"),
        ({"grid": "log", "first": 3700.0}, "the log10 of 3700 is 3.5682"),
        ({"first": 370.0}, "370 nm are 3700 Angstrom"),
        ({"first": 3.57}, "given in Angstrom"),
        ({"first": float("nan")}, "nan"),
        ({"first": float("inf")}, "inf"),
        ({"step": -1.0}, "step > 0"),
        ({"step": 0.0}, "step > 0"),
        ({"step": float("nan")}, "step > 0"),
        ({"step": 1e9}, "within 1000 and 100000"),
        ({"step": 1e-300}, "too fine"),
        ({"step": 1e-9}, "too fine"),
        ({"grid": "log", "step": 1e-12}, "too fine"),
        ({"pixels": 0}, "500 to 100000"),
        ({"pixels": -5}, "500 to 100000"),
        ({"pixels": 10**30}, "500 to 100000"),
        ({"author": ""}, "give a name"),
        ({"author": "a\nb"}, "give a name"),
        ({"author": "a\x1b[31m"}, "give a name"),
        ({"author": "a\ud800"}, "give a name"),
        ({"author": "a" * 1000}, "give a name"),
    ],
    ids=str,
)
def test_settings_that_make_no_grid_are_refused(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words) as refused:
        Settings(**wrong)  # type: ignore[arg-type]
    assert str(refused.value).isprintable()
