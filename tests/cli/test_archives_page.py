"""docs/archives.md is true: its commands on a small copy of SDSS, its tables, its configuration."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table

from spender_core import registry
from spender_core.batch import Flag

pytest.importorskip("spender_sdss", reason="the plugin spender-sdss is not installed")
pytest.importorskip("spender_desi", reason="the plugin spender-desi is not installed")
pytest.importorskip("pyarrow", reason="pyarrow is not installed")

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "archives.md").read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()
]
LITE = "dr17/sdss/spectro/redux/26/spectra/lite/0412/spec-0412-52254-{:04d}.fits"

Write = Callable[..., Path]


def cells(heading: str, column: int = 0) -> set[str]:
    """Return what is in ticks in a column of the first table below a heading."""
    found = re.search(r"(?:^\|.*\n)+", PAGE.split(f"\n## {heading}\n", 1)[1], re.MULTILINE)
    assert found is not None
    rows = [line.strip("|").split("|") for line in found[0].splitlines()[2:]]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row[column])}


@pytest.fixture
def archive(tmp_path: Path, write_spec: Write) -> Path:
    """A copy of SDSS's archive: a catalogue of three galaxies, and the spectra of two."""
    root = tmp_path / "archive"
    for fibre in (1, 2):
        path = root / LITE.format(fibre)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_spec(path, FIBERID=fibre, Z=0.2)
    columns = {
        "PLATE": [412] * 3, "MJD": [52254] * 3, "FIBERID": [1, 2, 3], "RUN2D": ["26"] * 3,
        "PLUG_RA": [150.0, 150.1, 150.2], "PLUG_DEC": [2.0] * 3, "Z": [0.2] * 3,
        "Z_ERR": [1e-5] * 3, "ZWARNING": [0] * 3, "CLASS": ["GALAXY"] * 3, "SPECPRIMARY": [1] * 3,
    }  # fmt: skip
    Table(columns).write(root / "dr17/sdss/spectro/redux/specObj-dr17.fits")
    return root


def test_commands_and_what_they_write(
    spender: Any, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPENDER_ROOT_SDSS", str(archive))
    query, read, two = (shlex.split(command)[1:] for command in COMMANDS)
    assert "3 rows" in spender(*query).out
    ran = spender(*read)
    assert ran.code == 3, "the spectrum of the third is missing"
    assert Table.read("bad.ecsv")["error"].tolist() == ["MissingFileError"]
    assert set(Table.read("bad.ecsv").colnames) == cells("Faults")
    assert spender(*two).code == 0

    (code,) = re.findall(r"```py\n(.*?)```", PAGE, re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    assert (len(namespace["batch"]), len(namespace["two"])) == (2, 2)
    assert (namespace["two"].flux - namespace["batch"].flux).abs().max() < 1e-5
    np.testing.assert_array_equal(namespace["table"]["FIBERID"], [1, 2])
    assert not namespace["batch"].flags.bitwise_and(int(Flag.BAD_VALUES)).any()
    columns = {"Z", "ZERR", "NORM", "FLAGS", "FLUX", "IVAR"}
    assert columns <= set(namespace["table"].colnames)
    assert columns <= set(re.findall(r"`(\w+)`", PAGE))


def test_options_are_those_that_exist(spender: Any) -> None:
    told = {
        word
        for cell in cells("Find")
        for word in re.findall(r"--[a-z]+", cell)
        if cell.startswith("--")
    }
    shown = set(re.findall(r"--[a-z]+", spender("query", "--help").out))
    assert shown - told == {"--output", "--overwrite", "--root", "--release", "--help"}
    assert told <= shown


def test_ids_are_taken() -> None:
    from spender_core.cli.read import _ID, parse_id

    rows = re.findall(r"^\| (.*) \|$", PAGE.split("## Ids")[1].split("\n\n")[1], re.MULTILINE)[1:]
    instrument, count = registry.instrument("sdss"), 0
    for row in rows:
        name, _, text = row.split("|")
        if "`desi`" in name:
            instrument = registry.instrument("desi")
        for one in re.findall(r"`([^`]+)`", text):
            assert _ID.fullmatch(one)
            maker = registry.instrument("boss") if "SDSS-V" in row else instrument
            assert maker.loader is not None
            release = {"boss": "dr19", "sdss": "dr17", "desi": "edr"}[maker.name]
            (source,) = maker.loader.locate([parse_id(one, maker)], None, release)
            assert source.urls
            count += 1
    assert count == 6


def test_the_configuration_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setenv("SPENDER_CONFIG", str(path))
    desi, sdss = registry.instrument("desi").loader, registry.instrument("sdss").loader
    assert desi is not None
    assert sdss is not None
    (mine,) = desi.locate([("main", "dark", 26065)], None, None)
    assert mine.urls[0].startswith("https://example.org/desi/mine/healpix/main/dark/260/26065/")
    (edr,) = desi.locate([("sv3", "dark", 26065)], None, "edr")
    assert edr.urls[0].startswith("/data/desi/public/edr/")
    (spec,) = sdss.locate([(412, 52254, 308)], None, None)
    assert spec.urls[0].startswith("https://mirror.example.org/sas/dr17/")


def test_variables_are_those_that_are_read() -> None:
    product = "".join(
        path.read_text(encoding="utf-8")
        for path in (ROOT / "spender_core" / "archives").glob("*.py")
    )
    read = set(re.findall(r'"(SPENDER_(?!SHARED|MIRRORS|TEST)[A-Z_]+)"', product))
    told = set(re.findall(r"`(SPENDER_[A-Z_]+)`", PAGE))
    assert {name for name in read if not name.endswith("_")} <= told
