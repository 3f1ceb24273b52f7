"""SIGTERM, Ctrl-C, and full disks: nothing is lost beyond the last step, and one is told how to go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from trainees import Trainees

from spender_core.training.checkpoints import Checkpoints
from spender_core.training.stopping import Interrupts, Stopped

NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]


def looked(output: Path, timeout: float = 60) -> None:
    """Wait until a training has looked at its losses."""
    log, end = output / "log.jsonl", time.monotonic() + timeout
    while not (log.exists() and '"look"' in log.read_text()):
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_after_a_checkpoint(
    tmp_path: Path,
    folder: Path,
    trainees: Trainees,
    whole: tuple[Path, float],
    number: int,
    code: int,
) -> None:
    recipe, output = folder / "recipe.toml", tmp_path / "output"
    pid = trainees.start(recipe, output, folder)
    looked(output)
    os.kill(pid, number)
    assert os.waitstatus_to_exitcode(trainees.wait()) == code
    step = Checkpoints(output / "checkpoints").steps()[-1]
    assert 3 <= step < 22
    told = Path(f"{output}.err").read_text()
    assert f"stopped after step {step} of 22" in told
    assert f"step-{step:08d}" in told
    assert "--resume" in told
    assert not (output / "small.safetensors").exists()
    trainees.run(recipe, output, folder, "resume")
    assert f"after step {step} of 22" in Path(f"{output}.err").read_text()
    found, expected = (load_file(one / "small.safetensors") for one in (output, whole[0]))
    assert all(found[name].equal(expected[name]) for name in expected)


def test_signals_are_noted_and_a_second_ctrl_c_interrupts() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Interrupts() as noted:
        assert noted.received == 0
        signal.raise_signal(signal.SIGTERM)
        assert noted.received == signal.SIGTERM
        signal.raise_signal(signal.SIGINT)
        assert noted.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_second_sigterm_ends_at_once_unless_it_was_passed_on() -> None:
    with Interrupts() as noted:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert noted.received == signal.SIGTERM
        noted.since -= 10
        with pytest.raises(SystemExit) as told:
            signal.raise_signal(signal.SIGTERM)
    assert told.value.code == 143


def test_stopping_is_an_exit_with_the_code_that_shells_expect() -> None:
    assert Stopped(signal.SIGTERM, Path("here"), "").code == 0
    assert Stopped(signal.SIGINT, Path("here"), "").code == 130


FULL = """
import shutil
import sys
from pathlib import Path
import trainees
from spender_core.errors import FileError
from spender_core.training.checkpoints import Checkpoints, damage
from spender_core.training.loop import train

disk, folder = Path(sys.argv[1]), Path(sys.argv[2])
trainees.install()
data = {name: str(folder / name) for name in ("red", "blue")}

class Fills:
    def on_checkpoint(self, trainer, path):
        with open(disk / "ballast", "wb", buffering=0) as file:
            try:
                while file.write(b"1" * 4096):
                    pass
            except OSError:
                pass

try:
    train(trainees.recipe(), disk / "out", data=data, callbacks=[Fills()], quiet=True)
except FileError as error:
    print(error)
some = Checkpoints(disk / "out" / "checkpoints")
print(some.steps(), [damage(some.path(step)) for step in some.steps()])
(disk / "ballast").unlink()
result = train(trainees.recipe(), disk / "out", data=data, resume=True, quiet=True)
shutil.copy(result.path, folder / "after-full.safetensors")
"""


def test_a_full_disk_stops_it_and_it_goes_on_once_there_is_room(
    tmp_path: Path, folder: Path, whole: tuple[Path, float]
) -> None:
    probe = subprocess.run([*NAMESPACE, "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"needs user namespaces: {probe.stderr.strip()}")
    mount = f'mount -t tmpfs -o size=20m tmpfs "$0" && exec "{sys.executable}" -c "$1" "$0" "$2"'
    tests = str(Path(__file__).parents[1])
    ran = subprocess.run(
        [*NAMESPACE, mount, str(tmp_path), FULL, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": tests, "OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    told, steps = ran.stdout.splitlines()
    assert "cannot write" in told
    assert "No space left" in told or "PytorchStreamWriter" in told
    assert steps == "[4] [None]"
    found = load_file(folder / "after-full.safetensors")
    expected = load_file(whole[0] / "small.safetensors")
    assert all(found[name].equal(expected[name]) for name in expected)
