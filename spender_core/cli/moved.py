"""What a command moved over the network: for progress bars and summaries."""

from __future__ import annotations

import time

from rich.progress import ProgressColumn, Task
from rich.text import Text

from spender_core.archives.remote.blocks import reused
from spender_core.archives.remote.fetching import traffic


class Moved:
    """Bytes, requests and seconds since it was made."""

    def __init__(self) -> None:
        self._before, self._reused, self._began = traffic(), reused(), time.monotonic()

    @property
    def bytes(self) -> int:
        """Bytes that came over the network."""
        return traffic().bytes - self._before.bytes

    def told(self) -> str:
        """Return it in words, for the end of a summary."""
        now, parts = traffic(), []
        requests, repeated = (
            getattr(now, name) - getattr(self._before, name) for name in ("requests", "retries")
        )
        if requests:
            again = f", {repeated} repeated" if repeated else ""
            parts.append(f"{size(self.bytes)} in {requests} request(s){again}")
        if reused() > self._reused:
            parts.append(f"{size(reused() - self._reused)} from the cache")
        return "; ".join([*parts, f"{time.monotonic() - self._began:.1f} s"])


class MovedColumn(ProgressColumn):
    """How much came over the network, in a progress bar."""

    def __init__(self, moved: Moved) -> None:
        super().__init__()
        self._moved = moved

    def render(self, task: Task) -> Text:
        """Return it in units that fit."""
        return Text(size(self._moved.bytes))


def size(count: float) -> str:
    """Return a number of bytes in units that fit."""
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"
