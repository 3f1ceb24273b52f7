"""Fuzzing guided by coverage, with atheris: what runs new code of spender is kept and varied.

    python tests/fuzz/coverage.py pt --seconds 60

It starts from the committed corpus. New inputs go to `--corpus` (tests/fuzz/finds/KIND by
default, ignored by git), those that fail to its folder `faults`. The exit status is 1 where
there is one.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[0] = str(TESTS)

PACKAGES = ["spender_core", "spender_sdss", "spender_desi"]
NAMES = {
    "fits": "coadd-input.fits",
    "spec": "spec-sdss.fits",
    "redrock": "redrock-input.fits",
    "safetensors": "input.safetensors",
    "pt": "input-flow.pt",
}
"""What the input is called, which tells its target how to read it; "input" for other kinds."""
PART_OF = {"spec": "fits", "redrock": "fits"}
KINDS = ("fits", "spec", "redrock", "safetensors", "pt", "cards", "ids", "names", "recipes")
LONGEST = {"fits": 120_000, "spec": 60_000, "redrock": 20_000, "safetensors": 30_000, "pt": 60_000}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a fuzzer in a process of its own, and tell what it found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--corpus", type=Path, help="folder of inputs to go on from, and for new ones"
    )
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    folder = (given.corpus or TESTS / "fuzz" / "finds" / given.kind).resolve()
    if importlib.util.find_spec("atheris") is None:
        print(
            "atheris is not installed; on Linux, pip install 'spender-core[fuzz]'", file=sys.stderr
        )
        return int(sys.platform == "linux")
    if given.inside:
        fuzz(given.kind, folder, given.seconds, given.seed)
    faults = folder / "faults"
    before = set(faults.glob("*")) if faults.exists() else set()
    (folder / "new").mkdir(parents=True, exist_ok=True)
    faults.mkdir(exist_ok=True)
    _seeds(given.kind, folder / "seeds")
    command = [sys.executable, __file__, given.kind, "--inside", "--corpus", str(folder)]
    command += ["--seconds", str(given.seconds), "--seed", str(given.seed)]
    status = subprocess.run(command, check=False).returncode
    found = sorted(set(faults.glob("*")) - before)
    for path in found:
        print(
            f"FAULT {given.kind}: {path}"
            + (f": {path.read_text()}" if path.suffix == ".txt" else "")
        )
    if status and not found:
        print(f"FAULT {given.kind}: the fuzzer ended with status {status}")
    return int(bool(found) or status != 0)


def _seeds(kind: str, folder: Path) -> None:
    """Unpack the committed inputs of a kind."""
    from fuzz import seeds

    folder.mkdir(parents=True, exist_ok=True)
    for name, files in seeds.corpus(PART_OF.get(kind, kind)).items():
        for file, content in files.items():
            if kind not in NAMES or kind in ("safetensors", "pt") or file[:4] == NAMES[kind][:4]:
                (folder / f"{name}-{file}").write_bytes(content)


def fuzz(kind: str, folder: Path, seconds: int, seed: int) -> None:
    """Fuzz a kind in this process, and end it."""
    import atheris

    os.environ |= {"SPENDER_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with atheris.instrument_imports(include=PACKAGES):
        from fuzz import guard, targets
        from spender_core import registry
    work = Path(tempfile.mkdtemp(prefix="spender-fuzz-"))
    os.environ["SPENDER_HOME"] = str(work / "home")
    warnings.simplefilter("ignore")
    for name in registry.instruments():
        registry.instrument(name)
    seen: set[str] = set()
    case = work / "case"
    case.mkdir()
    partner = _partner(kind, case)

    def one(data: bytes) -> None:
        path = case / NAMES.get(kind, "input")
        path.write_bytes(data)
        try:
            targets.run(PART_OF.get(kind, kind), partner or path)
        except Exception as error:
            ours, deepest = guard.frames(error)
            told = f"{type(error).__name__} at {ours}, {deepest}"
            if told not in seen:
                seen.add(told)
                keep(folder / "faults", len(seen), data, f"{told}: {error!s:.300}")

    options = [f"-max_total_time={seconds}", f"-max_len={LONGEST.get(kind, 4000)}", f"-seed={seed}"]
    options += ["-timeout=10", "-rss_limit_mb=4096", "-verbosity=0", "-print_final_stats=1"]
    options += [f"-artifact_prefix={folder / 'faults'}/", "-ignore_timeouts=0", "-len_control=0"]
    atheris.Setup([sys.argv[0], *options, str(folder / "new"), str(folder / "seeds")], one)
    atheris.Fuzz()


def _partner(kind: str, case: Path) -> Path | None:
    """Write the coadd that a redrock file belongs to."""
    if kind != "redrock":
        return None
    from fuzz import seeds

    path = case / NAMES["redrock"].replace("redrock", "coadd")
    path.write_bytes(seeds.corpus("fits")["seed-desi"]["coadd-seed.fits"])
    return path


def keep(folder: Path, number: int, data: bytes, told: Any) -> None:
    """Keep an input that failed, and beside it how."""
    name = f"{os.getpid()}-{number}"
    (folder / name).write_bytes(data)
    (folder / f"{name}.txt").write_text(f"{told}\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
