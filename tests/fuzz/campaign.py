"""Mutate many files, read each of them in a guarded process, and tell what happened.

    python tests/fuzz/campaign.py --cases 10000 --seed 1
    python tests/fuzz/campaign.py --kinds pt --only 321 --keep failing

A fault is a crash, more than 5 s, more memory than 4 times the files and a constant, code that
runs, or an error that is no `SpenderError`. The exit status is 1 where there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[0] = str(TESTS)

from fuzz import mutations, seeds  # noqa: E402
from fuzz.guard import CONSTANT, SLOW, allowed  # noqa: E402
from fuzz.mutations import KEPT  # noqa: E402

SOUND = 12
"""Sound files that are read first, of each kind."""

Told = dict[str, Any]


class Worker:
    """A process that runs cases; started again after it was lost."""

    def __init__(
        self, kinds: Sequence[str], seed: int, targets: str, slow: float, folder: Path
    ) -> None:
        self._arguments = ["--kinds", *kinds, "--seed", str(seed), "--targets", targets]
        self._arguments += ["--slow", str(slow)]
        self._patience = 2 * slow
        self._folder = folder
        self._errors = folder / "stderr"
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""

    def _start(self) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "fuzz.worker", *self._arguments]
        with self._errors.open("wb") as errors:
            process = subprocess.Popen(
                [*command, "--folder", str(self._folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            )
        self._process, self._rest = process, b""
        if self._answer(process, 120) != "ready":
            raise RuntimeError(f"a worker does not start: {self._errors.read_text()[-3000:]}")
        return process

    def run(self, kind: str, number: int) -> Told:
        """Run a case; a worker that dies or hangs is the outcome of its case."""
        process = self._process or self._start()
        assert process.stdin is not None
        process.stdin.write(f"{kind} {number}\n".encode())
        process.stdin.flush()
        told = self._answer(process, self._patience)
        if told is not None:
            return dict(told)
        hung = process.poll() is None and not self._ended(process)
        self.stop()
        cause = f"hang: no answer in {self._patience:g} s" if hung else _death(process.returncode)
        outcome = "hang" if hung else "crash"
        told = {"kind": kind, "number": number, "outcome": outcome, "size": 1, "growth": 0}
        told["seconds"] = self._patience if hung else 0
        return told | {"faults": [f"{cause}; {self._last_words()}"]}

    @staticmethod
    def _ended(process: subprocess.Popen[bytes]) -> bool:
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _answer(self, process: subprocess.Popen[bytes], seconds: float) -> Any:
        assert process.stdout is not None
        handle = process.stdout.fileno()
        while b"\n" not in self._rest:
            if not select.select([handle], [], [], seconds)[0]:
                return None
            chunk = os.read(handle, 65536)
            if not chunk:
                return None
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    def _last_words(self) -> str:
        lines = self._errors.read_text(errors="replace").splitlines()
        frames = [line.strip() for line in lines if line.startswith("  File ")]
        return " < ".join(frames[:6]) or " ".join(lines[-3:])

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
        self._process = None


def _death(status: int | None) -> str:
    name = signal.Signals(-status).name if status is not None and status < 0 else f"exit {status}"
    return f"the interpreter died: {name}"


@dataclass
class Summary:
    """What became of the cases of a kind."""

    kind: str
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, int] = (0.0, -1)
    worst: tuple[float, int] = (0.0, -1)
    beyond: tuple[float, int] = (0.0, -1)
    sound: list[tuple[int, int]] = field(default_factory=list)
    faults: list[tuple[int, str]] = field(default_factory=list)
    new: Counter[str] = field(default_factory=Counter)

    def add(self, told: Told) -> None:
        """Take in one case."""
        number, size = told["number"], max(1, told["size"])
        if told["growth"] > allowed(size):
            text = f"memory: {told['growth'] / 1e6:.1f} MB for files of {size / 1e6:.3f} MB"
            self.faults.append((number, text))
        self.faults += [(number, text) for text in told["faults"]]
        if number <= KEPT:
            return
        if number < 0:
            self.sound.append((told["growth"], size))
            if told["outcome"] != "accepted" and self.kind in seeds.BINARY:
                self.faults.append((number, f"a sound file is refused: {told['outcome']}"))
            return
        self.outcomes[told["outcome"]] += 1
        self.slowest = max(self.slowest, (told["seconds"], number))
        self.worst = max(self.worst, (told["growth"] / size, number))
        self.beyond = max(self.beyond, ((told["growth"] - CONSTANT) / size, number))
        self.new.update(told.get("new", ()))

    def row(self) -> str:
        """Return a line of the table."""
        cases, accepted = sum(self.outcomes.values()), self.outcomes["accepted"]
        refused = {k: n for k, n in sorted(self.outcomes.items()) if k != "accepted"}
        return (
            f"{self.kind:12s}{cases:7d}{accepted:9d}  {1000 * self.slowest[0]:8.0f}"
            f"  {self.worst[0]:9.1f}  {self.beyond[0]:9.2f}  {len(self.faults):6d}   "
            f"{', '.join(f'{name} {n}' for name, n in refused.items())}"
        )


HEADER = (
    f"{'kind':12s}{'cases':>7s}{'accepted':>9s}  {'slowest':>8s}  {'memory /':>9s}  {'less the':>9s}"
    f"  {'':6s}   \n"
    f"{'':12s}{'':7s}{'':9s}  {'ms':>8s}  {'size':>9s}  {'constant':>9s}  {'faults':>6s}   refused by"
)


def run(
    work: Iterable[tuple[str, int]],
    seed: int = 1,
    workers: int = 2,
    targets: str = "fuzz.targets",
    slow: float = SLOW,
    keep: Path | None = None,
) -> dict[str, Summary]:
    """Run cases, and return what became of them, by kind.

    Args:
        work: Kinds and numbers of the cases.
        seed: Seed of the campaign.
        workers: Processes.
        targets: Module of the targets.
        slow: Seconds that a case may take; after twice as many its worker is ended.
        keep: Where the inputs of faults are kept.
    """
    todo: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
    listed = list(work)
    for entry in listed:
        todo.put(entry)
    kinds = list(dict.fromkeys(kind for kind, _ in listed))
    summaries = {kind: Summary(kind) for kind in kinds}
    lock, failures = threading.Lock(), []

    def labour(folder: Path) -> None:
        worker = Worker(kinds, seed, targets, slow, folder)
        try:
            while True:
                kind, number = todo.get_nowait()
                told = worker.run(kind, number)
                with lock:
                    summary = summaries[kind]
                    before = len(summary.faults)
                    summary.add(told)
                    if len(summary.faults) > before and keep is not None:
                        preserve(keep, mutations.make(kind, seed, number))
        except queue.Empty:
            pass
        except BaseException as error:
            failures.append(error)
        finally:
            worker.stop()

    with tempfile.TemporaryDirectory(prefix="spender-fuzz-") as folder:
        threads = []
        for k in range(min(workers, len(listed))):
            (own := Path(folder) / str(k)).mkdir()
            threads.append(threading.Thread(target=labour, args=(own,)))
            threads[-1].start()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    for summary in summaries.values():
        summary.faults.sort()
    return summaries


def preserve(folder: Path, case: mutations.Case) -> None:
    """Keep the input of a case as the corpus does."""
    seeds.store(folder / case.kind / f"case-{case.number}", case.files)


def report(summaries: dict[str, Summary], seed: int) -> str:
    """Return the table, the faults, and what was imported late."""
    lines = [HEADER, *(summary.row() for summary in summaries.values()), ""]
    lines.append(f"The constant, granted to any file: {CONSTANT / 1e6:g} MB")
    for kind, summary in summaries.items():
        lines.append(f"{kind}: {_sound(summary)}")
        if summary.new:
            lines.append(f"{kind}: imported late: {', '.join(sorted(summary.new))}")
    for kind, summary in summaries.items():
        lines += [f"FAULT {kind} --seed {seed} {text}" for text in grouped(summary.faults)]
    return "\n".join(lines)


def _sound(summary: Summary) -> str:
    """Say what sound files take: small ones in MB, large ones in units of their size."""
    small = [growth for growth, size in summary.sound if size < 100_000]
    large = [growth / size for growth, size in summary.sound if size > 100_000]
    told = f"{len(small)} small sound files took up to {max(small, default=0) / 1e6:.1f} MB"
    more = f", {len(large)} larger ones up to {max(large, default=0):.1f} times their size"
    return told + more * bool(large)


def grouped(faults: Iterable[tuple[int, str]]) -> list[str]:
    """Tell faults of one kind and place once, with how often and where first."""
    groups: dict[str, list[tuple[int, str]]] = {}
    for number, text in faults:
        stage, _, rest = text.partition(": ")
        places = rest.split(" | ")[1:]
        key = " | ".join([rest.partition(":")[0], *places]) if places else stage
        groups.setdefault(key, []).append((number, text))
    ordered = sorted(groups.values(), key=len, reverse=True)
    return [f"--only {some[0][0]}, {len(some)} times: {some[0][1]}" for some in ordered]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a campaign as the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=10_000, help="over all kinds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", choices=seeds.KINDS, default=list(seeds.BINARY))
    parser.add_argument("--only", type=int, help="number of the one case to run, of each kind")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="folder for the inputs of faults")
    given = parser.parse_args(arguments)
    share = -(-given.cases // len(given.kinds))
    numbers = range(share) if given.only is None else [given.only]
    work = [(kind, number) for number in numbers for kind in given.kinds]
    if given.only is None:
        sound = [(kind, -1 - k) for k in range(SOUND) for kind in given.kinds]
        kept = [(kind, KEPT - k) for kind in given.kinds for k in range(len(seeds.corpus(kind)))]
        work = [*sound, *kept, *work[: given.cases]]
    summaries = run(work, given.seed, given.workers, keep=given.keep)
    print(report(summaries, given.seed))
    if given.only is not None:
        for kind in given.kinds:
            case = mutations.make(kind, given.seed, given.only)
            print(f"{case}, {case.size} bytes")
    return int(any(summary.faults for summary in summaries.values()))


if __name__ == "__main__":
    sys.exit(main())
