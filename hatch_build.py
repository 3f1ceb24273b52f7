"""Compiles the kernels when a wheel is built, or the project installed in place.

Without a C compiler the package is made without them, and works without them. Where
SPENDER_BUILD=require is set, as it is where wheels for others are built, that is an error.
"""

from __future__ import annotations

import os
import sys
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
        sys.path.insert(0, str(folder))
        try:
            import build  # of the folder: it needs nothing of the package
        finally:
            sys.path.remove(str(folder))
        try:
            made = build.build(folder)
        except (FileNotFoundError, RuntimeError) as error:
            if os.environ.get("SPENDER_BUILD") == "require":
                raise
            self.app.display_warning(f"built without compiled kernels: {error}")
            return
        build_data["artifacts"].append(f"/{NATIVE.as_posix()}/{made.name}")
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
