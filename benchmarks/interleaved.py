"""Time several functions side by side in one process, and say how their times compare.

Every round calls each function once, after a setup that makes new inputs, so that a machine that
slows down slows all of them; each round begins with another one, since what runs after a function
that fills the cache must fetch its inputs from memory. The first round warms up and is left out.
Ratios are formed within a round; their median is reported with the smallest and the largest.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Inputs = tuple[object, ...]


@dataclass(frozen=True)
class Times:
    """Seconds of every function, one for each round."""

    seconds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratios(self, name: str, other: str) -> list[float]:
        pairs = zip(self.seconds[name], self.seconds[other], strict=True)
        return [a / b for a, b in pairs]

    def show(self, ours: str, peer: str | None = None, floor: str | None = None) -> None:
        """Print all times, then how many times faster than the peer, and slower than the floor."""
        for name, values in self.seconds.items():
            print(
                f"  {name:40s} {1e3 * statistics.median(values):10.2f} ms"
                f"  ({1e3 * min(values):.2f}-{1e3 * max(values):.2f})"
            )
        if peer is not None:
            print(f"  {ours}: {spread(self.ratios(peer, ours))} times as fast as {peer}")
        if floor is not None:
            print(f"  {ours}: {spread(self.ratios(ours, floor))} times the time of {floor}")


def spread(ratios: list[float]) -> str:
    """Return the median of ratios with their range."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def interleave(
    functions: Mapping[str, Callable[..., object]],
    setup: Callable[[], Inputs] = tuple,
    rounds: int = 7,
) -> Times:
    """Call every function with the inputs of its round, `rounds` times after one warm-up.

    Args:
        functions: What to time, by name; each is called with the values that `setup` returns.
        setup: Makes inputs, new for every round; not timed.
        rounds: How often.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds + 1):
        inputs = setup()
        names = list(functions)
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            function = functions[name]
            start = time.perf_counter()
            function(*inputs)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return Times(seconds)
