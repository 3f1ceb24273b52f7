"""The transform on every backend: equal to a float64 reference, and true to its laws."""

from __future__ import annotations

import numpy as np
import pytest
import textbook
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spender_core import native
from spender_core.errors import InputError
from spender_core.grid import Linear, Log
from spender_core.grid import pixel_edges as edges
from spender_core.ops.layout import Layout
from spender_core.ops.resampler import Resampler

MADE = native.library() is not None
BACKENDS = [
    "eager",
    pytest.param("compiled", marks=pytest.mark.skipif(not MADE, reason="no kernels compiled")),
]
backends = pytest.mark.parametrize("backend", BACKENDS)
fluxes = pytest.mark.parametrize("conserve_flux", [False, True], ids=["linear", "flux"])
# torch warns of its own use of torch.jit.script in forward mode
forward_mode = pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")
DESI, SDSS = Linear(3600.0, 0.8, 7781).wave, Log(3.578, 1e-4, 3921).wave
PAIRS = {
    "linspace of float32 to DESI": (np.linspace(2000, 9824, 9780).astype("f4"), DESI),
    "linspace of float32 to SDSS": (np.linspace(2359, 10401, 7000).astype("f4"), SDSS),
    "exact linear to DESI": (Linear(2000.0, 0.8, 9780).wave, DESI),
    "fine log to SDSS": (Log(3.2, 5e-5, 16693).wave, SDSS),
    "log of float32 to SDSS": (Log(3.3, 1e-4, 7200).wave.astype("f4"), SDSS),
    "log to DESI": (Log(3.2, 1e-4, 8346).wave, DESI),
    "coarse log to SDSS": (Log(3.2, 1e-3, 834).wave, SDSS),
    "fine linear to coarse": (Linear(3000.0, 0.1, 60000).wave, np.linspace(4000.0, 8000.0, 300)),
}


def grid(kind: str, start: float, span: float, size: int, seed: int) -> np.ndarray:
    """Return wavelengths of a kind: what a file may hold."""
    if kind == "log":
        return start * (1 + span) ** np.linspace(0, 1, size)
    wave = np.linspace(start, start * (1 + span), size)
    if kind == "float32":
        return wave.astype(np.float32).astype(np.float64)
    if kind == "irregular":
        gaps = np.random.default_rng(seed).uniform(0.05, 1, size)
        return start * (1 + span * (np.cumsum(gaps) - gaps[0]) / (gaps.sum() - gaps[0]))
    return wave


KINDS = ["linear", "log", "float32", "irregular"]
grids = st.builds(
    grid,
    st.sampled_from(KINDS),
    st.floats(1000, 5000),
    st.floats(0.05, 3),
    st.integers(2, 300),
    st.integers(0, 99),
)


def run(resampler, x, z, g, backend):
    """Return the spectra, where they are reached, and both gradients."""
    x, z = x.clone().requires_grad_(), z.clone().requires_grad_()
    y, valid = resampler(x, z, backend)
    y.backward(g)
    return y.detach(), valid, x.grad, z.grad


def expected(rest, obs, x, z, g, conserve_flux):
    reference = textbook.averaged if conserve_flux else textbook.interpolated
    x, z = x.double().clone().requires_grad_(), z.clone().requires_grad_()
    y, valid = reference(x, torch.tensor(rest), torch.tensor(obs), z)
    y.backward(g.double())
    return y.detach(), valid, x.grad, z.grad


def inputs(rest, obs, batch, most_z=0.8, dtype=torch.float32):
    x = torch.randn(batch, len(rest), dtype=dtype)
    z = most_z * torch.rand(batch, dtype=torch.float64)
    return x, z, torch.randn(batch, len(obs), dtype=dtype)


@backends
@pytest.mark.parametrize("pair", PAIRS)
def test_white_noise_on_the_grids_of_surveys(pair, backend):
    rest, obs = (np.asarray(wave, dtype=np.float64) for wave in PAIRS[pair])
    torch.manual_seed(0)
    x, z, g = inputs(rest, obs, 12)
    y, valid, gx, gz = run(Resampler(rest, obs), x, z, g, backend)
    y0, valid0, gx0, gz0 = expected(rest, obs, x, z, g, conserve_flux=False)
    assert torch.equal(valid, valid0)
    assert (y - y0).abs().max() < 2e-6 * x.abs().max()
    assert (gx - gx0).abs().max() < 2e-6 * gx0.abs().max()
    assert (gz - gz0).abs().max() < 2e-6 * gz0.abs().max()


@backends
@fluxes
@settings(max_examples=120, deadline=None)
@given(
    rest=grids,
    obs=grids,
    z=st.lists(st.floats(-0.3, 4), min_size=1, max_size=4),
    double=st.booleans(),
)
# nodes are off their places, and the last point is just before the last of them: it was taken to
# be there, by as much as nodes are off, which is no rounding of float32
@example(
    rest=grid("float32", 1000.3987970664944, 1.0, 19, 0),
    obs=grid("linear", 1000.3987970664944, 1.0, 2, 0),
    z=[0.0],
    double=False,
)
def test_any_grids(backend, conserve_flux, rest, obs, z, double):
    """Of spectra up to M, float32 rounds the results by less than 2e-6 M, and all else is exact.

    With u = 2^-24, a value is y = offset + rise share, where share is at most 1, distances of nodes
    from their places are at most 1/4, so rise is at most 4 M, and what of it reaches y at most 2 M.
    The roundings of rise (difference, inverse width, product) are 6 u M in y, that of share 4 u M,
    those of offset (distance, its sum with the margin, product, difference) 5 u M, and those of
    the last product and sum 5 u M: together 20 u M = 1.2e-6 M. On logarithmic grids it is 11 u M =
    0.7e-6 M, to which come 5e-7 of a weight (`layout._NEARLY_LOG`) times 2 M.
    """
    dtype = torch.float64 if double else torch.float32
    torch.manual_seed(len(rest))
    x, _, g = inputs(rest, obs, len(z), dtype=dtype)
    z = torch.tensor(z, dtype=torch.float64)
    y, valid, gx, gz = run(Resampler(rest, obs, conserve_flux), x, z, g, backend)
    y0, valid0, gx0, _ = expected(rest, obs, x, z, g, conserve_flux)
    near = 1e-9 if double else 2e-6
    # points that rounding puts on either side of an end are valid or not
    assert (valid != valid0).sum() <= 2 * len(z)
    both = valid & valid0
    assert torch.allclose(y[both].double(), y0[both], rtol=0, atol=near * float(x.abs().max()))
    assert (y[~valid] == 0).all()
    if torch.equal(valid, valid0):
        assert torch.allclose(gx.double(), gx0, rtol=0, atol=near * float(1 + gx0.abs().max()) * 4)
    assert gz.isfinite().all()


@backends
@fluxes
def test_points_beside_nodes(backend, conserve_flux):
    """A node that float32 has moved must be met where it is, not where a linspace puts it."""
    rest = np.linspace(2000, 9824, 9780).astype(np.float32).astype(np.float64)
    node = edges(rest) if conserve_flux else rest
    obs = np.sort(np.concatenate([node[1:-1] * (1 + 1e-7), node[1:-1] * (1 - 1e-7)]))[::3]
    torch.manual_seed(1)
    x = torch.where(torch.rand(1, len(rest)) > 0.5, 1.0, -1.0)
    z = torch.zeros(1, dtype=torch.float64)
    y, valid = Resampler(rest, obs, conserve_flux)(x, z, backend)
    exact, valid0 = Resampler(rest, obs, conserve_flux)(x.double(), z, backend)
    assert torch.equal(valid, valid0)
    assert (y - exact).abs().max() < 2e-6


@backends
@pytest.mark.parametrize("off", [1e-7, 3e-6, 1e-3, 0.2])
def test_points_beside_the_ends(off, backend):
    """Nodes that are off their places must not pull at points before the last, or past the first."""
    rest = np.arange(3000.0, 3040.0)
    rest[1:-1] += off * np.random.default_rng(0).uniform(-1, 1, 38)
    inside = np.geomspace(1e-9, 0.4, 60)
    obs = np.concatenate([rest[0] + inside, rest[-1] - inside[::-1]])
    torch.manual_seed(1)
    x, z = torch.where(torch.rand(3, len(rest)) > 0.5, 1.0, -1.0), torch.zeros(3).double()
    y, valid = Resampler(rest, obs)(x, z, backend)
    exact, valid0 = textbook.interpolated(x.double(), torch.tensor(rest), torch.tensor(obs), z)
    assert torch.equal(valid, valid0)
    assert valid.all()
    assert (y - exact).abs().max() < 2e-6


@forward_mode
@backends
@fluxes
@pytest.mark.parametrize(
    "kinds", [("linear", "linear"), ("log", "log"), ("float32", "log"), ("irregular", "linear")]
)
def test_gradients_by_finite_differences(kinds, backend, conserve_flux):
    rest = grid(kinds[0], 3000, 0.9, 23, 3)
    obs = grid(kinds[1], 3900, 0.5, 17, 4)
    torch.manual_seed(2)
    x = torch.randn(3, 23, dtype=torch.float64, requires_grad=True)
    z = torch.tensor([0.0123, 0.1717, 0.281], dtype=torch.float64, requires_grad=True)
    resampler = Resampler(rest, obs, conserve_flux)

    def observe(x, z):
        return resampler(x, z, backend)[0]

    assert torch.autograd.gradcheck(observe, (x, z), check_forward_ad=True, eps=1e-7, atol=1e-5)


@forward_mode
@backends
@fluxes
def test_tangents_under_vmap(backend, conserve_flux):
    rest, obs = grid("log", 3000, 0.9, 40, 0), grid("linear", 3900, 0.5, 31, 0)
    resampler = Resampler(rest, obs, conserve_flux)
    torch.manual_seed(3)
    x, z = torch.randn(2, 40, dtype=torch.float64), torch.tensor([0.1, 0.2], dtype=torch.float64)
    tangents = torch.randn(5, 2, 40, dtype=torch.float64)

    def along(tangent):
        return torch.func.jvp(lambda x: resampler(x, z, backend)[0], (x,), (tangent,))[1]

    found = torch.func.vmap(along)(tangents)
    one_by_one = torch.stack([resampler(t, z, backend)[0] for t in tangents])
    assert torch.allclose(found, one_by_one, rtol=0, atol=1e-12)


@backends
@settings(max_examples=40, deadline=None)
@given(wave=grids, seed=st.integers(0, 99))
def test_identity_at_z_0(backend, wave, seed):
    torch.manual_seed(seed)
    x = torch.randn(2, len(wave))
    z = torch.zeros(2, dtype=torch.float64)
    y, valid = Resampler(wave, wave)(x, z, backend)
    assert torch.equal(valid[:, 1:-1], torch.ones_like(valid[:, 1:-1]))
    assert torch.allclose(y[valid], x[valid], rtol=0, atol=2e-6 * float(x.abs().max()))
    y, valid = Resampler(wave, wave, conserve_flux=True)(x, z, backend)
    assert valid.all()
    assert torch.allclose(y, x, rtol=0, atol=3e-6 * float(x.abs().max()))


@backends
@settings(max_examples=40, deadline=None)
@given(rest=grids, obs=grids, z=st.floats(0, 2), seed=st.integers(0, 99))
def test_flux_is_conserved(backend, rest, obs, z, seed):
    """What lies within the model's reach keeps its integral."""
    torch.manual_seed(seed)
    x = 1 + torch.rand(1, len(rest), dtype=torch.float64)
    stretch = 1 + z
    # observed pixels that cover the model, cut at both of its ends
    node = edges(rest) * stretch
    inner = obs[(obs > node[0]) & (obs < node[-1])]
    if len(inner) < 3:
        return
    y, valid = Resampler(rest, inner, conserve_flux=True)(
        x.float(), torch.tensor([z], dtype=torch.float64), backend
    )
    point = edges(inner)
    low = np.maximum(point[:-1][valid[0]].min() if valid.any() else 0, node[0])
    high = point[1:][valid[0]].max() if valid.any() else 0
    if not valid.any():
        return
    there = np.clip(np.minimum(node[1:], high) - np.maximum(node[:-1], low), 0, None)
    wanted = float((torch.tensor(there) * x[0]).sum())
    found = float((y[0, valid[0]].double() * torch.tensor(np.diff(point))[valid[0]]).sum())
    assert found == pytest.approx(wanted, rel=1e-6)


@backends
@fluxes
def test_linearity(backend, conserve_flux):
    rest, obs = PAIRS["fine log to SDSS"]
    resampler = Resampler(rest, obs, conserve_flux)
    torch.manual_seed(4)
    a, b = torch.randn(2, 3, len(rest))
    z = torch.rand(3, dtype=torch.float64)
    y = resampler(2 * a - 3 * b, z, backend)[0]
    sums = 2 * resampler(a, z, backend)[0] - 3 * resampler(b, z, backend)[0]
    assert torch.allclose(y, sums, rtol=0, atol=2e-5)


@backends
@fluxes
@pytest.mark.parametrize("shift", [1, 17, 400])
def test_redshift_moves_pixels_of_a_log_grid(shift, backend, conserve_flux):
    wave = Log(3.5, 1e-4, 3000).wave
    torch.manual_seed(5)
    x = torch.randn(1, 3000)
    z = torch.tensor([10 ** (1e-4 * shift) - 1], dtype=torch.float64)
    y, valid = Resampler(wave, wave, conserve_flux)(x, z, backend)
    inside = valid[0].clone()
    inside[: shift + 2] = False
    assert inside.sum() > 2000
    moved = torch.roll(x[0], shift)
    assert torch.allclose(y[0][inside], moved[inside], rtol=0, atol=1e-5)


@backends
@fluxes
@pytest.mark.parametrize("kind", KINDS)
def test_adjoint(kind, backend, conserve_flux):
    rest, obs = grid(kind, 3000, 0.7, 800, 1), grid("linear", 3900, 0.4, 533, 0)
    torch.manual_seed(6)
    x, z, g = inputs(rest, obs, 4, 0.3)
    y, _, gx, _ = run(Resampler(rest, obs, conserve_flux), x, z, g, backend)
    assert float((y.double() * g).sum()) == pytest.approx(float((x.double() * gx).sum()), rel=1e-5)


@backends
@fluxes
def test_rows_do_not_depend_on_their_neighbours(backend, conserve_flux):
    """Nor on how they are shared among threads."""
    rest, obs = PAIRS["linspace of float32 to DESI"]
    resampler = Resampler(rest, obs, conserve_flux)
    torch.manual_seed(7)
    x, z, g = inputs(rest, obs, 70)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        together = run(resampler, x, z, g, backend)
    finally:
        torch.set_num_threads(threads)
    for row in (0, 33, 69):
        alone = run(resampler, x[[row]], z[[row]], g[[row]], backend)
        assert all(torch.equal(a[row], b[0]) for a, b in zip(together, alone, strict=True))


@backends
def test_only_what_is_wanted_is_computed(backend):
    rest, obs = PAIRS["log to DESI"]
    x, z, g = inputs(rest, obs, 2)
    z.requires_grad_()
    Resampler(rest, obs)(x, z, backend)[0].backward(g)
    assert x.grad is None
    assert z.grad is not None


@backends
def test_views_and_empty_batches(backend):
    rest, obs = PAIRS["log to DESI"]
    resampler = Resampler(rest, obs)
    torch.manual_seed(8)
    x, z, g = inputs(rest, obs, 6)
    y, _, gx, gz = run(resampler, x, z, g, backend)
    strided = x.T.contiguous().T[::2]
    y2, _, gx2, gz2 = run(resampler, strided, z[::2], g.T.contiguous().T[::2], backend)
    assert torch.equal(y2, y[::2])
    assert torch.equal(gx2, gx[::2])
    assert torch.equal(gz2, gz[::2])
    none, reached = resampler(x[:0], z[:0], backend)
    assert none.shape == reached.shape == (0, len(obs))


@backends
@fluxes
def test_redshifts_that_leave_the_grid(backend, conserve_flux):
    rest, obs = Linear(4000.0, 1.0, 500).wave, Linear(3000.0, 1.0, 400).wave
    x = torch.ones(2, 500)
    y, valid = Resampler(rest, obs, conserve_flux)(x, torch.tensor([0.0, 9.0]).double(), backend)
    assert not valid.any()
    assert (y == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    rest, obs = PAIRS["log to DESI"]
    x = torch.randn(2, len(rest)).to(dtype).requires_grad_()
    z = torch.tensor([0.1, 0.3], dtype=torch.float64)
    resampler = Resampler(rest, obs)
    y = resampler(x, z)[0]
    assert y.dtype == dtype
    assert torch.equal(y, resampler(x.float(), z)[0].to(dtype))
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == dtype


def test_kinds_of_grids():
    assert Layout(DESI, DESI).kind == "linear"
    assert Layout(DESI, DESI).shift is None
    assert Layout(SDSS, SDSS).kind == "log"
    assert Layout(SDSS, SDSS).shift is None
    rounded = Layout(np.linspace(2000, 9824, 9780).astype("f4").astype("f8"), DESI)
    assert rounded.kind == "linear"
    assert 1e-4 < rounded.largest_shift < 1e-3
    assert Layout(grid("irregular", 3000, 1, 500, 0), DESI).kind == "irregular"


def test_wrong_shapes_and_backends():
    resampler = Resampler(DESI, SDSS)
    with pytest.raises(InputError, match=r"shape \(B, 7781\), got \(1, 5\)"):
        resampler(torch.zeros(1, 5), torch.zeros(1))
    with pytest.raises(InputError, match="2 spectra need as many redshifts"):
        resampler(torch.zeros(2, 7781), torch.zeros(3))
    with pytest.raises(InputError, match="no backend 'quantum'"):
        resampler(torch.zeros(1, 7781), torch.zeros(1), "quantum")


def test_environment_picks_the_backend(monkeypatch):
    monkeypatch.setenv("SPENDER_BACKEND", "quantum")
    with pytest.raises(InputError, match="no backend 'quantum'"):
        Resampler(DESI, SDSS)(torch.zeros(1, 7781), torch.zeros(1))
