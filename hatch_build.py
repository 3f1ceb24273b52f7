"""Compiles the kernels when a wheel is built, or the project installed in place.

Without a C compiler the package is made without them, and works without them. Where
SPENDER_BUILD=require is set, as it is where wheels for others are built, that is an error.
"""

from __future__ import annotations

import contextlib
import os
import platform
import runpy
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = Path("spender_core/native")


class CompiledKernels(BuildHookInterface[Any]):
    """Puts the shared library beside its sources, and into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and mark the wheel as one for this platform, whatever its Python."""
        folder = Path(self.root) / NATIVE
        # by its path: where wheels are made there is no torch, which the package imports
        build = runpy.run_path(str(folder / "build.py"))
        try:
            made = build["build"](folder)
        except (OSError, RuntimeError) as error:
            if os.environ.get("SPENDER_BUILD") == "require":
                raise
            with contextlib.suppress(OSError):  # of sources that were others
                (folder / build["LIBRARY"]).unlink(missing_ok=True)
            self.app.display_warning(f"built without compiled kernels: {error}")
            return
        build_data["artifacts"].append(f"/{NATIVE.as_posix()}/{made.name}")
        build_data["pure_python"] = False
        # a Python for both processors of a Mac compiles for the one that it runs on
        tag = sysconfig.get_platform().replace("universal2", platform.machine())
        build_data["tag"] = f"py3-none-{tag.replace('-', '_').replace('.', '_')}"
