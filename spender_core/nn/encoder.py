"""From an observed spectrum to latents: convolutions, attention, and an MLP."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spender_core.errors import InputError
from spender_core.nn import frequency
from spender_core.nn.blocks import conv_norm_pool, tile_of
from spender_core.nn.layers import check_sizes, mlp
from spender_core.nn.pooled import first_block

LEAST_SAVED = 2**25
"""Multiplications that fast convolutions must save in a batch, before their overhead pays."""


class SpectrumEncoder(nn.Module):
    """Convolutional encoder with attention, after Serra et al. (2018, arXiv:1805.03908).

    Three convolutions, the first two followed by max pooling over their kernel size;
    half of the last channels are values, the other half, after a softmax along the
    spectrum, the attention with which they are summed. An MLP maps that to latents.
    This is the encoder of Melchior et al. (2023, AJ 166, 74), section 2.1.

    On the CPU, in float32 and float64, it pools before it normalises and convolves by way of
    Fourier transforms (`nn.pooled`, `nn.blocks`), where batch and network are large enough for
    that to be faster. Latents differ by rounding only, near 1e-6 in float32. Everywhere else,
    under autocast too, each layer is that of torch. With bfloat16 the latents of untrained encoders
    are off by 0.004 to 0.006 of the largest.

    Args:
        n_latent: Number S of latents.
        filters: Channels of the three convolutions; the last must be even.
        sizes: Their kernel sizes, odd.
        hidden: Widths of the hidden layers of the MLP.
    """

    fast: bool = True
    """Whether the faster path may be used. It has first derivatives only, and no hooks of the
    layers inside of a block; set it to False for second ones and for `torch.func`."""

    def __init__(
        self,
        n_latent: int,
        filters: Sequence[int] = (128, 256, 512),
        sizes: Sequence[int] = (5, 11, 21),
        hidden: Sequence[int] = (128, 64, 32),
    ) -> None:
        super().__init__()
        check_sizes("filters", filters)
        check_sizes("kernel sizes", sizes)
        if len(filters) != 3 or len(sizes) != 3 or filters[-1] % 2 or not all(n % 2 for n in sizes):
            raise InputError(
                "the encoder needs three filters, the last even, and three odd kernel sizes; "
                f"got filters={tuple(filters)}, sizes={tuple(sizes)}"
            )
        blocks = [
            nn.Sequential(
                nn.Conv1d(n_in, n_out, size, padding=size // 2),
                nn.InstanceNorm1d(n_out),
                nn.PReLU(n_out),
            )
            for n_in, n_out, size in zip((1, *filters[:-1]), filters, sizes, strict=True)
        ]
        self.conv1, self.conv2, self.conv3 = blocks
        self.pool1, self.pool2 = (nn.MaxPool1d(size, padding=size // 2) for size in sizes[:2])
        activations = [*(nn.PReLU(n) for n in hidden), nn.Identity()]
        self.mlp = mlp([filters[-1] // 2, *hidden, n_latent], activations)
        self._attention_grad: Tensor | None = None
        self._pooling = int(sizes[0]), int(sizes[1])
        self._kernels = frequency.KernelCache(), frequency.KernelCache()

    def forward(self, flux_BL: Tensor) -> Tensor:
        """Encode spectra, shape (B, L), to latents, shape (B, S)."""
        if self.fast and self._pays(flux_BL):
            features = self._fast_features(flux_BL)
        else:
            features = self.pool2(self.conv2(self.pool1(self.conv1(flux_BL[:, None]))))
            features = self.conv3(features)
        values, keys = features.chunk(2, dim=1)
        attention = keys.softmax(dim=-1)
        if not self.training and attention.requires_grad:
            attention.register_hook(self._keep_attention_grad)
        latents: Tensor = self.mlp((values * attention).sum(dim=2))
        return latents

    def _pays(self, flux_BL: Tensor) -> bool:
        """Return whether the fast path serves these spectra, and is faster."""
        weight = self.conv1[0].weight
        if (
            flux_BL.ndim != 2
            or not flux_BL.device.type == weight.device.type == "cpu"
            or flux_BL.dtype != weight.dtype
            or weight.dtype not in (torch.float32, torch.float64)
            or torch.is_autocast_enabled("cpu")
            or torch.compiler.is_compiling()
            or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
        ):
            return False
        saved, length = 0, flux_BL.shape[1]
        for block, before, after in self._long_blocks():
            length = -(-length // before)
            n_out, n_in, _ = (taps := _parts(block)[0]).shape
            tile = tile_of(length, taps, after)
            saved += frequency.saved(length, tile, n_in, n_out, len(flux_BL))
        # torch refuses to normalise single pixels, so that it must see them
        return length > 1 and saved > LEAST_SAVED

    def _long_blocks(self) -> list[tuple[nn.Sequential, int, int]]:
        """Return the second and the third block, with the pooling before and after each."""
        first, second = self._pooling
        return [(self.conv2, first, second), (self.conv3, second, 1)]

    def _fast_features(self, flux_BL: Tensor) -> Tensor:
        """Return what the convolutions return, shape (B, channels, pixels after pooling)."""
        taps, bias, slope, eps = _parts(self.conv1)
        x_BLC = first_block(flux_BL, taps[:, 0], bias, slope, eps)
        for (block, _, pool), cache in zip(self._long_blocks(), self._kernels, strict=True):
            taps, bias, slope, eps = _parts(block)
            kernel = None
            if not torch.is_grad_enabled():
                kernel = cache.products(taps, tile_of(x_BLC.shape[1], taps, pool))
            x_BLC = conv_norm_pool(x_BLC, taps, bias, slope, eps, pool, kernel)
        return x_BLC.transpose(1, 2)

    def _keep_attention_grad(self, grad: Tensor) -> None:
        self._attention_grad = grad.detach()

    @property
    def attention_grad(self) -> Tensor | None:
        """Gradient of the attention, shape (B, channels, pixels after pooling), for Grad-FAM.

        Set by a backward pass through latents encoded in evaluation mode; None before,
        and untouched in training.
        """
        return self._attention_grad


def _parts(block: nn.Sequential) -> tuple[Tensor, Tensor, Tensor, float]:
    """Return a block's taps (O, C, K), bias and slopes (O,), and what is added to variances."""
    conv, norm, act = block
    assert isinstance(conv, nn.Conv1d)
    assert isinstance(norm, nn.InstanceNorm1d)
    assert isinstance(act, nn.PReLU)
    assert conv.bias is not None
    return conv.weight, conv.bias, act.weight, norm.eps
