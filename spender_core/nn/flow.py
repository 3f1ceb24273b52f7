"""Normalizing flows: probability densities of latents.

Shapes: B samples, S latents, H hidden features.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spender_core.errors import InputError
from spender_core.interfaces.flow import Flow
from spender_core.nn.layers import check_sizes

_MIN_SCALE = 1e-3


class MaskedLinear(nn.Linear):
    """Linear layer whose outputs see only inputs of lower (or equal) degree."""

    mask: Tensor

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out)
        self.register_buffer("mask", None, persistent=False)

    def order(self, in_degrees: Tensor, out_degrees: Tensor, strict: bool = False) -> None:
        """Let each output see the inputs of lower degree, or unless strict of equal degree."""
        degrees = out_degrees[:, None]
        self.mask = degrees > in_degrees if strict else degrees >= in_degrees

    def forward(self, x: Tensor) -> Tensor:
        """Apply the masked layer."""
        return F.linear(x, self.weight * self.mask, self.bias)


class MaskedAffine(nn.Module):
    """Affine transform of every latent, conditioned on those before it.

    The conditioner is a MADE (Germain et al. 2015, arXiv:1502.03509) with tanh, as in
    the MAF of Papamakarios et al. (2017, arXiv:1705.07057).
    """

    def __init__(self, n_latent: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.initial = MaskedLinear(n_latent, hidden)
        self.blocks = nn.ModuleList(MaskedLinear(hidden, hidden) for _ in range(blocks))
        self.final = MaskedLinear(hidden, 2 * n_latent)
        inputs = torch.arange(1, n_latent + 1)
        highest = max(1, n_latent - 1)
        inner = torch.arange(hidden) % highest + min(1, n_latent - 1)
        self.initial.order(inputs, inner)
        for block in self.blocks:
            assert isinstance(block, MaskedLinear)
            block.order(inner, inner)
        self.final.order(inner, inputs.repeat_interleave(2), strict=True)

    def parameters_of(self, x_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Return scale and shift of each latent, shape (B, S)."""
        h_BH = torch.tanh(self.initial(x_BS))
        for block in self.blocks:
            h_BH = torch.tanh(block(h_BH))
        raw_BS2 = self.final(h_BH).unflatten(1, (-1, 2))
        return F.softplus(raw_BS2[..., 0]) + _MIN_SCALE, raw_BS2[..., 1]

    def forward(self, x_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Return the transformed latents and the log determinant, shape (B,)."""
        scale_BS, shift_BS = self.parameters_of(x_BS)
        return scale_BS * x_BS + shift_BS, scale_BS.log().sum(dim=1)

    def inverse(self, y_BS: Tensor) -> Tensor:
        """Undo the transform, one latent after the other."""
        x_BS = torch.zeros_like(y_BS)
        for _ in range(y_BS.shape[1]):
            scale_BS, shift_BS = self.parameters_of(x_BS)
            x_BS = (y_BS - shift_BS) / scale_BS
        return x_BS


class MaskedAutoregressiveFlow(Flow):
    """Masked autoregressive flow of the latents, with the architecture of spender's.

    Latents are shifted and scaled, then go through affine autoregressive transforms,
    each followed by a fixed permutation, to a standard normal distribution.

    Args:
        n_latent: Number S of latents.
        hidden: Width of the conditioners.
        transforms: Number of transforms.
        blocks: Hidden layers of a conditioner, beyond the first.
    """

    shift: Tensor
    scale: Tensor
    permutations: Tensor

    def __init__(
        self, n_latent: int, hidden: int = 50, transforms: int = 5, blocks: int = 2
    ) -> None:
        super().__init__()
        check_sizes("n_latent, hidden and transforms", (n_latent, hidden, transforms))
        check_sizes("blocks", [blocks], least=0)
        self.n_latent = n_latent
        self.config = {"hidden": hidden, "transforms": transforms, "blocks": blocks}
        self.transforms = nn.ModuleList(
            MaskedAffine(n_latent, hidden, blocks) for _ in range(transforms)
        )
        self.register_buffer("shift", torch.zeros(n_latent))
        self.register_buffer("scale", torch.ones(n_latent))
        permutations = torch.stack([torch.randperm(n_latent) for _ in range(transforms)])
        self.register_buffer("permutations", permutations)

    def check_state(self) -> None:
        """Check values read from a file: scales are positive, permutations are permutations.

        Raises:
            InputError: They are not.
        """
        if not bool((self.scale > 0).all()):
            raise InputError(f"scale must be positive, got {self.scale.min().item()}")
        if self.permutations.shape[1:] != (self.n_latent,):
            raise InputError(f"permutations must be of {self.n_latent} latents each")
        ordered = torch.arange(self.n_latent, device=self.permutations.device)
        if not torch.equal(
            self.permutations.sort(dim=1).values, ordered.expand_as(self.permutations)
        ):
            raise InputError(
                f"permutations must hold each of 0 to {self.n_latent - 1} once in every row"
            )

    def log_prob(self, s_BS: Tensor) -> Tensor:
        """Return the log density at latents (B, S), shape (B,), in nats."""
        if s_BS.ndim != 2 or s_BS.shape[1] != self.n_latent:
            raise InputError(
                f"latents must have shape (B, {self.n_latent}), got {tuple(s_BS.shape)}"
            )
        x_BS = s_BS * self.scale + self.shift
        log_prob_B = self.scale.log().sum().expand(len(s_BS))
        for transform, permutation in zip(self.transforms, self.permutations, strict=True):
            x_BS, log_det_B = transform(x_BS)
            x_BS = x_BS[:, permutation]
            log_prob_B = log_prob_B + log_det_B
        constant = 0.5 * self.n_latent * math.log(2 * math.pi)
        return log_prob_B - 0.5 * x_BS.square().sum(dim=1) - constant

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n latents, shape (n, S)."""
        x_BS = torch.randn(
            n, self.n_latent, generator=generator, device=self.scale.device, dtype=self.scale.dtype
        )
        for k in reversed(range(len(self.permutations))):
            transform = self.transforms[k]
            assert isinstance(transform, MaskedAffine)
            x_BS = transform.inverse(x_BS[:, self.permutations[k].argsort()])
        return (x_BS - self.shift) / self.scale
