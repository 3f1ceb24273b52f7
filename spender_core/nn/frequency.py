"""Convolution with fewer products: real discrete Fourier transforms of tiles, as matrices.

A tile of T outputs of a convolution with K taps needs N = T + K - 1 inputs. With the three
matrices below, the T outputs are synthesis @ ((kernel @ w) * (analysis @ x)): M = 3/2 N products,
instead of K T (overlap-save: Oppenheim & Schafer, Discrete-Time Signal Processing, section 8.7).
Real and imaginary parts share three products instead of four (Knuth, The Art of Computer
Programming, volume 2, section 4.6.4). With channels, each of the M products becomes a product of
matrices, which is what machines do best. The transforms are short enough to be matrix products
themselves, which leave their results in the layout that the next step reads.

Errors are those of a Fourier transform, near 5e-7 of the largest output in float32, unlike those
of Winograd's short convolutions, which grow exponentially with the tile.

Shapes: K taps, T outputs of a tile, N inputs of it, M products.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spender_core.errors import InputError

LONGEST_TILE = 160
"""Outputs of the longest tile tried; beyond, the transforms cost more than the products save."""


TAPS_COST = 200
"""Multiplications in whose time one number of the taps' side is made and its gradient used.

Both are bound by memory: measured in training steps with few spectra (benchmarks/bench_encoder.py).
"""


@dataclass(frozen=True)
class Tile:
    """The size of a tile.

    Args:
        taps: Number K of taps.
        outputs: Number T of outputs, at least K - 1, so that only neighbours overlap.
    """

    taps: int
    outputs: int

    def __post_init__(self) -> None:
        if self.taps < 1 or self.outputs < max(1, self.taps - 1):
            raise InputError(
                f"a tile for {self.taps} taps must have at least {max(1, self.taps - 1)} outputs, "
                f"not {self.outputs}"
            )

    @property
    def inputs(self) -> int:
        """Number N of inputs."""
        return self.outputs + self.taps - 1

    @property
    def products(self) -> int:
        """Number M of products: one for each real frequency, three for each complex one."""
        n_real = 2 - self.inputs % 2
        return n_real + 3 * (self.inputs - n_real) // 2


@dataclass(frozen=True)
class Transforms:
    """The matrices of a tile, (M, N), (M, K) and (T, M), for y[t] = sum over k of w[k] x[t + k]."""

    analysis: Tensor
    kernel: Tensor
    synthesis: Tensor


@functools.lru_cache(maxsize=64)
def transforms(tile: Tile, dtype: torch.dtype) -> Transforms:
    """Return the matrices of a tile, on the host; do not change them.

    Row 0 is frequency 0. With X = a + ib of the inputs and the conjugate V = c + id of the taps,
    X V = (k1 - k3) + i (k1 + k2), k1 = c (a + b), k2 = (d - c) a, k3 = (c + d) b.
    """
    size = tile.inputs
    pixel = torch.arange(size, dtype=torch.float64)
    angle = 2 * math.pi / size * (pixel[: size // 2 + 1, None] * pixel % size)
    real = [0, size // 2] if size % 2 == 0 else [0]
    cos_real = angle[real].cos()
    cos, sin = angle[1 : (size + 1) // 2].cos(), angle[1 : (size + 1) // 2].sin()
    analysis = torch.cat([cos_real, cos - sin, cos, -sin])
    kernel = torch.cat([cos_real, cos, sin - cos, cos + sin])[:, : tile.taps]
    inverse = torch.cat([cos_real, 2 * (cos - sin), -2 * sin, -2 * cos])[:, : tile.outputs] / size
    return Transforms(
        analysis.to(dtype), kernel.to(dtype).contiguous(), inverse.T.to(dtype).contiguous()
    )


def n_tiles(pixels: int, tile: Tile) -> int:
    """Return how many tiles cover so many outputs."""
    return -(-pixels // tile.outputs)


def cost(pixels: int, tile: Tile, n_in: int, n_out: int) -> int:
    """Return the multiplications for one spectrum of so many outputs, with given channels.

    Each weight counts once more, for its share of what a batch does with it once.
    """
    mixing = n_in * n_out + tile.inputs * n_in + tile.outputs * n_out
    return tile.products * (n_tiles(pixels, tile) * mixing + n_in * n_out)


def saved(pixels: int, tile: Tile, n_in: int, n_out: int, n_batch: int, *, kept: bool) -> int:
    """Return the multiplications that tiles save in a batch.

    Args:
        pixels: Outputs of one spectrum.
        tile: The size of tiles.
        n_in: Channels of the inputs.
        n_out: Channels of the outputs.
        n_batch: Number of spectra.
        kept: Whether the taps' side of the products is at hand; otherwise it is made, and its
            gradient brought back to the taps, at the price of `TAPS_COST`.
    """
    channels = n_in * n_out
    each = pixels * tile.taps * channels - cost(pixels, tile, n_in, n_out)
    return n_batch * each - (0 if kept else TAPS_COST * tile.products * channels)


@functools.lru_cache(maxsize=256)
def best_tile(pixels: int, taps: int, step: int, n_in: int, n_out: int) -> Tile:
    """Return the cheapest tile of which the outputs are a multiple of `step`."""
    least = -(-max(1, taps - 1) // step)
    most = max(least, min(LONGEST_TILE, max(pixels, taps)) // step)
    tiles = [Tile(taps, step * n) for n in range(least, most + 1)]
    return min(tiles, key=lambda tile: cost(pixels, tile, n_in, n_out))


def kernel_products(weight_OCK: Tensor, tile: Tile) -> Tensor:
    """Return the taps' side of the products, shape (M, C, O)."""
    n_out, n_in, taps = weight_OCK.shape
    kernel_MK = transforms(tile, weight_OCK.dtype).kernel
    taps_first = weight_OCK.permute(2, 1, 0).reshape(taps, -1)
    return (kernel_MK @ taps_first).view(tile.products, n_in, n_out)


class KernelCache:
    """The taps' side of the products, kept while the taps do not change.

    They are compared by value, since the version of a tensor does not tell of changes made by
    way of its `data`. Copies and pickles of a cache are empty.
    """

    def __init__(self) -> None:
        self._kept: tuple[Tensor, Tile, Tensor] | None = None

    def products(self, weight_OCK: Tensor, tile: Tile) -> Tensor:
        """Return `kernel_products`, not to be changed, without gradients."""
        weight_OCK = weight_OCK.detach()
        kept = self._kept
        if kept is not None and kept[1] == tile and _same(kept[0], weight_OCK):
            return kept[2]
        # tensors made in inference mode could not take part in a backward pass later
        with torch.inference_mode(False), torch.no_grad():
            products = kernel_products(weight_OCK, tile)
            self._kept = weight_OCK.clone(), tile, products
        return products

    def clear(self) -> None:
        """Keep nothing any more."""
        self._kept = None

    def __reduce__(self) -> tuple[type[KernelCache], tuple[()]]:
        return KernelCache, ()


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def kernel_products_adjoint(grad_MCO: Tensor, tile: Tile) -> Tensor:
    """Return the gradient of the taps, shape (O, C, K), from that of `kernel_products`."""
    products, n_in, n_out = grad_MCO.shape
    kernel_MK = transforms(tile, grad_MCO.dtype).kernel
    grad_KX = kernel_MK.T @ grad_MCO.view(products, -1)
    return grad_KX.view(tile.taps, n_in, n_out).permute(2, 1, 0).contiguous()


def analyse(padded_BLC: Tensor, tile: Tile, count: int) -> Tensor:
    """Return the inputs' side of the products of `count` tiles, shape (M, B J, C).

    Args:
        padded_BLC: Contiguous inputs, at least count T + K - 1 of them; tile j begins at j T.
        tile: Its size.
        count: Number J of tiles.
    """
    n_batch, length, n_in = padded_BLC.shape
    stride = (n_in, length * n_in, tile.outputs * n_in, 1)
    tiles_NBJC = padded_BLC.as_strided((tile.inputs, n_batch, count, n_in), stride)
    analysis_MN = transforms(tile, padded_BLC.dtype).analysis
    products = analysis_MN @ tiles_NBJC.reshape(tile.inputs, -1)
    return products.view(tile.products, n_batch * count, n_in)


def analyse_adjoint(grad_MXC: Tensor, tile: Tile, n_batch: int) -> Tensor:
    """Return the gradient of the padded inputs, shape (B, (J + 1) T, C), from `analyse`'s."""
    products, n_columns, n_in = grad_MXC.shape
    count, outputs = n_columns // n_batch, tile.outputs
    analysis_MN = transforms(tile, grad_MXC.dtype).analysis
    grad_NX = analysis_MN.T @ grad_MXC.view(products, -1)
    grad_NBJC = grad_NX.view(tile.inputs, n_batch, count, n_in)
    grad_BJTC = grad_MXC.new_zeros(n_batch, count + 1, outputs, n_in)
    grad_BJTC[:, :count] = grad_NBJC[:outputs].permute(1, 2, 0, 3)
    grad_BJTC[:, 1:, : tile.taps - 1] += grad_NBJC[outputs:].permute(1, 2, 0, 3)
    return grad_BJTC.view(n_batch, -1, n_in)
