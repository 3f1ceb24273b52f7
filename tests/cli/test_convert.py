"""The command `spender convert`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spender_core import registry
from spender_core.nn.autoencoder import SpectrumAutoencoder

pytest.importorskip("spender_sdss", reason="the plugin spender-sdss is not installed")
pytest.importorskip("spender_desi", reason="the plugin spender-desi is not installed")

Spender = Callable[..., Any]
Check = Callable[..., None]


def test_convert_makes_the_same_model(
    spender: Spender, small: SpectrumAutoencoder, pt_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "new" / "mine.safetensors"
    ran = spender("convert", pt_file, "-o", output, "--name", "mine")
    assert (ran.code, ran.err) == (0, "")
    assert f"{output}: autoencoder 'mine', 3 latents, sha256 " in ran.out
    instrument, model = registry.load(output)
    assert instrument.name == "desi"
    flux = torch.rand(2, instrument.grid.size)
    assert torch.equal(model.encode(flux), small.encode(flux))
    assert torch.equal(model.decode(small.encode(flux)), small.decode(small.encode(flux)))
    shown = spender("info", output)
    assert "name: mine" in shown.out.splitlines()
    assert "latents: 3" in shown.out.splitlines()


@pytest.mark.parametrize("name", ["mine.pt", "mine", "mine.safetensor"])
def test_convert_writes_safetensors_only(
    spender: Spender, pt_file: Path, tmp_path: Path, name: str, assert_one_line: Check
) -> None:
    ran = spender("convert", pt_file, "-o", tmp_path / "new" / name)
    assert_one_line(ran, "must end in .safetensors")
    assert not (tmp_path / "new").exists()


def test_convert_refuses_what_does_not_fit(
    spender: Spender, pt_file: Path, tmp_path: Path, assert_one_line: Check
) -> None:
    output = tmp_path / "mine.safetensors"
    assert_one_line(spender("convert", tmp_path / "absent.pt", "-o", output), "absent.pt")
    text = tmp_path / "text.pt"
    text.write_text("<html>")
    assert_one_line(spender("convert", text, "-o", output, "--instrument", "desi"), "text.pt")
    ran = spender("convert", pt_file, "-o", output, "--instrument", "sdss")
    assert_one_line(ran, "are not those of 'sdss'")
    ran = spender("convert", pt_file, "-o", output, "--name", "not a name")
    assert ran.code == 1
    assert "not a name" in ran.err
    assert "Traceback" not in ran.err
    assert not output.exists()
