"""The compiled kernels: made, found, left out, and shared among threads and processes."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from spender_core import native
from spender_core.native import build, memory
from spender_core.ops.resampler import Resampler

ROOT = Path(__file__).parents[1]


def has_compiler() -> bool:
    try:
        return bool(build.compiler())
    except FileNotFoundError:
        return False


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="there is no C compiler here")


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_compiler
def test_a_build_is_whole_and_leaves_nothing_else(tmp_path):
    made = build.build(tmp_path)
    assert list(tmp_path.iterdir()) == [made]
    library = ctypes.CDLL(str(made))
    library.spender_sources.restype = ctypes.c_char_p
    assert library.spender_sources().decode() == build.digest()


def test_a_missing_compiler_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(FileNotFoundError, match="no C compiler found"):
        build.build(tmp_path)
    assert list(tmp_path.iterdir()) == []


@needs_compiler
def test_what_a_compiler_says_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", f"{build.compiler()[0]} -include no-such-header.h")
    with pytest.raises(RuntimeError, match=r"no-such-header\.h"):
        build.build(tmp_path)
    assert list(tmp_path.iterdir()) == []


ASK = "from spender_core import native; print(native.library() is not None)"


@needs_compiler
def test_libraries_can_be_switched_off_and_chosen(tmp_path):
    made = build.build(tmp_path)
    assert python(ASK, SPENDER_NATIVE="0") == "False"
    assert python(ASK, SPENDER_NATIVE=str(tmp_path / "missing.so")) == "False"
    assert python(ASK, SPENDER_NATIVE=str(made)) == "True"


@needs_compiler
def test_a_library_of_other_sources_is_not_used_and_that_is_said(tmp_path):
    source, made = tmp_path / "old.c", tmp_path / "old.so"
    source.write_text('const char *spender_sources(void) { return "0123"; }\n')
    subprocess.run([*build.compiler(), "-shared", "-fPIC", source, "-o", made], check=True)
    warned = (
        "import warnings; warnings.simplefilter('default'); import sys; sys.stderr = sys.stdout\n"
    )
    said = python(warned + ASK, SPENDER_NATIVE=str(made))
    assert said.endswith("False")
    assert "old.so was compiled from other sources and is not used" in said


INTERRUPTED = """
import os, signal, sys, threading, time, numpy as np, torch
from spender_core import native
from spender_core.ops.resampler import Resampler
torch.set_num_threads(2)
native._forked = sys.argv[1] == "pool"
resampler = Resampler(np.linspace(3000, 9000, 6000), np.linspace(3600, 9824, 7781))
x, z = torch.rand(512, 6000), torch.rand(512).double()
expected = resampler(x, z, "compiled")[0].clone()
armed = False
def interrupt(*_):
    global armed
    if armed:
        armed = False
        raise KeyboardInterrupt
signal.signal(signal.SIGINT, interrupt)
ended = threading.Event()
def press():
    while not ended.is_set():
        time.sleep(0.003)
        os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=press).start()
interrupts = wrong = 0
end = time.monotonic() + 6
while time.monotonic() < end:
    try:
        armed = True
        y = resampler(x, z, "compiled")[0]
        armed = False
        wrong += not torch.equal(y, expected)
    except KeyboardInterrupt:
        interrupts += 1
ended.set()
print(interrupts > 20, wrong)
os._exit(0)
"""


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals are those of Unix")
@pytest.mark.parametrize("way", ["team", "pool"])
def test_a_key_that_interrupts_breaks_nothing(way):
    """No thread may write to what has been freed, and nothing unfinished may be returned."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, way], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "0"]


@needs_compiler
@pytest.mark.parametrize("tests", ["tests/ops/test_resampler.py", "tests/ops/test_lsf.py"])
def test_kernels_without_the_instructions_of_this_processor(tests, tmp_path, monkeypatch):
    """What other processors run: the same tests, on a library compiled for any of them."""
    monkeypatch.setenv("CC", f"{build.compiler()[0]} -DSPENDER_PLAIN")
    made = build.build(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "compiled", tests],
        cwd=ROOT,
        env=os.environ | {"SPENDER_NATIVE": str(made)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout


@needs_compiler
@pytest.mark.parametrize("compiler", ["", "no-such-compiler"])
def test_wheels_with_and_without_a_compiler(compiler, tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    folder = tmp_path / "source"
    names = ["spender_core", "pyproject.toml", "hatch_build.py", "README.md", "LICENSE"]
    folder.mkdir()
    subprocess.run(["cp", "-r", *(ROOT / name for name in names), f"{folder}/"], check=True)
    environment = os.environ | ({"CC": compiler} if compiler else {})
    for old in (folder / "spender_core/native").glob("_native.*"):
        old.unlink()
    subprocess.run([*command, "-w", tmp_path, folder], check=True, env=environment, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    libraries = [n for n in zipfile.ZipFile(wheel).namelist() if n.endswith(build.LIBRARY)]
    assert len(libraries) == (0 if compiler else 1)
    assert wheel.name.endswith("-none-any.whl") == bool(compiler)
    assert "-py3-none-" in wheel.name


@pytest.mark.parametrize("rows", [0, 1, 7, 100])
@pytest.mark.parametrize("pixels", [1, 5000, 1 << 20])
def test_every_row_is_worked_on_once(rows, pixels):
    counts, lock = np.zeros(rows, dtype=int), threading.Lock()

    def work(first: int, last: int) -> None:
        with lock:
            counts[first:last] += 1

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        native.share_rows(work, rows, pixels)
    finally:
        torch.set_num_threads(threads)
    assert (counts == 1).all()


def test_errors_of_threads_arrive():
    def work(first: int, last: int) -> None:
        raise ValueError(f"rows {first} to {last}")

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(ValueError, match="rows"):
            native.share_rows(work, 100, 1 << 20)
    finally:
        torch.set_num_threads(threads)


FORK = """
import os, signal, warnings, numpy as np, torch
warnings.simplefilter("ignore")  # newer Pythons warn of forking with threads
from spender_core.ops.resampler import Resampler
torch.set_num_threads(2)
resampler = Resampler(np.linspace(3000, 9000, 6000), np.linspace(3600, 9824, 7781))
x, z = torch.rand(64, 6000), torch.rand(64).double()
before = resampler(x, z)[0]
child = os.fork()
if child == 0:
    signal.alarm(60)  # a pool that waited for threads of the parent would wait for ever
    # compared without torch, whose own threads do not survive a fork
    os._exit(0 if resampler(x, z)[0].numpy().tobytes() == before.numpy().tobytes() else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_has_threads_of_its_own():
    """As the workers of a DataLoader are."""
    assert python(FORK) == "0"


def test_many_threads_resample_at_once():
    resampler = Resampler(np.linspace(3000, 9000, 6000), np.linspace(3600, 9824, 7781))
    torch.manual_seed(0)
    x, z = torch.rand(40, 6000), torch.rand(40).double()
    expected = resampler(x, z)[0].clone()
    wrong = []

    def repeat() -> None:
        wrong.extend(k for k in range(20) if not torch.equal(resampler(x, z)[0], expected))

    threads = [threading.Thread(target=repeat) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_memory_is_used_again_once_nobody_holds_it():
    first = memory.empty((3, 1 << 20), torch.float32)
    place = first.data_ptr()
    view = first[1, 5:]
    del first
    second = memory.empty((3, 1 << 20), torch.float32)
    assert second.data_ptr() != place
    del view
    third = memory.empty((3, 1 << 20), torch.float32)
    assert third.data_ptr() == place
    assert third.shape == (3, 1 << 20)
    assert third.is_contiguous()


def test_idle_memory_is_bounded():
    held = [memory.empty((1 << 26,), torch.uint8) for _ in range(8)]
    del held
    assert sum(len(block) for block in memory._idle) <= memory._KEPT


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bool])
def test_memory_of_any_type_and_size(dtype):
    for shape in [(0, 5), (1, 1), (1000, 3001), (1 << 22,)]:
        tensor = memory.empty(shape, dtype)
        assert tensor.shape == shape
        assert tensor.dtype == dtype
        tensor.fill_(1)
        assert bool((tensor == 1).all())
