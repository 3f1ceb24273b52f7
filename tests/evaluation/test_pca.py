"""The baseline: weighted components, fitted as numpy fits them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spender_core import losses
from spender_core.errors import InputError
from spender_core.evaluation.baseline import learn_pca
from spender_core.evaluation.measures import chi2, fits, reconstruct
from spender_core.evaluation.pca import RestframePCA, solve
from spender_core.grid import Log
from spender_core.nn.layers import ConstantLSF

Take = Callable[..., Any]


def learned(take: Take, model: Any, size: int = 3) -> RestframePCA:
    return RestframePCA.learn(take(200, seed=9).sources.restframe, model.rest, size)


def test_components_span_what_the_spectra_span(take: Take, exact: Any) -> None:
    pca = learned(take, exact)
    shapes = exact.weight.detach().double()
    parts, wanted = pca.components.double().numpy(), shapes.numpy()
    found = np.linalg.lstsq(parts.T, wanted.T)[0]
    np.testing.assert_allclose(found.T @ parts, wanted, atol=1e-5)
    assert pca.variance.sum() == pytest.approx(1)
    assert (pca.variance[:-1] > pca.variance[1:]).all()


def test_components_are_those_of_a_singular_value_decomposition() -> None:
    generator = torch.Generator().manual_seed(0)
    rest = Log(3.5, 1e-3, 40)
    weight = torch.rand(40, generator=generator)
    for n in (25, 90):  # fewer spectra than pixels, and more
        spectra = 1 + torch.randn(n, 40, generator=generator, dtype=torch.float64)
        pca = RestframePCA.learn(spectra, rest, 4, weight)
        root = (weight.double() / weight.double().sum()).sqrt()
        unit = spectra * root
        unit = unit / unit.norm(dim=1, keepdim=True)
        power, directions = np.linalg.svd(unit.numpy())[1:]
        same = np.abs((pca.components.double() * root).numpy() @ directions[:4].T)
        np.testing.assert_allclose(same, np.eye(4), atol=1e-5)
        np.testing.assert_allclose(pca.variance, power[:4] ** 2 / (power**2).sum(), rtol=1e-9)


def test_pixels_without_weight_are_predicted_from_the_others(take: Take, exact: Any) -> None:
    """They follow from the rest, since three numbers make the whole spectrum."""
    weight = (torch.tensor(exact.rest.wave) < 6000).float()
    spectra = take(200, seed=9).sources.restframe
    pca = RestframePCA.learn(spectra, exact.rest, 3, weight)
    left = weight.numpy() > 0
    parts, wanted = pca.components.double().numpy(), spectra[:20].double().numpy()
    found = np.linalg.lstsq(parts[:, left].T, wanted[:, left].T)[0]
    np.testing.assert_allclose(found.T @ parts, wanted, rtol=2e-4)


@pytest.mark.parametrize("lsf", [False, True])
def test_fits_are_those_of_numpy(take: Take, exact: Any, lsf: bool) -> None:
    if lsf:
        exact.lsf["survey"] = ConstantLSF(5)
        with torch.no_grad():
            for parameter in exact.lsf["survey"].parameters():
                parameter.copy_(torch.tensor([0.1, 0.2, 0.4, 0.2, 0.1]).reshape(parameter.shape))
    mocks, pca = take(8), learned(take, exact)
    done = pca.fit(exact, mocks.batch, [1, 2, 3])
    assert list(done) == [1, 2, 3]
    for size, fit in done.items():
        for row in range(8):
            z = mocks.batch.z[row]
            with torch.no_grad():
                design, valid = exact.transform(pca.components[:size], "survey", z)
            root = (mocks.batch.ivar[row] * valid[0]).sqrt().double()
            own = np.linalg.lstsq(
                (design.double() * root).T.numpy(), (root * mocks.batch.flux[row]).numpy()
            )[0]
            np.testing.assert_allclose(fit.coefficients[row], own, rtol=1e-6)
            np.testing.assert_allclose(fit.observed[row], own @ design.numpy(), rtol=1e-4)
            np.testing.assert_allclose(
                fit.restframe[row], own @ pca.components[:size].numpy(), rtol=1e-4
            )
            assert torch.equal(fit.valid[row], valid[0])


def test_enough_components_leave_only_noise(take: Take, exact: Any) -> None:
    mocks, pca = take(300, seed=3), learned(take, exact)
    found = fits(exact, mocks.batch, reconstruct(exact, mocks.batch), pca, (1, 3))
    values = chi2(mocks.batch, found)
    pixels = float(mocks.batch.good.sum(dim=1).float().mean())
    assert values["PCA 3"].mean() == pytest.approx(1, abs=4 * np.sqrt(2 / pixels / 300))
    assert np.median(values["PCA 1"]) > 1.05


def test_parameters_count_in_the_degrees_of_freedom(take: Take, exact: Any) -> None:
    mocks, pca = take(5), learned(take, exact)
    found = fits(exact, mocks.batch, reconstruct(exact, mocks.batch), pca, (2,))
    assert {name: fit.parameters for name, fit in found.items()} == {"model": 4, "PCA 2": 2}
    one = found["PCA 2"]
    own = losses.reduced_chi2(
        mocks.batch.flux, mocks.batch.ivar * one.valid, one.observed, parameters=2
    )
    np.testing.assert_allclose(chi2(mocks.batch, found)["PCA 2"], own, rtol=1e-4)


def test_a_spectrum_that_constrains_nothing_has_coefficients_of_zero(
    take: Take, exact: Any
) -> None:
    batch = take(3).batch
    ivar = batch.ivar.clone()
    ivar[1] = 0
    fit = learned(take, exact).fit(exact, batch.replace(ivar=ivar))[3]
    assert fit.coefficients[1].tolist() == [0, 0, 0]
    assert fit.observed.isfinite().all()


def test_components_that_look_alike_share_the_light() -> None:
    gram = torch.tensor([[[2.0, 2.0], [2.0, 2.0]]], dtype=torch.float64)
    right = torch.tensor([[4.0, 4.0]], dtype=torch.float64)
    np.testing.assert_allclose(solve(gram, right), [[1.0, 1.0]], rtol=1e-9)


def test_wrong_input_is_refused(take: Take, exact: Any) -> None:
    spectra: Tensor = take(4).sources.restframe
    with pytest.raises(InputError, match="5 components need at least as many spectra"):
        RestframePCA.learn(spectra, exact.rest, 5)
    with pytest.raises(InputError, match="weights must be >= 0"):
        RestframePCA.learn(spectra, exact.rest, 2, -torch.ones(exact.rest.size))
    pca = RestframePCA.learn(spectra, exact.rest, 2)
    with pytest.raises(InputError, match="sizes must be 1 to 2"):
        pca.fit(exact, take(4).batch, [3])
    other = RestframePCA(torch.ones(1, 30), torch.ones(1), Log(3.5, 1e-3, 30))
    with pytest.raises(InputError, match="another restframe grid"):
        other.fit(exact, take(4).batch)
    with pytest.raises(InputError, match="components must have shape"):
        RestframePCA(torch.ones(1, 29), torch.ones(1), Log(3.5, 1e-3, 30))


def test_learned_from_mocks_it_describes_mocks(exact: Any, survey: Any, stream: Take) -> None:
    pca = learn_pca(exact, survey, stream(seed=100), size=3, n=120)
    mocks = next(stream(seed=0, snr=30.0))
    found = fits(exact, mocks.batch, reconstruct(exact, mocks.batch), pca, (3,), mocks.truth)
    values = chi2(mocks.batch, found)
    assert np.median(values["PCA 3"]) == pytest.approx(np.median(values["truth"]), abs=0.02)
    with pytest.raises(InputError, match="3 components cannot be learned from 2 mocks"):
        learn_pca(exact, survey, stream(size=2), size=3, n=2)
