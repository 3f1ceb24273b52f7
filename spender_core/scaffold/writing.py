"""Writes a new plugin from the template, all of it or nothing."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from datetime import date
from importlib import metadata, resources
from pathlib import Path

import numpy as np

from spender_core import __version__
from spender_core.errors import FileError, InputError
from spender_core.ops.mask import sky_line_mask
from spender_core.scaffold.names import check_name, class_of, distribution_of, package_of
from spender_core.scaffold.settings import Settings

FILES = {
    ".github/workflows/tests.yml": "tests.yml",
    ".gitignore": "gitignore",
    "LICENSE": "LICENSE",
    "README.md": "README.md",
    "pyproject.toml": "pyproject.toml",
    "@package@/__init__.py": "init.py",
    "@package@/example.py": "example.py",
    "@package@/instrument.py": "instrument.py",
    "@package@/loader.py": "loader.py",
    "@package@/plugin.py": "plugin.py",
    "@package@/py.typed": "py.typed",
    "tests/test_@name@.py": "test_plugin.py",
}
"""What is written, and the file of the template that it is made of, less its ".in"."""

_PLACEHOLDER = re.compile(r"@([a-z_]+)@")

_LINES = {"Lyman alpha": 1215.67, "H beta": 4862.71, "H alpha": 6564.60, "Brackett gamma": 21661.2}
"""Restframe wavelengths, vacuum Angstrom: NIST Atomic Spectra Database; the first from Vanden Berk
et al. 2001, AJ 122, 549."""


def write(name: str, folder: str | os.PathLike[str], settings: Settings | None = None) -> Path:
    """Write a package for an instrument into a new folder, and return that.

    It is complete: once installed it passes its own tests. It appears as a whole, or not at all.

    Args:
        name: The instrument's name; the package becomes spender_NAME.
        folder: Where the new folder is made.
        settings: Wavelengths and author.

    Raises:
        InputError: The name cannot be had (`names.check_name`), or something is there already.
        FileError: The folder cannot be written.
    """
    check_name(name)
    folder = Path(folder)
    target = folder / distribution_of(name)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; make it first")
    if os.path.lexists(target):
        raise InputError(f"{target} is there already; remove it, or choose another folder")
    texts = rendered(name, settings or Settings())
    try:
        with tempfile.TemporaryDirectory(prefix=".spender-", dir=folder) as temporary:
            whole = Path(temporary) / target.name
            for path, text in texts.items():
                (whole / path).parent.mkdir(parents=True, exist_ok=True)
                (whole / path).write_text(text, encoding="utf-8", newline="\n")
            whole.rename(target)
    except OSError as error:
        raise FileError(f"cannot write {target}: {error}") from error
    return target


def rendered(name: str, settings: Settings) -> dict[str, str]:
    """Return the files of a plugin: their paths, and what is in them."""
    values = _values(name, settings)
    template = resources.files("spender_core.scaffold") / "template"
    return {
        _filled(path, values): _filled((template / f"{source}.in").read_text("utf-8"), values)
        for path, source in FILES.items()
    }


def _filled(text: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda found: values[found[1]], text)


def _values(name: str, settings: Settings) -> dict[str, str]:
    """Return what stands for each placeholder."""
    distribution = distribution_of(name)
    author = settings.author or f"the {distribution} authors"
    return {
        "name": name,
        "package": package_of(name),
        "distribution": distribution,
        "class_name": class_of(name),
        "author": author,
        "author_toml": json.dumps(author, ensure_ascii=False),
        "year": str(date.today().year),
        "requires_python": metadata.metadata("spender-core")["Requires-Python"],
        "dependencies": "\n".join(f'    "{text}",' for text in _dependencies()),
        **_grid(settings),
        **_mask(settings),
        **_line(settings),
    }


def _dependencies() -> list[str]:
    """Return what the plugin needs, in the versions that core itself needs."""
    major, minor = __version__.split(".")[:2]
    after = f"{major}.{int(minor) + 1}" if major == "0" else f"{int(major) + 1}"
    needed = metadata.requires("spender-core") or []
    own = [next(text for text in needed if re.match(rf"{one}\W", text)) for one in _IMPORTED]
    return [f"spender-core>={major}.{minor},<{after}", *own]


_IMPORTED = ("astropy", "numpy", "torch")


def _grid(settings: Settings) -> dict[str, str]:
    """Return how the wavelengths are written."""
    first, step, pixels = settings.nodes
    log = settings.grid == "log"
    start, stop = settings.wave(0), settings.wave(pixels - 1)

    def wave(first: str, step: str, pixels: str) -> str:
        nodes = f"{first} + {step} * np.arange({pixels})"
        return f"10 ** ({nodes})" if log else nodes

    return {
        "grid": "Log" if log else "Linear",
        "first": repr(first),
        "step": repr(step),
        "pixels": str(pixels),
        "grid_comment": "Log is (first, step, number) in log10 of the wavelength."
        if log
        else "Linear is (first, step, number).",
        "other_grids": "Linear (first, step, number) and Table (one by one)"
        if log
        else "Log (first, step, number, in log10) and Table (one by one)",
        "units_comment": "log10 of vacuum Angstrom" if log else "vacuum Angstrom",
        "header_wave": wave('header["WAVE0"]', 'header["DWAVE"]', "pixels"),
        "file_wave": wave("FIRST", "STEP", "PIXELS"),
        "description": f"{start:.0f} to {stop:.0f} Angstrom, {pixels} pixels",
        "bad": str(pixels // 5),
    }


def _mask(settings: Settings) -> dict[str, str]:
    """Return a mask of the night sky's lines; none where it would leave less than half."""
    pixels = settings.nodes[2]
    wave = np.array([settings.wave(pixel) for pixel in range(pixels)])
    width = float(f"{min(4 * settings.width(pixels / 2), 5.0):.2g}")
    if sky_line_mask(wave, width=width).mean() > 0.5:
        return {"mask_import": "", "mask": _UNMASKED}
    return {
        "mask_import": "from spender_core.ops.mask import sky_line_mask\n",
        "mask": _MASKED.format(width=width),
    }


_MASKED = """\
    # EDIT: mask. Pixels never to be used, True where masked. This one masks {width} Angstrom, or more
    # for brighter ones, on either side of the lines of the night sky. From space: mask = None.
    mask = sky_line_mask(grid.wave, width={width})"""

_UNMASKED = """\
    # EDIT: mask. Pixels never to be used, True where masked; None: all may be used. From the
    # ground, sky_line_mask(grid.wave) of spender_core.ops.mask masks lines of the night sky, which
    # are most of this grid.
    mask = None"""


def _line(settings: Settings) -> dict[str, str]:
    """Return a line that a galaxy may have at two fifths of the grid: its name, restframe and z."""
    pixels = settings.nodes[2]
    place = settings.wave(0.4 * pixels)
    name = max(_LINES, key=lambda one: (_LINES[one] <= place) * _LINES[one])
    rest = _LINES[name]
    return {
        "line_name": name,
        "line_rest": repr(rest),
        "z": repr(round(place / rest - 1, 4)),
        "line_flux": repr(float(f"{100 * settings.width(0.4 * pixels):.3g}")),
    }
