"""A training step never makes the host wait for the device: nothing depends on a value.

The step runs on `meta`, a device of torch whose tensors have shapes and no values. Whatever asks
for one raises there: bool, int and float of a tensor, `item`, `tolist`, `numpy`, masks as
indices, `nonzero`, `unique`, `masked_select`. Beside that, every operation that torch dispatches
is watched for copies between host and device, which wait for each other on a GPU unless memory is
pinned. Since the code asks only whether tensors are on the host, it takes the branches that it takes
on a GPU, with torch's own functions in place of the fused kernels.

What it does not cover: the launchers of the fused kernels (`ops.fused`), which `meta` cannot run;
waits within torch's own functions on CUDA; moving batches to the device; and what comes around the
objective, such as clipping. The last test covers these launchers, where there is a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from objectives import Far, Near, autoencoder, spectra, weighted
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spender_core.datasets.augment import (
    Augmentation,
    CappedRedshift,
    RedshiftRule,
    UniformRedshift,
    augment_spectra,
)
from spender_core.datasets.reobserving import reobserve_spectra
from spender_core.interfaces import Instrument, Model
from spender_core.line_spread import BandedLSF, GaussianLSF
from spender_core.ops.normalize import normalization
from spender_core.training.config import LossConfig
from spender_core.training.objective import Inputs, Losses, Objective, Weights

ALL = Weights(1.0, 3.0, 1.0)
FORBIDDEN = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "_unique", "item")
INSTRUMENTS = (Near(), Far())
RULE = UniformRedshift(0.0, 0.2)
WAVES = {instrument.name: torch.tensor(instrument.wave) for instrument in INSTRUMENTS}


class Watch(TorchDispatchMode):
    """Notes operations on tensors of a device that would make the host wait for it."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.found, self.count = device, list[str](), 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name, given = str(func), tree_leaves((args, kwargs))
        homes = {tensor.device.type for tensor in given if _is_array(tensor)}
        if self.device in homes and any(word in name for word in FORBIDDEN):
            self.found.append(name)
        made = func(*args, **(kwargs or {}))
        homes |= {tensor.device.type for tensor in tree_leaves(made) if _is_array(tensor)}
        if len(homes) > 1:
            self.found.append(f"{name} between {sorted(homes)}")
        self.count += self.device in homes
        return made


def _is_array(value: Any) -> bool:
    """Tell whether it is a tensor, and no number that goes along with the launch of a kernel."""
    return isinstance(value, Tensor) and (value.ndim > 0 or value.device.type != "cpu")


class Anywhere(torch.Generator):
    """A generator of the host that stands in for one of `meta`, which torch does not have."""

    device = torch.device("meta")


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPENDER_BACKEND", "eager")


def lsf_of(kind: str | None, instrument: Instrument, n: int) -> Any:
    pixels = instrument.grid.size
    if kind == "gaussian":
        return GaussianLSF(0.5 + torch.rand(n, pixels))
    if kind == "banded":
        return BandedLSF(torch.rand(n, 3, pixels), (1, 0, -1))
    return None


def step(
    objective: Objective,
    device: str,
    generator: torch.Generator,
    lsf: str | None = None,
    rule: RedshiftRule | None = RULE,
    filled: bool = False,
) -> tuple[Losses, Callable[[], Losses]]:
    """Run a step once, so that tables are where they are needed; return it, ready to run again."""
    settings = Augmentation(rule, noise=0.05, mask=0.1)
    here = {}
    for instrument in INSTRUMENTS:
        flux, ivar, z = spectra(instrument, 6, next(objective.parameters()).dtype)
        own = lsf_of(lsf, instrument, 6)
        moved = None if own is None else own.to(device)
        here[instrument.name] = (flux.to(device), ivar.to(device), z.to(device), moved)

    def again() -> Losses:
        inputs = {}
        for name, (flux, ivar, z, spread) in here.items():
            given = (flux, ivar, z, WAVES[name], generator, settings)
            if filled:
                seen = reobserve_spectra(*given, check=False)
                aug = (seen.flux, seen.ivar, seen.z, seen.gaps)
            else:
                aug = augment_spectra(*given, check=False)[:2]
            inputs[name] = Inputs(flux, ivar, z, spread, *aug)
        losses: Losses = objective(inputs, ALL, {"near": 2.0})
        losses.total.backward()
        return losses

    return again(), again


def watched(again: Callable[[], Losses], device: str) -> Watch:
    with Watch(device) as watch:
        again()
    assert watch.count > 100  # there was something to see
    return watch


MODELS: Mapping[str, Callable[[], Model]] = {
    "spender": partial(autoencoder, *INSTRUMENTS, dtype=torch.float32),
    "with kernels": partial(autoencoder, *INSTRUMENTS, dtype=torch.float32, lsf_taps={"near": 5}),
    "float64": partial(autoencoder, *INSTRUMENTS),
    "weighted": partial(weighted, *INSTRUMENTS, dtype=torch.float32),
    "flux kept": partial(weighted, *INSTRUMENTS, dtype=torch.float32, conserve_flux=True),
}


@pytest.mark.parametrize("form", ["restframe", "data"])
@pytest.mark.parametrize("name", MODELS)
def test_losses_and_gradients(name: str, form: Any) -> None:
    model = MODELS[name]()
    config = LossConfig(similarity=3, similarity_form=form, consistency=1, normalize=True)
    objective = Objective(model.to("meta"), config)
    _, again = step(objective, "meta", Anywhere())
    assert watched(again, "meta").found == []
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["gaussian", "banded"])
def test_line_spread_functions_of_each_spectrum(kind: str) -> None:
    model = weighted(*INSTRUMENTS, dtype=torch.float32).to("meta")
    model.uses_lsf = True
    _, again = step(Objective(model, LossConfig()), "meta", Anywhere(), kind)
    assert watched(again, "meta").found == []


@pytest.mark.parametrize("rule", [None, UniformRedshift(), CappedRedshift()])
def test_augmentation(rule: RedshiftRule | None) -> None:
    model = weighted(*INSTRUMENTS, dtype=torch.float32).to("meta")
    _, again = step(Objective(model, LossConfig()), "meta", Anywhere(), rule=rule)
    assert watched(again, "meta").found == []


@pytest.mark.parametrize(
    ("normalize", "kind"), [(False, None), (True, "gaussian"), (True, "banded")]
)
def test_filling_of_gaps(normalize: bool, kind: str | None) -> None:
    model = weighted(*INSTRUMENTS, dtype=torch.float32, lsf_taps={"near": 5}).to("meta")
    model.uses_lsf = kind is not None
    objective = Objective(model, LossConfig(normalize=normalize))
    _, again = step(objective, "meta", Anywhere(), kind, filled=True)
    assert watched(again, "meta").found == []


def test_line_spread_functions_move_unseen() -> None:
    for kind in ("gaussian", "banded"):
        lsf = lsf_of(kind, Near(), 3)
        with Watch("meta") as watch:
            lsf.to("meta")
        assert [name.split(".")[1] for name in watch.found] == ["_to_copy"]  # the one that is meant


def test_what_would_wait_is_seen() -> None:
    """The check itself: each of these stops on `meta`, or is noted."""
    flux, ivar, z = (tensor.to("meta") for tensor in spectra(Near(), 4, torch.float32))
    model = autoencoder(dtype=torch.float32).to("meta")
    stops: dict[str, Callable[[], Any]] = {
        "bool": lambda: bool((ivar > 0).any()),
        "item": lambda: flux.sum().item(),
        "mask": lambda: flux[ivar > 0],
        "nonzero": lambda: ivar.nonzero(),
        "host": lambda: flux.cpu(),
        "a model, asked by a user": lambda: model.loss(flux, ivar, z=z),
        "a rule that is checked": lambda: augment_spectra(
            flux, ivar, z, WAVES["near"], Anywhere(), Augmentation()
        ),
        "norms": lambda: normalization(flux, ivar, z, WAVES["near"].to("meta")),
    }
    for name, stop in stops.items():
        with pytest.raises((NotImplementedError, RuntimeError)):
            print(name, stop())
    with Watch("meta") as watch:
        flux * torch.ones(flux.shape).to("meta")
    assert any("between" in name for name in watch.found)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize("form", ["restframe", "data"])
@pytest.mark.parametrize("name", MODELS)
def test_on_a_gpu(name: str, form: Any, filled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the fused kernels, and with torch's own watch over all that waits."""
    monkeypatch.delenv("SPENDER_BACKEND")
    model = MODELS[name]().to("cuda", torch.float32)
    config = LossConfig(similarity=3, similarity_form=form, consistency=1, normalize=True)
    generator = torch.Generator("cuda")
    first, again = step(Objective(model, config), "cuda", generator, filled=filled)
    torch.cuda.set_sync_debug_mode("error")
    try:
        again()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert bool(first.finite)
