"""Flows agree with nflows, through which spender 0.3 runs its own.

Deviations are recorded as properties of the tests, in the report of `--junitxml`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spender_core import legacy, weights
from spender_core.nn.flow import MaskedAutoregressiveFlow

spender = pytest.importorskip("spender", reason="the oracle spender 0.3 is not installed")
pytest.importorskip("nflows", reason="the oracle nflows is not installed")

pytestmark = pytest.mark.filterwarnings("ignore:Use PointwiseAffineTransform:DeprecationWarning")

PUBLISHED = "spender.desi-edr.galaxyflow-b71f8966.pt"
LOG_PROB_AT_ZERO = -31.7924
"""Of the published flow, as spender 0.3 gives it."""


def _read(path: Path) -> MaskedAutoregressiveFlow:
    file = legacy.read(path, "desi")
    assert (file.kind, file.architecture) == ("flow", "maf")
    flow = MaskedAutoregressiveFlow(file.latents, **file.config)
    weights.restore(flow, file.tensors, path.name)
    return flow.eval()


def _random_flow(latents: int, **widths: int) -> Any:
    """Return a flow as spender makes it before training, with larger weights."""
    torch.manual_seed(latents)
    np.random.seed(latents)  # spender draws the shift from it
    flow = spender.flow.NeuralDensityEstimator(
        dim=latents,
        initial_pos={"bounds": [[-1, 2]] * latents, "std": [0.3] * latents},
        **widths,
    )
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(2)
    return flow.eval()


@pytest.fixture
def published(real_data: Path) -> tuple[MaskedAutoregressiveFlow, Any]:
    path = real_data / "weights" / PUBLISHED
    return _read(path), spender.load_flow_model(str(path), 6).eval()


@pytest.fixture(params=[6, 10, 2, 1, "narrow"], ids=lambda kind: f"random-{kind}")
def random_pair(
    request: pytest.FixtureRequest, tmp_path: Path
) -> tuple[MaskedAutoregressiveFlow, Any]:
    """Write flows as spender does; the last has other widths than the published ones."""
    narrow = request.param == "narrow"
    latents = 5 if narrow else request.param
    widths = {"hidden_features": 17, "num_transforms": 3} if narrow else {}
    theirs = _random_flow(latents, **widths)
    path = tmp_path / "flow.pt"
    torch.save(theirs.state_dict(), path)
    if not narrow:
        loaded = spender.load_flow_model(str(path), latents).eval()
        assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in loaded.state_dict().items())
        theirs = loaded
    return _read(path), theirs


def _latents(size: int, n: int = 1000) -> Tensor:
    """Return latents from the middle of the distribution to far outside of it."""
    generator = torch.Generator().manual_seed(17)
    spread = torch.logspace(-2, 0.5, n, dtype=torch.float64)[:, None]
    return spread * torch.randn(n, size, generator=generator, dtype=torch.float64)


@torch.no_grad()
def _check_log_prob(ours: Any, theirs: Any, record: Callable[[str, float], None]) -> None:
    s = _latents(ours.n_latent).float()
    expected = theirs.double().log_prob(s.double())
    single = ours.float().log_prob(s).double()
    double = ours.double().log_prob(s.double())
    assert double.shape == (1000,)
    assert float(expected.std()) > 1
    relative = float(((single - expected).abs() / expected.abs().clamp(min=1)).max())
    record("log_prob float64", float((double - expected).abs().max()))
    record("log_prob float32, relative", relative)
    record("least log_prob", float(expected.min()))
    torch.testing.assert_close(double, expected, rtol=0, atol=1e-5)
    assert relative <= 1e-5


@torch.no_grad()
def _check_sample(ours: Any, theirs: Any, record: Callable[[str, float], None]) -> None:
    ours, theirs = ours.double(), theirs.double()
    noise = torch.randn(
        200, ours.n_latent, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )
    expected, log_det = theirs._transform.inverse(noise)
    sample = ours.sample(200, torch.Generator().manual_seed(5))
    record("sample", float((sample - expected).abs().max()))
    torch.testing.assert_close(sample, expected, rtol=1e-9, atol=1e-9)
    # p(s) = N(noise) / |ds / dnoise|
    normal = torch.distributions.Normal(0, 1).log_prob(noise).sum(dim=1)
    torch.testing.assert_close(ours.log_prob(sample), normal - log_det, rtol=0, atol=1e-5)


def test_published_log_prob_at_zero(published: tuple[Any, Any]) -> None:
    ours, theirs = published
    with torch.no_grad():
        log_prob = ours.log_prob(torch.zeros(1, 6))
        expected = theirs.log_prob(torch.zeros(1, 6))
    assert log_prob.dtype == torch.float32
    assert log_prob.item() == pytest.approx(LOG_PROB_AT_ZERO, abs=1e-4)
    assert log_prob.item() == pytest.approx(expected.item(), abs=1e-4)


def test_published_log_prob(
    published: tuple[Any, Any], record_deviation: Callable[[str, float], None]
) -> None:
    _check_log_prob(*published, record_deviation)


def test_published_sample(
    published: tuple[Any, Any], record_deviation: Callable[[str, float], None]
) -> None:
    _check_sample(*published, record_deviation)


def test_published_gradient(published: tuple[Any, Any]) -> None:
    ours, theirs = (flow.double() for flow in published)
    s, their_s = (_latents(6, 50).requires_grad_() for _ in range(2))
    (gradient,) = torch.autograd.grad(ours.log_prob(s).sum(), s)
    (expected,) = torch.autograd.grad(theirs.log_prob(their_s).sum(), their_s)
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-8)


def test_random_log_prob(
    random_pair: tuple[Any, Any], record_deviation: Callable[[str, float], None]
) -> None:
    _check_log_prob(*random_pair, record_deviation)


def test_random_sample(
    random_pair: tuple[Any, Any], record_deviation: Callable[[str, float], None]
) -> None:
    _check_sample(*random_pair, record_deviation)
