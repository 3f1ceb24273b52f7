"""Gaps of augmented spectra are filled with what the model makes of them, and say nothing then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from objectives import REST, Near, autoencoder, gradients, inputs, spectra, with_gaps
from small_training import SMALL
from torch import Tensor, nn
from trainees import CANDIDATES, Red, chosen, recipe, write_data

from spender_core import losses
from spender_core.datasets.augment import (
    Augmentation,
    CappedRedshift,
    RedshiftRule,
    UniformRedshift,
    augment_spectra,
)
from spender_core.datasets.reobserving import reobserve_spectra
from spender_core.errors import InputError
from spender_core.interfaces import Model
from spender_core.line_spread import GaussianLSF
from spender_core.ops.normalize import amplitude
from spender_core.training import Recipe, Trainer
from spender_core.training.config import LossConfig
from spender_core.training.feeding import Feed, Home
from spender_core.training.objective import Inputs, Objective, Weights
from spender_core.training.validating import Validation

NEAR = Near()
WAVE = torch.tensor(NEAR.wave)
ONLY = Weights(0.0, 0.0, 1.0)


class Stub(Model):
    """Decodes what it is told to, and encodes linearly what it is shown; notes what that was."""

    def __init__(self, seen: Callable[[Tensor, Tensor], Tensor], truth_BR: Tensor) -> None:
        super().__init__([NEAR], REST)
        self.seen, self.truth_BR = seen, truth_BR
        self.shown: list[tuple[Tensor, Tensor]] = []
        self.scale = nn.Parameter(torch.ones((), dtype=truth_BR.dtype))
        self.mix = nn.Parameter(torch.randn(NEAR.grid.size, 3, dtype=truth_BR.dtype))

    def encode_flux(self, flux_BL: Tensor, instrument: str) -> Tensor:
        raise NotImplementedError

    def encode_weighted(self, flux_BL: Tensor, ivar_BL: Tensor, instrument: str) -> Tensor:
        self.shown.append((flux_BL, ivar_BL))
        return self.seen(flux_BL, ivar_BL) @ self.mix

    def decode(self, s_BS: Tensor) -> Tensor:
        return self.truth_BR * self.scale

    @property
    def config(self) -> dict[str, Any]:
        return {}


def flux_of(flux_BL: Tensor, _: Tensor) -> Tensor:
    return flux_BL


def pattern_of(flux_BL: Tensor, ivar_BL: Tensor) -> Tensor:
    """Return only where nothing is, in flux or inverse variance."""
    return ((ivar_BL == 0).to(flux_BL) + 2 * (flux_BL == 0)) / len(WAVE) ** 0.5


def truths(n: int) -> Tensor:
    """Return restframe spectra with lines, shape (n, R)."""
    wave = torch.tensor(REST.wave)
    centre = 3700 + 2800 * torch.rand(n, 12, 1, dtype=torch.float64)
    height = torch.rand(n, 12, 1, dtype=torch.float64) - 0.3
    lines = (height * torch.exp(-0.5 * ((wave - centre) / 80) ** 2)).sum(dim=1)
    return 1.5 + lines + (wave - 5000) / 4000 * torch.randn(n, 1, dtype=torch.float64)


def bend(values_BL: Tensor) -> Tensor:
    """Return the most that linear interpolation errs by between values of each row, (B, 1)."""
    return values_BL.diff(n=2, dim=1).abs().amax(dim=1, keepdim=True) / 8


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("sigma", [None, 1.0, 2.5])
def test_the_truth_fills_gaps_with_the_truth(sigma: float | None, normalize: bool) -> None:
    """A spectrum without noise becomes the one that would be observed at the new redshift."""
    n, truth = 12, truths(12)
    model = Stub(flux_of, truth)
    z = 0.02 + 0.1 * torch.rand(n, dtype=torch.float64)
    model.uses_lsf = sigma is not None
    # in a logarithmic grid a constant width is the same at all redshifts
    widths = torch.full((n, len(WAVE)), sigma or 1.0, dtype=torch.float64)
    lsf = GaussianLSF(widths) if sigma else None
    factor = torch.linspace(0.2, 6, n).double()[:, None]
    factor = factor if normalize else torch.ones(n, 1, dtype=torch.float64)
    flux = factor * model.observe(truth, NEAR, z, lsf)[0]
    ivar = torch.full_like(flux, 1e18).masked_fill(torch.rand_like(flux) < 0.02, 0)
    # at its ends a spectrum lacks the light from beyond
    ivar[:, :20], ivar[:, -20:], ivar[::2, 100:130] = 0, 0, 0
    flux = torch.where(ivar > 0, flux, 50.0)
    rule = Augmentation(UniformRedshift(0.02, 0.13), noise=0)
    seen = reobserve_spectra(flux, ivar, z, WAVE, torch.Generator().manual_seed(1), rule)
    given = Inputs(flux, ivar, z, lsf, seen.flux, seen.ivar, seen.z, seen.gaps)
    Objective(model, LossConfig(normalize=normalize))({"near": given}, ONLY)
    filled, _ = model.shown[-1]
    expected = factor * model.observe(truth, NEAR, seen.z, lsf)[0]
    good = ivar > 0
    # interpolated from the restframe in both, and once more between observed pixels
    near = bend(expected[:, 20:-20]) + 2 * factor * bend(truth)
    assert bool((near < 0.02 * factor).all())
    assert bool(((filled - expected).abs() < near)[good].all())
    assert torch.equal(filled[~good], flux[~good])
    torch.testing.assert_close(filled[seen.gaps], expected[seen.gaps], rtol=1e-8, atol=1e-8)
    assert 0.05 < float(seen.gaps.double().mean()) < 0.5
    assert float((seen.flux - expected)[seen.gaps].abs().mean()) > 0.5


@pytest.mark.parametrize("normalize", [False, True])
def test_what_fills_gaps_is_the_own_reconstruction(normalize: bool) -> None:
    model = autoencoder(lsf_taps={"near": 5})
    given = with_gaps(inputs(NEAR))
    assert given.flux_aug is not None
    assert given.z_aug is not None
    assert given.gaps_aug is not None
    objective = Objective(model, LossConfig(normalize=normalize))
    made = objective({"near": given}, ONLY).consistency * len(given.z)
    with torch.no_grad():
        s = model.encode(given.flux)
        y, _ = model.transform(model.decode(s), "near", given.z_aug)
        if normalize:
            here, valid = model.transform(model.decode(s), "near", given.z)
            y *= amplitude(here, given.flux, given.ivar * valid)[:, None]
        s_aug = model.encode(given.flux_aug + y * given.gaps_aug)
        expected = losses.consistency(s, s_aug)
        unfilled = losses.consistency(s, model.encode(given.flux_aug))
    torch.testing.assert_close(made, expected, rtol=1e-11, atol=0)
    assert not torch.isclose(expected, unfilled, rtol=1e-2)


def test_no_gradient_flows_through_what_fills_gaps() -> None:
    """It would teach the decoder to draw whatever its encoder likes."""
    model = autoencoder(lsf_taps={"near": 5})
    given = with_gaps(inputs(NEAR))
    Objective(model, LossConfig(normalize=True))({"near": given}, ONLY).total.backward()
    largest = {name: float(g.abs().max()) for name, g in gradients(model).items()}
    decoding = {name for name in largest if not name.startswith("encoders")}
    assert all(largest[name] == 0 for name in decoding)
    assert max(largest.values()) > 0
    # the encoder learns as it would from spectra that are given
    stub = Stub(flux_of, truths(9))
    Objective(stub, LossConfig())({"near": given}, ONLY).total.backward()
    before, (filled, _) = gradients(stub)["mix"], stub.shown[-1]
    assert not filled.requires_grad
    stub.zero_grad()
    plain = replace(given, flux_aug=filled, z_aug=None, gaps_aug=None)
    Objective(stub, LossConfig())({"near": plain}, ONLY).total.backward()
    torch.testing.assert_close(gradients(stub)["mix"], before, rtol=1e-12, atol=0)


def test_what_is_no_gap_keeps_its_value() -> None:
    """Even where a model that diverges has none."""
    given = with_gaps(inputs(NEAR))
    assert given.flux_aug is not None
    assert given.gaps_aug is not None
    model = Stub(flux_of, torch.full_like(truths(9), torch.inf))
    Objective(model, LossConfig())({"near": given}, ONLY)
    filled, ivar = model.shown[-1]
    assert torch.equal(filled[~given.gaps_aug], given.flux_aug[~given.gaps_aug])
    assert given.ivar_aug is ivar
    with pytest.raises(InputError, match="gaps of 'near' are filled at a redshift; give z_aug"):
        Objective(model, LossConfig())({"near": replace(given, z_aug=None)}, ONLY)


@pytest.mark.parametrize("rule", [UniformRedshift(0.0, 0.2), CappedRedshift(0.15)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gaps_that_are_filled_tell_nothing(dtype: torch.dtype, rule: RedshiftRule) -> None:
    """An encoder that knows only where nothing is cannot tell spectra from those moved.

    From those that are not filled it can, which is why they are: such an encoder learns latents
    that depend on redshift, and the consistency loss does not mind.
    """
    flux, ivar, z = spectra(NEAR, 30, dtype)
    ivar[:, :30], ivar[::3, 100:140] = 0, 0
    flux[:, :30] = 0  # not observed; what else is masked has a flux
    model = Stub(pattern_of, truths(30).to(dtype))
    settings = Augmentation(rule, noise=0.05)
    seen = reobserve_spectra(flux, ivar, z, WAVE, torch.Generator().manual_seed(2), settings)
    given = Inputs(flux, ivar, z, None, seen.flux, seen.ivar, seen.z, seen.gaps)
    objective = Objective(model, LossConfig())
    same = objective({"near": given}, ONLY).consistency
    (original, aug) = (pattern_of(*shown) for shown in model.shown[-2:])
    assert torch.equal(aug, original)
    assert bool(seen.gaps.any())
    none = objective({"near": replace(given, flux_aug=flux, ivar_aug=ivar, gaps_aug=None)}, ONLY)
    assert torch.equal(same, none.consistency)
    assert float(same) == float(losses.consistency(torch.zeros(1, 3), torch.zeros(1, 3)))
    moved = augment_spectra(flux, ivar, z, WAVE, torch.Generator().manual_seed(2), settings)
    told = objective({"near": Inputs(flux, ivar, z, None, *moved[:2])}, ONLY).consistency
    assert float(told) > 1.05 * float(same)
    assert not torch.equal(pattern_of(*moved[:2]), original)


@pytest.mark.parametrize("given", ["{uniform = [0.0, 0.2]}", "{capped = 0.3}"])
def test_recipes_that_fill(given: str) -> None:
    text = SMALL.replace("= 8", f"= 8\naugmentation = {{fill = true, redshifts = {given}}}")
    made = Recipe.parse(text)
    assert made.data["sdss"].augmentation.fill
    assert Recipe.parse(made.to_toml()) == made
    assert not Recipe.parse(SMALL).data["sdss"].augmentation.fill
    rule = made.data["sdss"].augmentation.settings().redshifts
    assert rule == (UniformRedshift(0.0, 0.2) if "uniform" in given else CappedRedshift(0.3))


@pytest.mark.parametrize("keep", ["", ', redshifts = "keep"'])
def test_a_recipe_that_fills_needs_redshifts(keep: str) -> None:
    text = SMALL.replace("= 8", f"= 8\naugmentation = {{fill = true{keep}}}")
    with pytest.raises(InputError, match=r"data\.sdss\.augmentation.*fill = true.*\{capped = "):
        Recipe.parse(text)


class Told(nn.Module):
    """Notes what an objective is given."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective, self.given = objective, list[Inputs]()

    def forward(self, inputs: dict[str, Inputs], weights: Weights) -> Any:
        self.given += inputs.values()
        return self.objective(inputs, weights)


class Batches:
    """A stream of one batch, as far as a feed asks."""

    def __init__(self) -> None:
        self.batch = chosen(Red())
        self.spectra = len(self.batch)

    def __len__(self) -> int:
        return 1

    def epoch(self, _: int) -> Iterator[Any]:
        return iter([self.batch])

    def state_dict(self) -> dict[str, int]:
        return {"epoch": 0, "batch": 0}

    def __iter__(self) -> Iterator[Any]:
        return iter([self.batch])


@pytest.mark.parametrize("rule", [UniformRedshift(0.0, 0.2), CappedRedshift(0.15)])
def test_training_and_validation_fill_alike(rule: RedshiftRule) -> None:
    red, streams = Red(), {"red": Batches()}
    home = Home(torch.device("cpu"), torch.float64)
    settings = {"red": Augmentation(rule, noise=0.1)}
    weights = Weights(1.0, 0.0, 1.0)
    torch.manual_seed(1)
    told = Told(Objective(autoencoder(red).eval(), LossConfig()))
    figures = []
    for filled in ({}, {"red": False}, {"red": False}):
        feed = Feed(streams, {"red": red}, settings, 5, home, filled)
        checked = Validation(feed, streams, 1000, 5)  # type: ignore[arg-type]
        figures.append(checked.figures(told, weights, {}))
        trained = feed.next(3).inputs["red"]
        for given in (trained, told.given[-1]):
            assert (given.gaps_aug is not None) == (given.z_aug is not None) == bool(filled)
            if given.gaps_aug is not None and given.z_aug is not None:
                assert bool(given.gaps_aug.any(dim=1).all())
                assert torch.equal(given.ivar_aug == 0, given.ivar == 0)  # type: ignore[operator]
                assert not torch.equal(given.z_aug, given.z)
    assert figures[1] == figures[2]
    assert figures[0]["fidelity"] == pytest.approx(figures[1]["fidelity"], rel=1e-12)
    assert figures[0]["consistency"] != pytest.approx(figures[1]["consistency"], rel=1e-3)
    assert torch.equal(told.given[1].flux_aug, told.given[2].flux_aug)  # type: ignore[arg-type]


class Looks:
    """Notes what each validation found."""

    def __init__(self) -> None:
        self.seen = list[dict[str, Any]]()

    def on_validate(self, _: Trainer, figures: Any) -> None:
        self.seen.append(figures["instruments"])


def test_a_training_that_fills(offer: Callable[..., Any], tmp_path: Path) -> None:
    """The recipe says so for one of its instruments; both phases and their validations obey."""
    offer(CANDIDATES)
    paths, found = write_data(tmp_path), {}
    still = [f"phases.{phase}.{what}" for phase in (0, 1) for what in ("lr=1e-12", "steps=2")]
    for fill in ("true", "false"):
        looks, made = Looks(), recipe(*still, f"data.red.augmentation.fill={fill}")
        Trainer(made, tmp_path / fill, paths, callbacks=[looks], quiet=True).run()
        found[fill] = looks.seen
    assert len(found["true"]) == len(found["false"]) >= 2
    for filled, other in zip(found["true"], found["false"], strict=True):
        assert filled["blue"]["consistency"] == pytest.approx(
            other["blue"]["consistency"], rel=1e-6
        )
        assert filled["red"]["fidelity"] == pytest.approx(other["red"]["fidelity"], rel=1e-6)
        assert filled["red"]["consistency"] != pytest.approx(other["red"]["consistency"], rel=1e-5)
