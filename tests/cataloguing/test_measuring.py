"""Columns that are made on request: the density of latents, and measured redshifts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spender_core import SpectrumBatch, cataloguing, registry
from spender_core.cataloguing.measuring import measure
from spender_core.datasets.mock.stream import MockSurvey
from spender_core.datasets.shards import write_dataset
from spender_core.errors import InputError
from spender_core.nn.flow import MaskedAutoregressiveFlow
from spender_core.records import ModelCard

pytest.importorskip("spender_sdss", reason="the plugin spender-sdss is not installed")
pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Found:
    """What a measurement of redshifts gives."""

    z: Tensor
    zerr: Tensor
    second: Tensor
    delta_chi2: Tensor
    flags: Tensor


class Redshifting:
    """What makes a model take the median flux for a redshift."""

    def redshift(self, batch: SpectrumBatch, z_range: Any = None) -> Found:
        z = batch.flux.median(dim=1).values.double()
        return Found(z, 0.1 * z, z + 1, 2 * z, torch.arange(len(batch)))


@pytest.fixture(scope="module")
def batch() -> SpectrumBatch:
    sdss = registry.instrument("sdss")
    return SpectrumBatch.cat([mock.batch for mock in MockSurvey(sdss, n=70, seed=2)])


def test_measured_redshifts_are_columns(batch: SpectrumBatch) -> None:
    _, model = registry.load("sdss_demo")
    model.__class__ = type("Measuring", (Redshifting, type(model)), {})
    columns = measure(model, batch, redshift=True)
    z = batch.flux.median(dim=1).values.double().numpy()
    np.testing.assert_array_equal(columns["z_model"], z)
    np.testing.assert_array_equal(columns["zerr_model"], 0.1 * z)
    np.testing.assert_array_equal(columns["z_second"], z + 1)
    np.testing.assert_array_equal(columns["delta_chi2"], 2 * z)
    assert columns["z_flags"].tolist() == [*range(64), *range(6)]  # 64 spectra at a time


def test_the_density_is_that_of_the_flow(tmp_path: Path, batch: SpectrumBatch) -> None:
    _, model = registry.load("sdss_demo")
    flow = MaskedAutoregressiveFlow(n_latent=model.card.latents)
    path = tmp_path / "flow.safetensors"
    served = registry.info("sdss_demo").instruments
    card = ModelCard(
        name="my_flow", kind="flow", architecture="maf",
        latents=model.card.latents, instruments=served,
    )  # fmt: skip
    registry.save(path, flow, card)
    sdss = registry.instrument("sdss")
    write_dataset(str(tmp_path / "dataset"), [batch], sdss)
    how = cataloguing.how("sdss", flow=str(path))
    plan = cataloguing.of_dataset(how, str(tmp_path / "dataset"))
    cataloguing.run(plan, tmp_path / "catalogue", workers=0)
    table = cataloguing.read(tmp_path / "catalogue")
    s = torch.tensor(np.stack([table[f"s_{k}"] for k in range(8)], axis=1))
    _, loaded = registry.load(str(path))
    expected = loaded.log_prob(s).detach().numpy()
    np.testing.assert_allclose(table["logP"], expected, rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(InputError, match="is no flow of the latents"):
        cataloguing.how("sdss", flow="sdss_demo")
    if not callable(getattr(registry.load("sdss_demo")[1], "redshift", None)):
        with pytest.raises(InputError, match="measures no redshifts"):
            cataloguing.how("sdss", redshift=True)
