"""What ends a training before its time: signals, losses that are no numbers, no progress."""

from __future__ import annotations

import math
import signal
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

EXIT_CODES = {signal.SIGTERM: 0, signal.SIGINT: 130}
"""A process that is asked to end has done so; one that is interrupted says so, as shells expect."""

_PASSED_ON = 3.0
"""Seconds in which the same SIGTERM may come twice."""


class Stopped(SystemExit):
    """Training was asked to stop, and did so after a checkpoint.

    Attributes:
        checkpoint: From which it can go on.
        message: How.
    """

    def __init__(self, number: int, checkpoint: Path, message: str) -> None:
        super().__init__(EXIT_CODES[signal.Signals(number)])
        self.checkpoint = checkpoint
        self.message = message


class Interrupts:
    """Notes SIGTERM and SIGINT (Ctrl-C) instead of dying of them; a second one ends at once.

    A SIGTERM soon after another is the same one, which a launcher has passed on.
    Signals reach the main thread only; elsewhere nothing is noted.
    """

    def __init__(self) -> None:
        self.received = 0
        """Number of the signal that came, 0 if none did."""
        self.since = 0.0
        """When it came, on the clock of `time.monotonic`."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in EXIT_CODES:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received != number:
            self.received, self.since = number, time.monotonic()
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        elif time.monotonic() - self.since > _PASSED_ON:
            raise SystemExit(128 + number)


class Progress:
    """The best validation of a phase, and how many came since.

    Args:
        patience: Validations without a better one after which the phase ends; None for never.
    """

    def __init__(self, patience: int | None) -> None:
        self.patience = patience
        self.best: float = math.inf
        self.best_step: int | None = None
        self.waited = 0

    def better(self, loss: float, step: int) -> bool:
        """Note a validation, and tell whether it is the best so far. NaN never is."""
        if loss < self.best:
            self.best, self.best_step, self.waited = loss, step, 0
            return True
        self.waited += 1
        return False

    @property
    def exhausted(self) -> bool:
        """Whether the phase ends."""
        return self.patience is not None and self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds of it, as plain data."""
        best = self.best if math.isfinite(self.best) else None
        return {"best": best, "best_step": self.best_step, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take that back."""
        self.best = math.inf if state["best"] is None else float(state["best"])
        self.best_step, self.waited = state["best_step"], int(state["waited"])
