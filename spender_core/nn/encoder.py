"""From an observed spectrum to latents: convolutions, attention, and an MLP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from spender_core.errors import InputError
from spender_core.nn import frequency
from spender_core.nn.blocks import conv_norm_pool, tile_of
from spender_core.nn.layers import check_sizes, mlp
from spender_core.nn.pooled import first_block

LEAST_SAVED = 2**25
"""Multiplications that fast convolutions must save in a batch, before their overhead pays."""

PIECE = 32
"""Spectra encoded at a time where no gradient is needed, so that memory does not grow."""


class SpectrumEncoder(nn.Module):
    """Convolutional encoder with attention, after Serra et al. (2018, arXiv:1805.03908).

    Three convolutions, the first two followed by max pooling over their kernel size;
    half of the last channels are values, the other half, after a softmax along the
    spectrum, the attention with which they are summed. An MLP maps that to latents.
    This is the encoder of Melchior et al. (2023, AJ 166, 74), section 2.1.

    On the CPU, in float32 and float64, it pools before it normalises and convolves by way of
    Fourier transforms (`nn.pooled`, `nn.blocks`), where batch and network are large enough for
    that to be faster. Latents differ by rounding only, near 1e-6 in float32; with fluxes beyond
    1e18, of which float32 does not hold the variance, both ways are wrong, each in its own.
    Without gradients, memory does not grow with the batch, and the transforms of the weights are
    kept (59 MiB with the widths of published models) until the encoder is moved or trained.

    Everywhere else, under autocast too, each layer is that of torch. That holds as well where a
    layer of the convolutions was replaced, parametrised or pruned, or has a hook of its own. With
    bfloat16 the latents of untrained encoders are off by 0.004 to 0.006 of the largest.

    Args:
        n_latent: Number S of latents.
        filters: Channels of the three convolutions; the last must be even.
        sizes: Their kernel sizes, odd.
        hidden: Widths of the hidden layers of the MLP.
    """

    fast: bool = True
    """Whether the faster path may be used. It has first derivatives only, and those one at a time;
    set it to False for second ones, for `torch.func`, and for gradients in batches
    (`is_grads_batched` of `torch.autograd.grad`, `vectorize` of `functional.jacobian`)."""

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
        if not (self.fast and self._pays(flux_BL)):
            pooled_BC = self._attended(self._layers(flux_BL))
        elif self._needs_gradient(flux_BL):
            pooled_BC = self._attended(self._fast_features(flux_BL))
        else:
            parts = flux_BL.split(PIECE)
            pooled_BC = torch.cat([self._attended(self._fast_features(part)) for part in parts])
        latents: Tensor = self.mlp(pooled_BC)
        return latents

    def _layers(self, flux_BL: Tensor) -> Tensor:
        """Return what the layers return, shape (B, channels, pixels after pooling)."""
        pooled = self.pool2(self.conv2(self.pool1(self.conv1(flux_BL[:, None]))))
        features: Tensor = self.conv3(pooled)
        return features

    def _attended(self, features: Tensor) -> Tensor:
        """Return the values summed with their attention, shape (B, channels / 2)."""
        values, keys = features.chunk(2, dim=1)
        attention = keys.softmax(dim=-1)
        if not self.training and attention.requires_grad:
            attention.register_hook(self._keep_attention_grad)
        return (values * attention).sum(dim=2)

    def train(self, mode: bool = True) -> Self:
        """Set the mode as `Module.train` does; training forgets the kept transforms."""
        if mode:
            self._forget()
        return super().train(mode)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """Move parameters as `Module._apply` does, and forget the kept transforms."""
        self._forget()
        moved: Self = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return moved

    def _forget(self) -> None:
        for cache in self._kernels:
            cache.clear()

    def _needs_gradient(self, flux_BL: Tensor) -> bool:
        tensors = flux_BL, *(part for block in self._blocks() for part in block.parameters())
        return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)

    def _pays(self, flux_BL: Tensor) -> bool:
        """Return whether the fast path serves these spectra, and is faster."""
        if (
            flux_BL.ndim != 2
            or flux_BL.device.type != "cpu"
            or flux_BL.dtype not in (torch.float32, torch.float64)
            or torch.is_autocast_enabled("cpu")
            or torch.compiler.is_compiling()
            or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
            or not self._is_plain(flux_BL.dtype)
        ):
            return False
        saved, length = 0, flux_BL.shape[1]
        for block, before, after in self._long_blocks():
            length = -(-length // before)
            n_out, n_in, _ = (taps := _parts(block)[0]).shape
            tile = tile_of(length, taps, after)
            saved += frequency.saved(
                length, tile, n_in, n_out, len(flux_BL), kept=_may_be_kept(taps)
            )
        # torch refuses to normalise single pixels, so that it must see them
        return length > 1 and saved > LEAST_SAVED

    def _is_plain(self, dtype: torch.dtype) -> bool:
        """Return whether nothing was changed that the fast path would not see."""
        return (
            all(_is_plain_block(block, dtype) for block in self._blocks())
            and _is_plain_pool(self.pool1, self._pooling[0])
            and _is_plain_pool(self.pool2, self._pooling[1])
        )

    def _blocks(self) -> tuple[nn.Sequential, nn.Sequential, nn.Sequential]:
        return self.conv1, self.conv2, self.conv3

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
            if _may_be_kept(taps):
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


def _may_be_kept(taps: Tensor) -> bool:
    """Return whether the transform of the taps need not carry a gradient back to them."""
    return not (torch.is_grad_enabled() and taps.requires_grad)


def _is_untouched(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Return whether a module is of exactly this kind, with no hooks and a forward of its own.

    Pruning and weight normalisation set the weight in a hook before the forward pass; layers with
    parametrised weights are of another kind.
    """
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return type(module) is kind and not any(hooks) and "forward" not in vars(module)


def _is_plain_block(block: nn.Module, dtype: torch.dtype) -> bool:
    """Return whether a block is still what the encoder made, on the CPU and of a type."""
    kinds = nn.Conv1d, nn.InstanceNorm1d, nn.PReLU
    if not _is_untouched(block, nn.Sequential) or len(layers := list(block.children())) != 3:
        return False
    if not all(_is_untouched(layer, kind) for layer, kind in zip(layers, kinds, strict=True)):
        return False
    conv, norm, act = layers
    assert isinstance(conv, nn.Conv1d)
    assert isinstance(norm, nn.InstanceNorm1d)
    assert isinstance(act, nn.PReLU)
    taps = conv.weight.shape[2]
    return (
        conv.bias is not None
        and conv.stride == conv.dilation == (1,)
        and conv.groups == 1
        and taps % 2 == 1
        and conv.padding == (taps // 2,)
        and conv.padding_mode == "zeros"
        and not (norm.affine or norm.track_running_stats)
        and act.weight.shape == conv.weight.shape[:1]
        and all(p.device.type == "cpu" and p.dtype == dtype for p in block.parameters())
    )


def _is_plain_pool(pool: nn.Module, size: int) -> bool:
    """Return whether a layer is still the pooling that the encoder made."""
    return (
        _is_untouched(pool, nn.MaxPool1d)
        and isinstance(pool, nn.MaxPool1d)
        and (pool.kernel_size, pool.stride, pool.padding) == (size, size, size // 2)
        and pool.dilation == 1
        and not (pool.ceil_mode or pool.return_indices)
    )


def _parts(block: nn.Sequential) -> tuple[Tensor, Tensor, Tensor, float]:
    """Return a block's taps (O, C, K), bias and slopes (O,), and what is added to variances."""
    conv, norm, act = block
    assert isinstance(conv, nn.Conv1d)
    assert isinstance(norm, nn.InstanceNorm1d)
    assert isinstance(act, nn.PReLU)
    assert conv.bias is not None
    return conv.weight, conv.bias, act.weight, norm.eps
