"""What the objective makes of models, spectra and recipes, against losses computed by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from objectives import REST, Far, Near, autoencoder, gradients, inputs, spectra, weighted
from torch import Tensor

from spender_core import losses
from spender_core.errors import InputError, RedshiftError
from spender_core.interfaces import Model
from spender_core.interfaces.redshifts import check_sensible
from spender_core.line_spread import BandedLSF, GaussianLSF
from spender_core.losses import SimilarityConfig
from spender_core.ops.normalize import amplitude
from spender_core.training.config import LossConfig
from spender_core.training.objective import Inputs, Losses, Objective, Weights

ALL = Weights(0.7, 3.0, 1.3, slope=4.0)
NEAR = Near()


def found(model: Model, given: Inputs, weights: Weights = ALL, **config: Any) -> Losses:
    made: Losses = Objective(model, LossConfig(**config))({"near": given}, weights)
    return made


def close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected.detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("form", ["restframe", "data"])
def test_losses_are_those_of_the_model(
    form: Literal["restframe", "data"], reduction: Literal["mean", "sum"]
) -> None:
    model, given = autoencoder(), inputs(NEAR)
    made = found(model, given, similarity_form=form, reduction=reduction)
    assert given.flux_aug is not None
    settings, wave = SimilarityConfig(slope=4.0), torch.tensor(NEAR.wave)
    s, s_aug = model.encode(given.flux), model.encode(given.flux_aug)
    fidelity = model.loss(given.flux, given.ivar, z=given.z)
    consistency = losses.consistency(s, s_aug)
    if form == "restframe":
        similarity = losses.similarity_restframe(s, model.decode(s), model.wave_rest, settings)
    else:
        data = losses.to_restframe(given.flux, given.ivar, wave, model.wave_rest, given.z)
        similarity = losses.similarity(s, *data, settings)
    total = 0.7 * fidelity + 3 * similarity + 1.3 * consistency
    close(made.total.detach(), total / (9 if reduction == "mean" else 1))
    parts = made.fidelity, made.similarity, made.consistency
    for ours, expected in zip(parts, (fidelity, similarity, consistency), strict=True):
        close(ours, expected / 9)
        assert not ours.requires_grad
    assert made.count == 9
    assert bool(made.finite)


def test_weights_follow_the_ramps() -> None:
    config = LossConfig(similarity=((0.5, 0.0), (1.0, 4.0)), slope=((0.0, 1.0), (1.0, 11.0)))
    assert Weights.of(config, 0.0) == Weights(1.0, 0.0, 0.0, 1.0)
    assert Weights.of(config, 0.75) == Weights(1.0, 2.0, 0.0, 8.5)


def test_the_slope_is_that_of_the_step() -> None:
    model, given = autoencoder(), inputs(NEAR)
    steep, flat = (found(model, given, replace(ALL, slope=slope)) for slope in (30.0, 0.5))
    assert float(steep.similarity) > float(flat.similarity) > 0
    close(steep.fidelity, flat.fidelity)


def test_what_has_no_weight_takes_no_part() -> None:
    """Neither needs a restframe in the bound, nor augmented spectra."""
    given = replace(inputs(NEAR), flux_aug=None, ivar_aug=None)
    made = found(autoencoder(), given, Weights(), bound=(9000.0, 9500.0))
    assert float(made.similarity) == float(made.consistency) == 0
    assert float(made.fidelity) > 0


def test_normalisation_on_the_fly() -> None:
    """The scale of a spectrum changes nothing but its weight, and the best one is found."""
    model, given = autoencoder(), inputs(NEAR)
    factor = torch.linspace(0.1, 40, 9, dtype=torch.float64)[:, None]
    made = found(model, given, Weights(), normalize=True)
    with torch.no_grad():
        y, valid = model.transform(model.decode(model.encode(given.flux)), "near", given.z)
        weight = given.ivar * valid
        best = amplitude(y, given.flux, weight)[:, None]
        for off in (0.99, 1.01):
            assert bool(made.fidelity * 9 < losses.fidelity(given.flux, weight, off * best * y))
    close(made.fidelity * 9, losses.fidelity(given.flux, weight, best * y))
    scaled = Inputs(given.flux * factor, given.ivar / factor**2, given.z)
    # its encoder normalises, but for what it adds to variances
    close_to = found(model, scaled, Weights(), normalize=True).fidelity
    torch.testing.assert_close(close_to, made.fidelity, rtol=0.02, atol=0)
    assert float(found(model, scaled, Weights()).fidelity) > 2 * float(made.fidelity)


def test_masked_pixels_do_not_matter_to_the_fidelity() -> None:
    model, given = weighted(), inputs(NEAR)
    wild = torch.where(given.ivar > 0, given.flux, 1e3 * torch.randn_like(given.flux))
    assert not torch.equal(wild, given.flux)
    first, second = (
        found(model, replace(given, flux=flux), Weights(1.0, 3.0)) for flux in (given.flux, wild)
    )
    first.total.backward()
    before = gradients(model)
    model.zero_grad()
    second.total.backward()
    close(second.total.detach(), first.total)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, before[name], rtol=1e-12, atol=0)


def test_encoders_that_use_inverse_variances_get_them() -> None:
    given = inputs(NEAR)
    model = weighted()
    noisier = replace(given, ivar=given.ivar * torch.linspace(0.01, 1, given.ivar.shape[1]))
    close(
        found(model, given).fidelity * 9,
        model.loss(
            given.flux, given.ivar, z=given.z, s=model.encode(given.flux, weights=given.ivar)
        ),
    )
    one, other = (found(model, i, Weights(0, 1.0)) for i in (given, noisier))
    assert not torch.equal(one.similarity, other.similarity)


@pytest.mark.parametrize("kind", ["gaussian", "banded"])
def test_line_spread_function_of_each_spectrum(kind: str) -> None:
    model, given = autoencoder(), inputs(NEAR)
    n, pixels = given.flux.shape
    lsf: Any = GaussianLSF(torch.linspace(0.5, 3, n).double()[:, None].expand(n, pixels))
    if kind == "banded":
        lsf = BandedLSF(torch.rand(n, 3, pixels, dtype=torch.float64), (1, 0, -1))
    given = replace(given, lsf=lsf)
    ignored = found(model, given, Weights())
    close(ignored.fidelity, found(model, replace(given, lsf=None), Weights()).fidelity)
    model.uses_lsf = True
    made = found(model, given, Weights())
    y, valid = model.transform(model.decode(model.encode(given.flux)), "near", given.z, lsf)
    close(made.fidelity * n, losses.fidelity(given.flux, given.ivar * valid, y))
    assert not torch.equal(made.fidelity, ignored.fidelity)
    with pytest.raises(InputError, match="line spread function of each spectrum of 'near'"):
        found(model, replace(given, lsf=None), Weights())


def test_every_parameter_learns() -> None:
    """Encoders, decoder, and the learned kernel, from fidelity alone."""
    model = autoencoder(NEAR, Far(), lsf_taps={"near": 5})
    objective = Objective(model, LossConfig())
    objective({"near": inputs(NEAR), "far": inputs(Far())}, Weights()).total.backward()
    assert gradients(model).keys() == {name for name, _ in model.named_parameters()}
    kernel = gradients(model)["lsf.near.kernel"]
    # it begins as the identity, whose middle is divided by itself
    assert (kernel != 0).tolist() == [True, True, False, True, True]


def test_what_is_frozen_does_not_learn() -> None:
    model = autoencoder()
    model.decoder.requires_grad_(False)
    found(model, inputs(NEAR)).total.backward()
    assert gradients(model).keys() == {
        f"encoders.near.{name}" for name, _ in model.encoder.named_parameters()
    }


def test_several_instruments_with_weights() -> None:
    model = autoencoder(NEAR, Far())
    given = {"near": inputs(NEAR, 9), "far": inputs(Far(), 6)}
    objective = Objective(model, LossConfig())
    both = objective(given, ALL, {"far": 0.25})
    alone = {name: objective({name: one}, ALL) for name, one in given.items()}
    close(both.total.detach(), alone["near"].total + 0.25 * alone["far"].total)
    assert both.count == 15
    for index, name in enumerate(("fidelity", "similarity", "consistency")):
        near, far = (getattr(alone[instrument], name) for instrument in ("near", "far"))
        close(getattr(both, name), (9 * near + 6 * far) / 15)
        close(both.each["near"][index], near)
        close(both.each["far"][index], far)


@pytest.mark.parametrize("column", ["flux", "flux_aug"])
def test_a_spectrum_that_is_not_finite_is_seen(column: str) -> None:
    given = inputs(NEAR)
    getattr(given, column)[3, 20] = torch.nan
    assert not bool(found(weighted(), replace(given, ivar=torch.ones_like(given.ivar))).finite)
    assert not bool(found(autoencoder(), given).finite)


def test_half_precision_keeps_the_fidelity() -> None:
    """Under autocast the spectra are compared in float32: losses agree to what the network rounds."""
    model = autoencoder(dtype=torch.float32)
    given = inputs(NEAR, dtype=torch.float32)
    exact = found(model, given)
    with torch.autocast("cpu", torch.bfloat16):
        made = found(model, given)
    assert made.total.dtype == torch.float32
    torch.testing.assert_close(made.fidelity, exact.fidelity, rtol=0.02, atol=0)


def test_what_is_missing_is_named() -> None:
    model, given = autoencoder(), inputs(NEAR)
    with pytest.raises(InputError, match="augmented spectra, of which 'near' has none"):
        found(model, replace(given, flux_aug=None))
    with pytest.raises(InputError, match="no spectra to compute losses of"):
        Objective(model, LossConfig())({}, ALL)
    with pytest.raises(InputError, match="no restframe pixel is between 9000 and 9500"):
        Objective(model, LossConfig(similarity=1.0, bound=(9000.0, 9500.0)))
    with pytest.raises(InputError, match="`parts` of its batch is"):
        found(model, replace(given, parts=(4, 5)))


def test_redshifts_are_checked_beforehand() -> None:
    """The objective itself takes senseless ones for out of reach; users are told."""
    model, (flux, ivar, z) = autoencoder(), spectra(NEAR)
    z[2], z[4] = torch.nan, -1.5
    with pytest.raises(RedshiftError, match=r"rows \[2, 4\]"):
        check_sensible(z)
    with pytest.raises(RedshiftError, match=r"rows \[2, 4\]"):
        model.loss(flux, ivar, z=z)
    y, valid = model.observe(torch.ones(9, REST.size, dtype=torch.float64), NEAR, z)
    assert not valid[[2, 4]].any()
    assert not y[[2, 4]].any()
    assert bool(valid[[0, 1, 3]].any())
