"""From an observed spectrum to latents: convolutions, attention, and an MLP."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from spender_core.errors import InputError
from spender_core.nn.layers import check_sizes, mlp


class SpectrumEncoder(nn.Module):
    """Convolutional encoder with attention, after Serra et al. (2018, arXiv:1805.03908).

    Three convolutions, the first two followed by max pooling over their kernel size;
    half of the last channels are values, the other half, after a softmax along the
    spectrum, the attention with which they are summed. An MLP maps that to latents.
    This is the encoder of Melchior et al. (2023, AJ 166, 74), section 2.1.

    Args:
        n_latent: Number S of latents.
        filters: Channels of the three convolutions; the last must be even.
        sizes: Their kernel sizes, odd.
        hidden: Widths of the hidden layers of the MLP.
    """

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

    def forward(self, flux_BL: Tensor) -> Tensor:
        """Encode spectra, shape (B, L), to latents, shape (B, S)."""
        features = self.pool1(self.conv1(flux_BL[:, None]))
        features = self.conv3(self.pool2(self.conv2(features)))
        values, keys = features.chunk(2, dim=1)
        attention = keys.softmax(dim=-1)
        if not self.training and attention.requires_grad:
            attention.register_hook(self._keep_attention_grad)
        latents: Tensor = self.mlp((values * attention).sum(dim=2))
        return latents

    def _keep_attention_grad(self, grad: Tensor) -> None:
        self._attention_grad = grad.detach()

    @property
    def attention_grad(self) -> Tensor | None:
        """Gradient of the attention, shape (B, channels, pixels after pooling), for Grad-FAM.

        Set by a backward pass through latents encoded in evaluation mode; None before,
        and untouched in training.
        """
        return self._attention_grad
