"""A process that runs cases, one after the other, and tells what each of them did.

It reads lines `KIND NUMBER` and answers each with a line of JSON. `campaign` starts it, and
ends it where it does not answer.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import importlib
import json
import os
import shutil
import sys
import time
import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from fuzz import guard, mutations, seeds
from fuzz.mutate_pt import CANARY
from fuzz.mutations import Case
from spender_core.errors import SpenderError

CONFINED = ("ids",)


class Runner:
    """Runs cases in a folder of its own, with everything warmed up."""

    def __init__(self, module: str, folder: Path, seed: int, slow: float) -> None:
        self.targets = importlib.import_module(module)
        self.seed = seed
        self.slow = slow
        self.folder = folder
        self.input = folder / "input"
        self.watch = guard.Watch(folder)
        self.memory = guard.Memory()

    def warm_up(self, kinds: list[str]) -> None:
        """Read sound files of each kind twice, so that nothing is imported or kept later."""
        for kind in [kind for kind in kinds * 2 if kind in seeds.KINDS]:
            for name, files in seeds.small(kind):
                self.run(Case(kind, -1, name, (), dict(files)), watched=False)
        gc.collect()
        gc.freeze()
        guard.limit()

    def case(self, kind: str, number: int) -> Case:
        """Return a case of the campaign."""
        if kind not in seeds.KINDS:
            return Case(kind, number, "", (), {"input": b"x" * 1000})
        return mutations.make(kind, self.seed, number)

    def run(self, case: Case, watched: bool = True) -> dict[str, Any]:
        """Run a case, and return what it did."""
        shutil.rmtree(self.input, ignore_errors=True)
        self.input.mkdir()
        path = mutations.write(case, self.input)
        told: dict[str, Any] = {"kind": case.kind, "number": case.number, "seed": case.seed}
        told |= {"steps": case.steps, "size": case.size, "growth": 0, "faults": [], "new": []}
        outcome, begin = "accepted", time.monotonic()
        self.watch.imported.clear()
        stages = self.targets.stages(case.kind, path)
        while True:
            stage = self._next(stages)
            if stage is None:
                break
            ended = self._stage(case, stage, told, watched)
            outcome = ended if stage[1] else outcome
        told["outcome"], told["seconds"] = outcome, time.monotonic() - begin
        told["new"] = sorted(self.watch.imported)
        if told["seconds"] > self.slow:
            told["faults"].append(f"slow: {told['seconds']:.1f} s")
        return told

    @staticmethod
    def _next(stages: Any) -> Any:
        try:
            return next(stages)
        except StopIteration:
            return None

    def _stage(self, case: Case, stage: Any, told: dict[str, Any], watched: bool) -> str:
        name, bounded, action = stage
        if watched:
            self.memory.start()
        ended = "accepted"
        try:
            with self._watching(case, watched), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                action()
        except SpenderError as error:
            ended = type(error).__name__
            if guard.exhausted(error):
                told["faults"].append(
                    f"{name}: asked for more memory than there is: {error!s:.200}"
                )
        except BaseException as error:
            ours, deepest = guard.frames(error)
            ended = type(error).__name__
            text = f"{name}: {type(error).__name__}: {error!s:.200} | {ours} | {deepest}"
            if not isinstance(error, guard.Blocked):
                told["faults"].append(text)
        growth = self.memory.growth() if bounded and watched else 0
        told["growth"] = max(told["growth"], growth)
        told["faults"] += [f"{name}: code ran: {seen}" for seen in self.watch.seen]
        if (canary := self._canary()) is not None:
            told["faults"].append(f"{name}: code ran: it left {canary}")
        return ended

    def _watching(self, case: Case, watched: bool) -> AbstractContextManager[None]:
        return self.watch.watching(case.kind in CONFINED) if watched else nullcontext()

    def _canary(self) -> str | None:
        for folder in (Path.cwd(), self.input, self.folder):
            if (folder / CANARY).exists():
                (folder / CANARY).unlink()
                return str(folder / CANARY)
        return None


def main() -> None:
    """Answer the lines on standard input."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--targets", default="fuzz.targets")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slow", type=float, default=guard.SLOW)
    parser.add_argument("--kinds", nargs="+", required=True)
    given = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints is no answer
    faulthandler.enable()
    os.environ |= {"SPENDER_HOME": str(given.folder / "home"), "SPENDER_OFFLINE": "1"}
    os.chdir(given.folder)
    runner = Runner(given.targets, given.folder, given.seed, given.slow)
    runner.warm_up(given.kinds)
    answers.write('"ready"\n')
    for line in sys.stdin:
        kind, number = line.split()
        case = runner.case(kind, int(number))
        faulthandler.dump_traceback_later(1.8 * given.slow)
        told = runner.run(case)
        if not told["faults"] and told["growth"] > guard.allowed(case.size):
            # again: what a library reads for the first time is not the file's doing
            told["growth"] = min(told["growth"], runner.run(case)["growth"])
        faulthandler.cancel_dump_traceback_later()
        answers.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
