"""Checkpoints: whole or not at all, and told from damaged ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from spender_core.errors import CheckpointWarning, FileError
from spender_core.training.checkpoints import MANIFEST, Checkpoints, damage

NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]


def write(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(b"0123456789" * 10)
    (folder / "inside").mkdir()
    (folder / "inside" / "state.json").write_text("{}")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_last_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    some = Checkpoints(tmp_path, keep=2)
    for step in range(10, 60, 10):
        path = some.save(step, write)
        assert path == tmp_path / f"step-{step:08d}"
        assert damage(path) is None
        if step == 20:
            some.mark_best(step, 0.5)
    assert some.steps() == [20, 40, 50]
    assert some.newest() == some.path(50)
    assert json.loads((tmp_path / "best.json").read_text()) == {"step": 20, "loss": 0.5}


def test_a_best_one_that_is_gone_is_not_named(tmp_path: Path) -> None:
    some = Checkpoints(tmp_path, keep=1)
    some.save(1, write)
    some.mark_best(1, 0.5)
    some.best = None  # as in the next phase
    some.save(2, write)
    assert names(tmp_path) == ["step-00000002"]


def test_there_is_none_where_there_is_no_folder(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "nowhere").newest() is None


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "harm", "reason"),
    [
        ("weights.bin", truncate, r"weights\.bin has 97 bytes instead of 100"),
        ("weights.bin", alter, r"weights\.bin was altered"),
        ("weights.bin", Path.unlink, r"weights\.bin is missing"),
        ("inside/state.json", alter, r"inside/state\.json was altered|has"),
        (MANIFEST, truncate, r"manifest\.json cannot be read"),
        (MANIFEST, Path.unlink, r"manifest\.json is missing"),
        (MANIFEST, lambda path: path.write_text('{"format": 1, "files": {}}'), "names no files"),
        (
            MANIFEST,
            lambda path: path.write_text('{"format": 1, "files": {"../../etc/passwd": {}}}'),
            "which is not in the checkpoint",
        ),
        (MANIFEST, lambda path: path.write_text("[]"), r"manifest\.json cannot be read"),
        (MANIFEST, lambda path: path.write_text('{"format": 9}'), "format 9, this version reads 1"),
    ],
)
def test_a_damaged_one_is_named_and_the_one_before_is_taken(
    tmp_path: Path, name: str, harm: Callable[[Path], None], reason: str
) -> None:
    some = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        some.save(step, write)
    (some.path(1) / "inside" / "state.json").write_text("{}")
    target = some.path(3) / name
    if name.startswith("inside"):
        target.write_text("[]")
    else:
        harm(target)
    with pytest.warns(CheckpointWarning, match=f"step-00000003 is damaged: .*(?:{reason})") as told:
        assert some.newest() == some.path(2)
    assert len(told) == 1
    assert "going on from the one before, step-00000002" in str(told[0].message)


def test_where_all_are_damaged_each_is_named(tmp_path: Path) -> None:
    some = Checkpoints(tmp_path)
    for step in (1, 2):
        truncate(some.save(step, write) / "weights.bin")
    with pytest.raises(FileError, match=r"00000002 is damaged.*00000001 is damaged.*Begin again"):
        some.newest()


def test_damaged_ones_of_later_steps_go_once_a_new_one_is_written(tmp_path: Path) -> None:
    """They do not count among the last ones, or sound ones would have to go for them."""
    some = Checkpoints(tmp_path, keep=1)
    some.save(1, write)
    some.keep = 3
    truncate(some.save(5, write) / "weights.bin")
    some.keep = 1
    some.save(3, write)
    assert some.steps() == [3]
    some.save(3, write)
    assert damage(some.path(3)) is None
    assert names(tmp_path) == ["step-00000003"]


def test_what_fails_leaves_nothing_and_another_error_stays_what_it_is(tmp_path: Path) -> None:
    some = Checkpoints(tmp_path)
    some.save(1, write)

    def fail(folder: Path) -> None:
        write(folder)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        some.save(2, fail)
    assert names(tmp_path) == ["step-00000001"]


FULL = """
import sys, torch
from pathlib import Path
from safetensors.torch import save_file
from spender_core.errors import FileError
from spender_core.training.checkpoints import Checkpoints, damage

some = Checkpoints(Path(sys.argv[1]) / "checkpoints")
some.save(1, lambda folder: (folder / "a").write_bytes(b"1" * 1000))
large = {"a": torch.zeros(500_000)}
ways = {
    "torch": lambda folder: torch.save(large, folder / "a"),
    "safetensors": lambda folder: save_file(large, folder / "a"),
    "plain": lambda folder: (folder / "a").write_bytes(b"1" * 2_000_000),
}
for name, way in ways.items():
    try:
        some.save(2, way)
    except FileError as error:
        print(name, error)
    assert damage(some.path(1)) is None
    assert [path.name for path in some.folder.iterdir()] == ["step-00000001"]
some.save(2, lambda folder: (folder / "a").write_bytes(b"1" * 1000))
print(some.steps())
"""


def test_on_a_full_disk_the_ones_before_are_whole(tmp_path: Path) -> None:
    """However the file is written: each library says it in its own way."""
    probe = subprocess.run([*NAMESPACE, "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"needs user namespaces: {probe.stderr.strip()}")
    mount = f'mount -t tmpfs -o size=1m tmpfs "$0" && exec "{sys.executable}" -c "$1" "$0"'
    ran = subprocess.run(
        [*NAMESPACE, mount, str(tmp_path), FULL], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    told = ran.stdout.splitlines()
    assert [line.split()[0] for line in told] == ["torch", "safetensors", "plain", "[1,"]
    for line in told[:3]:
        assert "cannot write the checkpoint" in line
        assert "MB free" in line
        assert "The last one, step-00000001, is whole: make room" in line


CLOSED = """
import sys
from pathlib import Path
from spender_core.errors import FileError
from spender_core.training.checkpoints import Checkpoints

try:
    Checkpoints(Path(sys.argv[1])).save(2, lambda folder: None)
except FileError as error:
    print(error)
"""


def test_without_permission_the_ones_before_are_whole(tmp_path: Path) -> None:
    command = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    probe = subprocess.run([*command, "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"needs user namespaces: {probe.stderr.strip()}")
    some = Checkpoints(tmp_path / "closed")
    some.save(1, write)
    some.folder.chmod(0o555)
    try:
        ran = subprocess.run(
            [*command, sys.executable, "-c", CLOSED, str(some.folder)],
            capture_output=True,
            text=True,
        )
    finally:
        some.folder.chmod(0o755)
    assert "Permission denied" in ran.stdout, ran.stdout + ran.stderr
    assert "The last one, step-00000001, is whole" in ran.stdout
    assert damage(some.path(1)) is None


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".step-00000007.part"
    left.mkdir()
    save_file({"a": torch.zeros(3)}, left / "model.safetensors")
    Checkpoints(tmp_path).save(8, write)
    assert names(tmp_path) == ["step-00000008"]
    (tmp_path / ".step-00000005.old").mkdir()
    assert Checkpoints(tmp_path, main=False).newest() == tmp_path / "step-00000008"
    assert (tmp_path / ".step-00000005.old").exists()
    assert Checkpoints(tmp_path).newest() == tmp_path / "step-00000008"
    assert names(tmp_path) == ["step-00000008"]
