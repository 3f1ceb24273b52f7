"""The command line, as a person runs it: what is installed, and how errors are told."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spender_core import registry

pytest.importorskip("spender_sdss", reason="the plugin spender-sdss is not installed")
pytest.importorskip("spender_desi", reason="the plugin spender-desi is not installed")

Spender = Callable[..., Any]
Check = Callable[..., None]


# What is installed ----------------------------------------------------------------------


def test_list_shows_all_models(spender: Spender) -> None:
    ran = spender("list")
    assert (ran.code, ran.err) == (0, "")
    rows = {
        line.split("│")[1].split(",")[0].strip(): line
        for line in ran.out.splitlines()
        if "│" in line
    }
    assert set(registry.list()) <= set(rows)
    assert "flow" in rows["desi_edr_galaxy_flow"]
    assert "download" in rows["sdss_I"]
    for name in ("sdss_demo", "boss_demo", "desi_demo"):
        assert "embedded" in rows[name]


def test_info_shows_a_card(spender: Spender) -> None:
    ran = spender("info", "sdss_II")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert "name: sdss_II" in lines
    assert "latents: 6" in lines
    assert "architecture: spectrum_autoencoder" in lines
    assert any(line.startswith("weights: hf:pmelchior/spender/") for line in lines)


def test_info_of_a_name_that_is_nearly_right(spender: Spender, assert_one_line: Check) -> None:
    assert_one_line(spender("info", "sdss_demoo"), "no model named 'sdss_demoo'", "'sdss_demo'")


def test_plugins_shows_how_each_one_fares(spender: Spender) -> None:
    ran = spender("plugins")
    assert (ran.code, ran.err) == (0, "")
    for distribution in ("spender-core", "spender-sdss", "spender-desi"):
        (line,) = [line for line in ran.out.splitlines() if distribution in line]
        assert "ok" in line
    assert "failed" not in ran.out


def test_pull_prints_where_the_weights_are(spender: Spender) -> None:
    ran = spender("pull", "sdss_demo", "desi_demo")
    assert ran.code == 0
    paths = [Path(line) for line in ran.out.splitlines()]
    assert [path.name for path in paths] == ["sdss_demo.safetensors", "desi_demo.safetensors"]
    assert all(path.exists() for path in paths)


# Errors, in a process of their own ------------------------------------------------------


def in_a_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "spender_core.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_the_module_runs() -> None:
    done = in_a_process("list")
    assert done.returncode == 0
    assert "desi_edr_galaxy" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    "arguments", [("--debug", "info", "nothing"), ("info", "nothing", "--debug")]
)
def test_errors_are_one_line_and_debug_shows_the_traceback(arguments: tuple[str, ...]) -> None:
    plain, debug = in_a_process("info", "nothing"), in_a_process(*arguments)
    assert plain.returncode == debug.returncode == 1
    assert plain.stdout == ""
    (line,) = plain.stderr.splitlines()
    assert line.startswith("spender: error: no model named 'nothing'.")
    assert "Traceback" in debug.stderr
    assert "UnknownNameError" in debug.stderr


def test_unexpected_errors_are_one_line_too(
    spender: Spender, monkeypatch: pytest.MonkeyPatch, assert_one_line: Check
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(registry, "list", fail)
    assert_one_line(spender("list"), "ZeroDivisionError: a bug (spender --debug ... shows where)")


@pytest.mark.parametrize(
    "arguments", [("encode",), ("nonsense",), ("plot", "a.fits"), ("demo", "-n", "0")]
)
def test_wrong_usage_is_told(spender: Spender, arguments: tuple[str, ...]) -> None:
    ran = spender(*arguments)
    assert ran.code == 2
    assert ran.err.startswith("Usage: ")
    assert "Traceback" not in ran.err
