"""Autoencoders agree with spender 0.3 on the layouts of its published files.

The fixture `pair` has read the same file, of random weights, on both sides. Deviations
are recorded as properties of the tests, in the report of `--junitxml`.

Tolerances are relative to the largest value of each quantity: 1e-10 (or absolute, for
values below 1) where ours runs in float64, 1e-5 where it runs in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from spender_core import weights
from spender_core.batch import SpectrumBatch

pytest.importorskip("spender", reason="the oracle spender 0.3 is not installed")
pytest.importorskip("spender.data.sdss", reason="spender's SDSS cannot be imported")
pytest.importorskip("spender.data.desi", reason="spender's DESI cannot be imported")
pytest.importorskip("spender.util", reason="spender.util cannot be imported")

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


# ---- what both sides compute -------------------------------------------------------------


def _reference(pair: Any) -> dict[str, Tensor]:
    """Compute every quantity with spender, in float64."""
    if "reference" not in pair.cache:
        pair.cache["reference"] = _compute_reference(pair)
    return pair.cache["reference"]


@torch.no_grad()
def _compute_reference(pair: Any) -> dict[str, Tensor]:
    model, instrument = pair.theirs, pair.theirs.encoder.instrument
    y, w, z = pair.flux.double(), pair.ivar.double(), pair.z
    # at other levels, so that normalize has something to do
    scaled = y * torch.linspace(0.2, 40, len(y), dtype=y.dtype)[:, None]
    s = model.encode(y)
    x = model.decode(s)
    observed, valid = model.decoder.transform(x, instrument=instrument, z=z, return_valid=True)
    at_zero, valid_at_zero = model.decoder.transform(x, instrument=instrument, return_valid=True)
    forward = functools.partial(model._forward, instrument=instrument, z=z)
    plain = forward(y)
    fitted = forward(scaled, normalize=True, weights=w)
    unweighted = forward(scaled, normalize=True, s=s)
    return {
        "encode": s,
        "decode": x,
        "transform": observed,
        "valid": valid,
        "transform at z=None": at_zero,
        "valid at z=None": valid_at_zero,
        "forward": plain[2],
        "forward given s": model(y, instrument=instrument, z=z, s=s.flip(0)),
        "restframe": plain[1],
        "forward normalized": fitted[2],
        "restframe normalized": fitted[1],
        "forward normalized without weights": unweighted[2],
        "restframe normalized without weights": unweighted[1],
        "loss": model.loss(y, w, instrument=instrument, z=z),
        "loss individual": model.loss(y, w, instrument=instrument, z=z, individual=True),
        "loss given s": model.loss(y, w, instrument=instrument, z=z, s=s.flip(0)),
        # spender.loss(normalize=True) fits without the weights; its parts do with them
        "loss normalized": model._loss(scaled, w * fitted[3], fitted[2]),
        "loss normalized individual": model._loss(
            scaled, w * fitted[3], fitted[2], individual=True
        ),
        "scaled": scaled,
    }


def _ours(pair: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    key = f"ours {dtype}"
    if key not in pair.cache:
        pair.cache[key] = _compute_ours(pair, dtype)
    return pair.cache[key]


@torch.no_grad()
def _compute_ours(pair: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    reference, model, z = _reference(pair), pair.ours(dtype), pair.z
    y, w = pair.flux.to(dtype), pair.ivar.to(dtype)
    scaled, s, x = (reference[name].to(dtype) for name in ("scaled", "encode", "decode"))
    instrument = pair.instrument
    observed, valid = model.transform(x, instrument=instrument, z=z)
    at_zero, valid_at_zero = model.transform(x, instrument=instrument)
    plain = model.reconstruct(y, instrument, z)
    fitted = model.reconstruct(scaled, instrument, z, normalize=True, weights=w)
    unweighted = model.reconstruct(scaled, instrument, z, s=s, normalize=True)
    loss: Callable[..., Tensor] = functools.partial(model.loss, instrument=instrument, z=z)
    return {
        "encode": model.encode(y),
        "decode": model.decode(s),
        "transform": observed,
        "valid": valid,
        "transform at z=None": at_zero,
        "valid at z=None": valid_at_zero,
        "forward": model(y, instrument=instrument, z=z),
        "forward given s": model(y, instrument=instrument, z=z, s=s.flip(0)),
        "restframe": plain.restframe,
        "forward normalized": model(scaled, instrument, z, normalize=True, weights=w),
        "restframe normalized": fitted.restframe,
        "forward normalized without weights": unweighted.observed,
        "restframe normalized without weights": unweighted.restframe,
        "loss": loss(y, w),
        "loss individual": loss(y, w, individual=True),
        "loss given s": loss(y, w, s=s.flip(0)),
        "loss normalized": loss(scaled, w, normalize=True),
        "loss normalized individual": loss(scaled, w, normalize=True, individual=True),
    }


QUANTITIES = (
    "encode",
    "decode",
    "transform",
    "transform at z=None",
    "forward",
    "forward given s",
    "restframe",
    "forward normalized",
    "restframe normalized",
    "forward normalized without weights",
    "restframe normalized without weights",
    "loss",
    "loss individual",
    "loss given s",
    "loss normalized",
    "loss normalized individual",
)


# ---- tests -------------------------------------------------------------------------------


def test_file_is_understood(pair: Any) -> None:
    layout, file = pair.layout, pair.file
    assert (file.kind, file.architecture) == ("autoencoder", "spectrum_autoencoder")
    assert (file.latents, file.config["n_latent"]) == (layout.latents, layout.latents)
    assert file.config["activation"] == layout.activation
    assert file.tensors[weights.WAVE_REST].dtype == torch.float64
    assert torch.equal(file.tensors[weights.WAVE_REST], pair.theirs.wave_rest)
    assert file.lsf_taps == (layout.lsf or None)
    assert (file.wave_obs is not None) == layout.wave_obs
    assert file.fits(pair.instrument.grid)


def test_losses_become_plain_lists(pair: Any) -> None:
    expected = pair.losses
    if pair.layout.losses == "arrays":
        expected = pair.losses.tolist()
    assert pair.file.losses == expected
    if pair.layout.losses == "tracker":
        assert pair.file.losses["epoch"] == 3


def test_spectra_are_a_real_test(pair: Any) -> None:
    """Guard the oracle itself: models that do not vary would agree by chance."""
    reference = _reference(pair)
    latents, restframe = reference["encode"], reference["decode"]
    assert float(latents.std(dim=0).min()) > 1e-3 * float(latents.abs().max())
    assert float(restframe.std(dim=1).min()) > 0.01
    assert all(bool(value.isfinite().all()) for value in reference.values())
    reach = reference["valid"].sum(dim=1)
    assert int(reach.min()) > 1000
    assert bool((pair.ivar == 0).any(dim=1).all())


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_float64_equals_spender(
    pair: Any, quantity: str, record_deviation: Callable[[str, float], None]
) -> None:
    ours, reference = _ours(pair, torch.float64)[quantity], _reference(pair)[quantity]
    assert ours.shape == reference.shape
    assert ours.dtype == torch.float64
    deviation = float((ours - reference).abs().max() / max(1.0, float(reference.abs().max())))
    record_deviation("deviation", deviation)
    assert deviation <= 1e-10


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_float32_is_close_to_spender_in_float64(
    pair: Any, quantity: str, record_deviation: Callable[[str, float], None]
) -> None:
    ours, reference = _ours(pair, torch.float32)[quantity], _reference(pair)[quantity]
    assert ours.shape == reference.shape
    assert ours.dtype == torch.float32
    deviation = float((ours.double() - reference).abs().max() / reference.abs().max())
    record_deviation("deviation", deviation)
    assert deviation <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("quantity", ["valid", "valid at z=None"])
def test_reach_is_exactly_that_of_spender(pair: Any, quantity: str, dtype: torch.dtype) -> None:
    ours, reference = _ours(pair, dtype)[quantity], _reference(pair)[quantity]
    assert ours.dtype == torch.bool
    assert torch.equal(ours, reference)


def test_a_batch_gives_the_same_as_its_tensors(pair: Any) -> None:
    model = pair.ours(torch.float64)
    batch = SpectrumBatch(
        pair.flux.double(), pair.ivar.double(), z=pair.z, instrument=pair.instrument
    )
    reference = _reference(pair)
    with torch.no_grad():
        made = model.reconstruct(batch)
        loss = model.loss(batch, individual=True)
    torch.testing.assert_close(made.latents, reference["encode"], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(made.observed, reference["forward"], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(loss, reference["loss individual"], rtol=1e-10, atol=1e-10)
