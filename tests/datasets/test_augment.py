"""Augmentation: its distributions, what it keeps, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from spender_core.batch import Flag, SpectrumBatch
from spender_core.datasets import augment as module
from spender_core.datasets import sparse_noise
from spender_core.datasets.augment import (
    Augmentation,
    CappedRedshift,
    UniformRedshift,
    at_redshift,
    augment,
    augment_spectra,
)
from spender_core.errors import InputError, RedshiftError
from spender_core.grid import Linear, Log
from spender_core.interfaces import Instrument

STILL = Augmentation(redshifts=None, noise=0)


class Made(Instrument):
    name = "made"
    grid = Linear(4000.0, 2.0, 900)
    loader = None  # type: ignore[assignment]


WAVE = torch.tensor(Made.grid.wave)


@pytest.fixture(params=["compiled", "eager"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have noise added by the compiled kernels, or by torch."""
    if request.param == "eager":
        monkeypatch.setattr(sparse_noise.native, "library", lambda: None)
    elif sparse_noise.native.library() is None:
        pytest.skip("no kernels compiled")
    return str(request.param)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(n: int = 40) -> SpectrumBatch:
    flux = 2 + torch.randn(n, len(WAVE))
    ivar = 0.5 + torch.rand(n, len(WAVE))
    ivar[:, 300:330] = 0
    ids = np.array([(i,) for i in range(n)], dtype=[("TARGETID", "i8")])
    z = 0.4 * torch.rand(n, dtype=torch.float64)
    norm = 1 + torch.rand(n)
    return SpectrumBatch(flux, ivar, z=z, zerr=z / 100, norm=norm, ids=ids, instrument="made")


def test_what_is_kept_and_what_changes() -> None:
    given_batch = batch()
    given_batch = given_batch.replace(flags=[int(Flag.NORM_RMS)] * 39 + [int(Flag.Z_WARNING)])
    copy = given_batch.flux.clone(), given_batch.ivar.clone(), given_batch.z.clone()
    new = augment(given_batch, Made(), generator(), Augmentation(mask=0.05))
    assert torch.equal(given_batch.flux, copy[0])
    assert torch.equal(given_batch.ivar, copy[1])
    assert torch.equal(given_batch.z, copy[2])
    assert new.ids is not None
    assert new.ids.tolist() == given_batch.ids.tolist()  # type: ignore[union-attr]
    for name in ("norm", "zerr"):
        assert torch.equal(getattr(new, name), getattr(given_batch, name))
    good = new.good.double().mean(dim=1)
    expected = given_batch.flags + 64 * (good == 0) + 128 * ((good > 0) & (good < 0.1))
    assert torch.equal(new.flags, expected)
    assert len(set(new.flags.tolist())) > 3
    assert new.instrument == "made"
    assert new.flux.dtype == new.ivar.dtype == torch.float32
    assert new.z.dtype == torch.float64
    assert bool(((new.z >= 0) & (new.z <= 0.8)).all())
    assert not torch.equal(new.flux, given_batch.flux)


def test_a_seed_repeats_it_and_another_does_not() -> None:
    new, again, other = (augment(batch(), Made(), generator(seed)) for seed in (1, 1, 2))
    # the batches are drawn anew, so only redshifts and hits can agree
    assert torch.equal(new.z, again.z)
    assert not torch.equal(new.z, other.z)
    same = batch()
    a, b = (augment(same, Made(), generator(3)) for _ in range(2))
    assert torch.equal(a.flux, b.flux)
    assert torch.equal(a.ivar, b.ivar)


def test_the_same_redshift_changes_nothing_inside() -> None:
    given_batch = batch()
    rule = Augmentation(redshifts=lambda z, _: z, noise=0)
    new = augment(given_batch, Made(), generator(), rule)
    inside = slice(1, -1)  # the ends of the grid count as unobserved
    torch.testing.assert_close(new.flux[:, inside], given_batch.flux[:, inside])
    torch.testing.assert_close(new.ivar[:, inside], given_batch.ivar[:, inside])
    assert torch.equal(new.z, given_batch.z)


def test_lines_move_with_the_redshift() -> None:
    """A line of restframe wavelength 3500 is found at 3500 (1 + z), before and after."""
    z, z_new = torch.tensor([0.2, 0.4]).double(), torch.tensor([0.5, 0.25]).double()
    centre = 3500 * (1 + z[:, None])
    flux = torch.exp(-0.5 * ((WAVE - centre) / 20) ** 2)
    moved, _, valid = at_redshift(flux, torch.ones_like(flux), WAVE, z, z_new)
    found = (moved * WAVE).sum(dim=1) / moved.sum(dim=1)
    torch.testing.assert_close(found, 3500 * (1 + z_new), rtol=1e-6, atol=0)
    assert bool((moved.amax(dim=1) > 0.99).all())
    reached = WAVE * ((1 + z) / (1 + z_new))[:, None]
    assert torch.equal(valid, (reached > WAVE[0]) & (reached < WAVE[-1]))


def test_a_shift_on_a_log_grid_is_a_shift_of_pixels() -> None:
    wave = torch.tensor(Log(3.6, 1e-4, 500).wave)
    flux = torch.randn(2, 500, dtype=torch.float64)
    step = torch.tensor([10 ** (7e-4) - 1, 10 ** (-7e-4) - 1], dtype=torch.float64)
    moved, _, _ = at_redshift(flux, flux.square(), wave, torch.zeros(2), step)
    torch.testing.assert_close(moved[0, 10:-10], flux[0, 3:-17], rtol=0, atol=1e-7)
    torch.testing.assert_close(moved[1, 10:-10], flux[1, 17:-3], rtol=0, atol=1e-7)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_pieces_of_a_batch_do_not_matter(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    given_batch = batch()
    rule = Augmentation(redshifts=UniformRedshift(), noise=0, mask=0.1)
    whole = augment(given_batch, Made(), generator(), rule)
    monkeypatch.setattr(module, "ROWS", rows)
    pieces = augment(given_batch, Made(), generator(), rule)
    assert torch.equal(whole.flux, pieces.flux)
    assert torch.equal(whole.ivar, pieces.ivar)


@pytest.mark.usefixtures("kernels")
def test_noise_has_its_amplitude_and_its_variance_is_added() -> None:
    flux = torch.ones(60, len(WAVE))
    flux[:, 5] = torch.linspace(2, 8, 60)  # the maximum
    ivar = torch.full_like(flux, 4.0)
    ivar[:, 100:200] = 0
    z = torch.zeros(60, dtype=torch.float64)
    settings_ = Augmentation(redshifts=None, noise=0.3, amplitude=0.5)
    new_flux, new_ivar, _ = augment_spectra(flux, ivar, z, WAVE, generator(), settings_)
    noise = new_flux - flux
    hit = noise != 0
    n = hit.numel()
    assert hit.double().mean() == pytest.approx(0.3, abs=5 * (0.3 * 0.7 / n) ** 0.5)
    unit = (noise / (0.5 * flux.amax(dim=1, keepdim=True)))[hit].double()
    assert unit.mean() == pytest.approx(0, abs=5 * (1 / (0.3 * n)) ** 0.5)
    assert unit.var() == pytest.approx(1, abs=5 * (2 / (0.3 * n)) ** 0.5)
    assert (unit**4).mean() == pytest.approx(3, abs=0.3)
    expected = torch.where(ivar > 0, 1 / (1 / ivar.clamp(min=1e-9) + noise**2), 0)
    torch.testing.assert_close(new_ivar, expected, rtol=1e-4, atol=1e-7)
    assert not new_ivar[:, 100:200].any()


@pytest.mark.usefixtures("kernels")
def test_nothing_beyond_the_observed_range() -> None:
    """Not even noise: flux and inverse variance are 0 there."""
    given_batch = batch()
    new = augment(given_batch, Made(), generator(), Augmentation(noise=1.0))
    reached = WAVE * ((1 + given_batch.z) / (1 + new.z))[:, None]
    outside = (reached <= WAVE[0]) | (reached >= WAVE[-1])
    assert outside.any()
    assert not new.flux[outside].any()
    assert not new.ivar[outside].any()
    assert bool((new.flux[~outside] != 0).all())


def test_one_stretch_is_masked_in_all_spectra() -> None:
    given_batch = batch()
    ones = given_batch.replace(flux=torch.ones_like(given_batch.flux))
    starts = set()
    for seed in range(50):
        rule = Augmentation(redshifts=None, noise=0, mask=0.1)
        new = augment(ones, Made(), generator(seed), rule)
        (columns,) = (new.flux[0] == 0).nonzero(as_tuple=True)
        assert columns.tolist() == list(range(int(columns[0]), int(columns[0]) + 90))
        assert torch.equal(new.flux == 0, (new.flux[:1] == 0).expand_as(new.flux))
        assert not new.ivar[:, columns].any()
        starts.add(int(columns[0]))
    assert len(starts) > 30


def test_nothing_to_do_is_a_copy() -> None:
    given_batch = batch()
    new = augment(given_batch, Made(), generator(), STILL)
    assert torch.equal(new.flux, given_batch.flux)
    assert torch.equal(new.ivar, given_batch.ivar)
    assert torch.equal(new.z, given_batch.z)
    assert new.flux.data_ptr() != given_batch.flux.data_ptr()


@pytest.mark.usefixtures("kernels")
def test_spectra_that_lie_in_memory_by_pixel() -> None:
    given_batch = batch()
    turned = given_batch.replace(
        flux=given_batch.flux.T.contiguous().T, ivar=given_batch.ivar.T.contiguous().T
    )
    for rule in (Augmentation(), Augmentation(redshifts=None)):
        expected = augment(given_batch, Made(), generator(), rule)
        new = augment(turned, Made(), generator(), rule)
        assert torch.equal(new.flux, expected.flux)
        assert torch.equal(new.ivar, expected.ivar)


def test_everything_masked() -> None:
    new = augment(batch(), Made(), generator(), Augmentation(mask=1.0))
    assert not new.flux.any()
    assert not new.ivar.any()


class Widths:
    """A line spread function of each spectrum that can be carried, and is left out."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __call__(self, y_BL: Tensor) -> Tensor:
        return self.values[:, None] * y_BL

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: object) -> Widths:
        return Widths(self.values[index])  # type: ignore[index]

    def to(self, device: object = None, dtype: object = None) -> Widths:
        return self

    @classmethod
    def cat(cls, parts: list[Widths]) -> Widths:
        return cls(torch.cat([part.values for part in parts]))


def test_line_spread_functions_belong_to_observed_pixels() -> None:
    given_batch = batch().replace(lsf=Widths(torch.ones(40)))
    assert augment(given_batch, Made(), generator()).lsf is None
    assert augment(given_batch, Made(), generator(), STILL).lsf is given_batch.lsf


def test_unknown_redshifts_can_be_kept_but_not_changed() -> None:
    given_batch = batch().replace(z=None)
    new = augment(given_batch, Made(), generator(), Augmentation(redshifts=None))
    assert bool(new.z.isnan().all())
    with pytest.raises(RedshiftError, match="unknown: 0, 1, 2"):
        augment(given_batch, Made(), generator())


def test_rules_of_redshifts() -> None:
    z = torch.linspace(0, 1, 4001, dtype=torch.float64)
    capped = CappedRedshift()(z, generator())
    assert bool(((capped >= 0) & (capped <= 0.5)).all())
    below = z < 0.5
    assert capped[below].mean() == pytest.approx(0.25, abs=0.02)
    assert bool((capped[z > 0.999] > 0.499).all())
    uniform = UniformRedshift(-0.1, 0.3)(z, generator())
    assert uniform.aminmax() == pytest.approx((-0.1, 0.3), abs=1e-3)
    assert uniform.var() == pytest.approx(0.4**2 / 12, rel=0.05)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Augmentation(noise=1.5), "noise is a fraction"),
        (lambda: Augmentation(mask=-0.1), "mask is a fraction"),
        (lambda: Augmentation(amplitude=float("nan")), "amplitude"),
        (lambda: UniformRedshift(0.5, 0.1), "range above -1"),
        (lambda: UniformRedshift(-1.0, 0.1), "range above -1"),
        (lambda: CappedRedshift(0.0), "limit"),
    ],
)
def test_senseless_settings_are_refused(make: object, match: str) -> None:
    with pytest.raises(InputError, match=match):
        make()  # type: ignore[operator]


def test_pixels_of_another_instrument_are_refused() -> None:
    short = SpectrumBatch(torch.ones(2, 10), torch.ones(2, 10), z=[0.1, 0.2])
    with pytest.raises(InputError, match=r"10 pixels.*'made' has 900"):
        augment(short, Made(), generator())


def test_a_batch_of_another_instrument_is_refused() -> None:
    other = batch().replace(instrument="other")
    with pytest.raises(InputError, match="spectra of 'other', not of 'made'"):
        augment(other, Made(), generator())
    assert augment(batch().replace(instrument=None), Made(), generator()).instrument is None


def test_flags_of_pixels_are_set_anew() -> None:
    old = batch(4)
    ivar = torch.zeros_like(old.ivar)
    ivar[1, :89], ivar[2, :91] = 1, 1
    ivar[3] = 1
    old = old.replace(ivar=ivar, flags=[int(Flag.FIBRE | Flag.EMPTY | Flag.SPARSE)] * 4)
    assert augment(old, Made(), generator(), STILL).flags.tolist() == [16 + 64, 16 + 128, 16, 16]
    masked = augment(old, Made(), generator(), Augmentation(redshifts=None, mask=1.0))
    assert masked.flags.tolist() == [16 + 64] * 4


@pytest.mark.parametrize("value", [-1.0, -5.0, float("nan"), float("inf")])
def test_a_rule_that_gives_no_redshifts_is_named(value: float) -> None:
    def nonsense(z_B: Tensor, _: torch.Generator) -> Tensor:
        return z_B.masked_fill(z_B > 0.2, value)

    with pytest.raises(InputError, match=r"nonsense.* finite and above -1, got \["):
        augment(batch(), Made(), generator(), Augmentation(redshifts=nonsense))
    short = Augmentation(redshifts=lambda z, _: z[:1])
    with pytest.raises(InputError, match=r"shape \(40,\) on cpu, got \(1,\)"):
        augment(batch(), Made(), generator(), short)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("rule", [UniformRedshift(), None], ids=["moved", "kept"])
def test_tensors_that_do_not_fit_are_refused(rule: object) -> None:
    flux, z = torch.ones(4, 900), torch.zeros(4).double()
    wrong = [
        (flux, flux[:, :100], z),
        (flux, flux[:3], z),
        (flux, flux.double(), z),
        (flux.double(), flux, z),
        (flux.half(), flux.half(), z),
        (flux.int(), flux.int(), z),
        (flux[0], flux[0], z[:1]),
        (flux, flux, z[:1]),
        (flux, flux, z[:, None]),
    ]
    choice = Augmentation(redshifts=rule)  # type: ignore[arg-type]
    for parts in wrong:
        with pytest.raises(InputError, match=r"shape \(B, L\)|as many redshifts"):
            augment_spectra(*parts, WAVE, generator(), choice)
    with pytest.raises(InputError, match="as many redshifts and wavelengths"):
        augment_spectra(flux, flux, z, WAVE[:-1], generator(), choice)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_default_type_of_torch_does_not_matter(kernels: str, dtype: torch.dtype) -> None:
    flux, ivar = batch().flux.to(dtype), batch().ivar.to(dtype)
    z, settings_ = torch.full((40,), 0.1).double(), Augmentation()
    expected = augment_spectra(flux, ivar, z, WAVE, generator(), settings_)
    torch.set_default_dtype(torch.float64)
    try:
        found = augment_spectra(flux, ivar, z, WAVE, generator(), settings_)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found[0].dtype == found[1].dtype == dtype
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b), kernels


def test_masked_pixels_do_not_set_the_noise() -> None:
    flux = torch.full((3, 900), -2.0)
    flux[0, 40], flux[1, 7] = 3, 5
    ivar = torch.ones(3, 900)
    ivar[:, 300:400] = 0
    rule = Augmentation(redshifts=None, noise=0.5)
    z = torch.zeros(3).double()
    expected = augment_spectra(flux, ivar, z, WAVE, generator(), rule)
    hit = flux.clone()
    hit[:, 350] = torch.tensor([1e6, 20.0, -1.0])
    found = augment_spectra(hit, ivar, z, WAVE, generator(), rule)
    good = ivar > 0
    assert torch.equal(found[0][good], expected[0][good])
    assert torch.equal(found[1], expected[1])
    highest = sparse_noise.highest(hit, ivar)
    assert highest.tolist() == [3, 5, -2]
    assert sparse_noise.highest(hit, torch.zeros_like(ivar)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("rule", [UniformRedshift(), None], ids=["moved", "kept"])
def test_gradients_flow_through_noise(kernels: str, rule: object) -> None:
    """They are those of finite differences, whether or not kernels are compiled."""
    flux = (2 + torch.randn(2, 60, dtype=torch.float64)).requires_grad_()
    ivar = (0.5 + torch.rand(2, 60, dtype=torch.float64)).requires_grad_()
    z = torch.tensor([0.1, 0.2], dtype=torch.float64)
    choice = Augmentation(UniformRedshift(0.11, 0.21) if rule else None, noise=0.4)

    def made(flux: Tensor, ivar: Tensor) -> tuple[Tensor, Tensor]:
        return augment_spectra(flux, ivar, z, WAVE[:60], generator(), choice)[:2]

    assert torch.autograd.gradcheck(made, (flux, ivar)), kernels
    with torch.no_grad():
        expected = made(flux, ivar)
    for found, wanted in zip(made(flux, ivar), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
