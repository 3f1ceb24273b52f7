"""Files that the first release wrote are read by every later one, and give the same."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from spender_core import registry

FOLDER = Path(__file__).parent / "first"
WRITTEN = {
    "maf": "2b7a071fcec53367448722f10a73f2ba6f75dfbed938bbf62583272a61df1194",
    "spectrum_autoencoder": "2dbb09dabf01ebedef5eab8f56ca2c61b9e29d1e86885dc103e732eaa6996e74",
    "weighted_autoencoder": "6d43734752ca811fece8d48010b7b82cb318d2a9b0f29f212d67e6b17c4aafa3",
}
"""Files and their sha256: whoever writes them anew has to say so here."""


def load_maker() -> Any:
    spec = importlib.util.spec_from_file_location("first_weights", FOLDER / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-5, atol=1e-5)


def told(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_files_are_those_that_were_written(name: str) -> None:
    content = (FOLDER / f"{name}.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() == WRITTEN[name]


@pytest.mark.parametrize(
    ("name", "instrument"),
    [
        ("spectrum_autoencoder", "sdss"),
        ("weighted_autoencoder", "sdss"),
        ("weighted_autoencoder", "boss"),
    ],
)
def test_models_give_what_they_gave(name: str, instrument: str) -> None:
    served, model = registry.load(FOLDER / f"{name}.safetensors", instrument=instrument)
    found, expected = load_maker().answers(served, model), told(name)[instrument]
    assert found["valid"] == expected["valid"]
    for key in ("latents", "restframe", "observed"):
        assert_close(found[key], expected[key])
    card = registry.info(str(FOLDER / f"{name}.safetensors"))
    assert (card.name, card.licence, card.format_version) == (f"first_{name}", "MIT", 1)


def test_flows_give_what_they_gave() -> None:
    _, flow = registry.load(FOLDER / "maf.safetensors")
    s = torch.tensor([[0.0, 0.0], [0.5, -1.0]])
    with torch.no_grad():
        assert_close(flow.log_prob(s).tolist(), told("maf")["log_prob"])
