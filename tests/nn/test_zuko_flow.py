"""Flows of zuko: densities by their laws, and files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from spender_core import registry
from spender_core.errors import InputError, SpenderError
from spender_core.nn import zuko_flow
from spender_core.nn.zuko_flow import KINDS, ZukoFlow
from spender_core.records import ModelCard, ServedInstrument


def made(kind: str, latents: int = 2) -> ZukoFlow:
    """Return a flow of random weights, away from the identity it begins near."""
    torch.manual_seed(3)
    flow = ZukoFlow(latents, kind, transforms=2, hidden=16, bins=5).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(1.4)
    flow.standardise(3 + torch.randn(500, latents, dtype=torch.float64) @ mixing(latents))
    return flow.eval()


def mixing(latents: int) -> Tensor:
    return torch.diag(torch.linspace(0.2, 1.5, latents, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
def test_density_integrates_to_one(kind: str) -> None:
    flow = made(kind)
    # affine transforms may reach far: the box is that of samples, with room
    draws = flow.sample(20_000, torch.Generator().manual_seed(1))
    low, high = draws.min(dim=0).values, draws.max(dim=0).values
    room = 0.5 * (high - low)
    axes = [torch.linspace(float(a), float(b), 1001, dtype=torch.float64)
            for a, b in zip(low - room, high + room, strict=True)]  # fmt: skip
    points = torch.cartesian_prod(*axes)
    with torch.no_grad():
        density = torch.cat([flow.log_prob(part).exp() for part in points.split(100_000)])
    cell = math.prod(float(axis[1] - axis[0]) for axis in axes)
    assert float(density.sum()) * cell == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_density(kind: str) -> None:
    flow = made(kind)
    s = flow.sample(40_000, torch.Generator().manual_seed(5))
    box = torch.quantile(s, 0.3, dim=0), torch.quantile(s, 0.7, dim=0)
    share = float(((s > box[0]) & (s < box[1])).all(dim=1).double().mean())
    axes = [torch.linspace(float(a), float(b), 201, dtype=torch.float64)
            for a, b in zip(*box, strict=True)]  # fmt: skip
    middles = [(axis[1:] + axis[:-1]) / 2 for axis in axes]
    cell = math.prod(float(axis[1] - axis[0]) for axis in axes)
    with torch.no_grad():
        inside = float(flow.log_prob(torch.cartesian_prod(*middles)).exp().sum()) * cell
    assert inside == pytest.approx(share, abs=5 * math.sqrt(share / len(s)))


@pytest.mark.parametrize("kind", KINDS)
def test_change_of_units_of_latents(kind: str) -> None:
    flow, s = made(kind, 3), 3 + torch.randn(20, 3, dtype=torch.float64)
    before = flow.log_prob(s)
    factor, shift = torch.tensor([2.0, 0.1, 7.0]).double(), torch.tensor([1.0, -4, 0]).double()
    flow.mean, flow.scale = flow.mean * factor + shift, flow.scale * factor
    torch.testing.assert_close(flow.log_prob(s * factor + shift), before - factor.log().sum())


@pytest.mark.parametrize("kind", KINDS)
def test_log_determinant_is_that_of_the_jacobian(kind: str) -> None:
    flow, s = made(kind, 3), torch.full((3,), 2.9, dtype=torch.float64)

    def whitened(s_S: Tensor) -> Tensor:
        x_S: Tensor = flow.transform()((s_S[None] - flow.mean) / flow.scale)[0]
        return x_S

    jacobian = torch.autograd.functional.jacobian(whitened, s)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(whitened(s)).sum()
    expected = normal + torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(flow.log_prob(s[None])[0], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_file_brings_back_the_same_flow(kind: str, tmp_path: Path) -> None:
    flow, path = made(kind, 4).float(), tmp_path / "flow.safetensors"
    grid = registry.instrument("sdss").grid.sha256
    card = ModelCard(
        name="some_flow", kind="flow", architecture="zuko_flow", latents=4,
        instruments=(ServedInstrument(name="sdss", grid=grid),),
    )  # fmt: skip
    registry.save(path, flow, card)
    instrument, loaded = registry.load(path)
    assert instrument.name == "sdss"
    assert type(loaded) is ZukoFlow
    assert loaded.config == flow.config
    s = 3 + torch.randn(50, 4)
    assert torch.equal(loaded.log_prob(s), flow.log_prob(s))
    draws = [one.sample(9, torch.Generator().manual_seed(1)) for one in (loaded, flow)]
    assert torch.equal(*draws)


def test_state_has_no_constants() -> None:
    state = made("nsf").state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.float64}
    assert not [name for name in state if "mask" in name or "order" in name]


@pytest.mark.parametrize("arguments", [{"kind": "nice"}, {"transforms": 0}, {"bins": 1}])
def test_nonsense_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(arguments))):
        ZukoFlow(3, **arguments)  # type: ignore[arg-type]


def test_wrong_latents_are_refused() -> None:
    flow = made("maf")
    with pytest.raises(InputError, match=r"\(B, 2\), got \(5, 3\)"):
        flow.log_prob(torch.zeros(5, 3))
    with pytest.raises(InputError, match=r"latents \[1\] do not vary"):
        flow.standardise(torch.stack([torch.arange(4.0), torch.ones(4)], dim=1))
    flow.scale = -flow.scale
    with pytest.raises(InputError, match="scale must be above 0"):
        flow.check_state()


def test_absence_of_zuko_tells_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "zuko", None)
    with pytest.raises(SpenderError, match=r'pip install "spender-core\[flow\]"'):
        zuko_flow.ZukoFlow(2)
