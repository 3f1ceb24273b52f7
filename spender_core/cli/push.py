"""`spender push`: publish a model, and say how it is loaded from there."""

from __future__ import annotations

import json
from pathlib import Path

from spender_core import registry
from spender_core.archives.writing import file_sha256


def run(file: str, destination: str, revision: str | None, message: str, private: bool) -> None:
    """Check a model, put it where it is to go, and print the line that loads it."""
    location = registry.push(file, destination, revision, message, private)
    print(f"registry.load({json.dumps(location, ensure_ascii=False)})")
    _, _, sha256 = location.partition("#sha256=")
    print(f"sha256 {sha256 or file_sha256(Path(location))}")
