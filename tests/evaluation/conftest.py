"""A universe of three components, seen by a small instrument, and models that know it exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spender_core.batch import SpectrumBatch
from spender_core.datasets.mock.sources import Sources
from spender_core.grid import Linear, Log
from spender_core.interfaces import Instrument, Model
from spender_core.ops.redshift import redshift

STEP = 5e-5
REST = Log(3.45, STEP, 9000)  # 2818 to 7940 Angstrom


class Survey(Instrument):
    name = "survey"
    grid = Linear(4000.0, 3.0, 900)  # to 6697 Angstrom
    loader: Any = None
    mask = (grid.wave > 5570) & (grid.wave < 5590)


def shapes() -> Tensor:
    """Three smooth positive restframe spectra with a line each, (3, R), float32."""
    wave = torch.tensor(REST.wave)
    x = (wave - 5000) / 2500
    lines = [4102.0, 4861.0, 5007.0]
    smooth = [1 + 0 * x, 1.2 + 0.6 * x, 0.8 - 0.5 * x + 0.6 * x**2]
    bumps = [0.5 * torch.exp(-0.5 * ((wave - line) / 12) ** 2) for line in lines]
    return torch.stack([a + b for a, b in zip(smooth, bumps, strict=True)]).float()


@dataclass(frozen=True)
class Taken:
    """A batch of mocks of this universe."""

    batch: SpectrumBatch
    truth: Tensor
    sources: Sources
    mixture: Tensor


class Exact(Model):
    """Knows the universe: its latents are the true mixture, found by weighted least squares.

    `encode_flux` is told the redshifts and weights of the batch by the test.
    """

    def __init__(self, instruments: Any, wave_rest: Any, bias: float = 0.0) -> None:
        super().__init__(instruments, wave_rest)
        self.weight = nn.Parameter(shapes())
        self.bias = bias
        self.batch: SpectrumBatch | None = None

    def encode(self, spectra: Any, instrument: Any = None, weights: Any = None) -> Tensor:
        if isinstance(spectra, SpectrumBatch):
            self.batch = spectra
        return super().encode(spectra, instrument)

    def reconstruct(self, spectra: Any, *args: Any, **options: Any) -> Any:
        self.batch = spectra
        return super().reconstruct(spectra, *args, **options)

    def encode_flux(self, flux_BL: Tensor, instrument: str) -> Tensor:
        batch = self.batch
        assert batch is not None
        assert len(batch) == len(flux_BL)
        rows = []
        for row in range(len(batch)):
            design, valid = self.transform(self.weight.detach(), "survey", batch.z[row])
            root = (batch.ivar[row] * valid[0]).sqrt().double()
            light = root * flux_BL[row].double()
            found = np.linalg.lstsq((design.double() * root).T.numpy(), light.numpy())[0]
            rows.append(torch.tensor(found))
        s_BS = torch.stack(rows).float()
        return s_BS / s_BS.sum(dim=1, keepdim=True)

    def decode(self, s_BS: Tensor) -> Tensor:
        return s_BS @ self.weight * (1 + self.bias * (torch.tensor(self.rest.wave) > 5000).float())

    @property
    def config(self) -> dict[str, Any]:
        return {}


@pytest.fixture(scope="session")
def survey() -> Instrument:
    return Survey()


@pytest.fixture
def exact(survey: Instrument) -> Exact:
    return Exact([survey], REST).eval()


@pytest.fixture(scope="session")
def take(survey: Instrument) -> Callable[..., Taken]:
    """Return a function that draws mocks of the universe."""

    def draw(n: int, seed: int = 0, snr: float = 10.0, noise: float = 1.0) -> Taken:
        generator = torch.Generator().manual_seed(seed)
        mixture = 0.2 + torch.rand(n, 3, generator=generator)
        z = 0.02 + 0.2 * torch.rand(n, generator=generator).double()
        level = 10 ** torch.rand(n, 1, generator=generator)
        sources = Sources(mixture @ shapes(), z, torch.zeros(n, dtype=torch.int8), grid=REST)
        wave = torch.tensor(survey.wave)
        clean, valid = redshift(sources.restframe, torch.tensor(REST.wave), wave, z)
        clean = clean * level
        sigma = (clean.median(dim=1, keepdim=True).values / snr).expand_as(clean)
        flux = clean + noise * sigma * torch.randn(clean.shape, generator=generator)
        seen = valid & (torch.rand(clean.shape, generator=generator) > 0.05)
        raw = SpectrumBatch(flux, seen / sigma**2, z=z, instrument=survey)
        batch = survey.prepare(raw)
        return Taken(batch, clean / batch.norm[:, None].float(), sources, mixture)

    return draw


@pytest.fixture
def stream(take: Callable[..., Taken]) -> Callable[..., Iterator[Taken]]:
    """Return a function that gives batches without end."""

    def batches(size: int = 50, **options: Any) -> Iterator[Taken]:
        seed = options.pop("seed", 0)
        while True:
            yield take(size, seed=seed, **options)
            seed += 1

    return batches
