"""Flows made of zuko's transforms: splines or affine, autoregressive.

zuko is imported where a flow is made; `pip install "spender-core[flow]"` brings it.

Shapes: B samples, S latents.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from spender_core.errors import InputError, SpenderError
from spender_core.interfaces.flow import Flow
from spender_core.nn.layers import check_sizes

KINDS = ("nsf", "maf")
"""Splines (Durkan et al. 2019, arXiv:1906.04032) or affine (Papamakarios et al. 2017,
arXiv:1705.07057), both of them masked autoregressive."""
_LARGEST_SCALE = 1e30


class ZukoFlow(Flow):
    """Autoregressive flow of latents, by zuko.

    Latents are standardised by a stored mean and scale, then go through autoregressive
    transforms, each in the reverse order of latents, to a standard normal distribution. Splines
    act within 5 standard deviations of each latent; beyond, they leave it as it is, so that far
    out the density falls off as a Gaussian does.

    Args:
        n_latent: Number S of latents.
        kind: One of `KINDS`.
        transforms: Number of transforms.
        hidden: Width of the hidden layers of each transform's network.
        layers: Number of these layers.
        bins: Of each spline; none in a "maf".

    Raises:
        InputError: There is no such kind, or a number is not positive.
        SpenderError: zuko is not installed.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        n_latent: int,
        kind: str = "nsf",
        transforms: int = 4,
        hidden: int = 64,
        layers: int = 2,
        bins: int = 8,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise InputError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
        numbers = (n_latent, transforms, hidden, layers)
        check_sizes("n_latent, transforms, hidden and layers", numbers)
        check_sizes("bins", [bins], least=2)
        self.n_latent = n_latent
        self.config = {"kind": kind, "transforms": transforms, "hidden": hidden, "layers": layers}
        own: dict[str, Any] = {}
        if kind == "nsf":
            self.config["bins"] = own["bins"] = bins
        flows = _zuko().flows
        made = (flows.NSF if kind == "nsf" else flows.MAF)(
            n_latent, transforms=transforms, hidden_features=(hidden,) * layers, **own
        )
        self.transform: nn.Module = made.transform
        _forget_constants(self.transform)
        self.register_buffer("mean", torch.zeros(n_latent))
        self.register_buffer("scale", torch.ones(n_latent))

    @torch.no_grad()
    def standardise(self, s_NS: Tensor) -> None:
        """Take mean and standard deviation of latents (N, S) as those of the flow.

        Raises:
            InputError: There are fewer than two rows, or a latent does not vary.
        """
        self._check(s_NS)
        s_NS = s_NS.double()
        if len(s_NS) < 2:
            raise InputError(f"latents must have 2 rows or more to have a scatter, not {len(s_NS)}")
        scale = s_NS.std(dim=0)
        still = (~(scale > 0)).nonzero()[:, 0].tolist()
        if still:
            raise InputError(
                f"latents {still} do not vary, so they have no density; leave them out, or train "
                "on a sample in which they do"
            )
        self.mean.copy_(s_NS.mean(dim=0))
        self.scale.copy_(scale)

    def check_state(self) -> None:
        """Check values read from a file: scales are positive.

        Raises:
            InputError: They are not.
        """
        if not bool(((self.scale > 0) & (self.scale < _LARGEST_SCALE)).all()):
            raise InputError(
                f"scale must be above 0 and below {_LARGEST_SCALE:g}, got {self.scale.tolist()}"
            )

    def log_prob(self, s_BS: Tensor) -> Tensor:
        """Return the log density at latents (B, S), shape (B,), in nats.

        Raises:
            InputError: The shape is another.
        """
        self._check(s_BS)
        x_BS = (s_BS.to(self.scale.dtype) - self.mean) / self.scale
        x_BS, log_det_B = self.transform().call_and_ladj(x_BS)
        constant = 0.5 * self.n_latent * math.log(2 * math.pi) + self.scale.log().sum()
        result: Tensor = log_det_B - 0.5 * x_BS.square().sum(dim=1) - constant
        return result

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n latents, shape (n, S)."""
        x_BS = torch.randn(
            n, self.n_latent, generator=generator, device=self.scale.device, dtype=self.scale.dtype
        )
        made: Tensor = self.transform().inv(x_BS)
        return made * self.scale + self.mean

    def _check(self, s_BS: Tensor) -> None:
        if s_BS.ndim != 2 or s_BS.shape[1] != self.n_latent:
            raise InputError(
                f"latents must have shape (B, {self.n_latent}), got {tuple(s_BS.shape)}"
            )


def _forget_constants(transform: nn.Module) -> None:
    """Keep masks and orders out of the state: the config tells them, no file may change them."""
    for module in transform.modules():
        for name, constant in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, constant, persistent=False)


def _zuko() -> Any:
    try:
        import zuko
    except ImportError as error:
        raise SpenderError(
            'this flow is made of zuko\'s transforms; pip install "spender-core[flow]"'
        ) from error
    return zuko
