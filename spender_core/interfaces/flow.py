"""The interface of flows, which are densities of latents.

Shapes: B spectra, S latents.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import torch
from torch import Tensor, nn

from spender_core.records import ModelCard


class Flow(nn.Module, ABC):
    """A probability density of latents. Three members are required."""

    card: ModelCard | None = None
    """The card with which the flow was loaded."""

    config: dict[str, Any]
    """Keyword arguments, beside `n_latent`, with which the constructor makes this flow."""

    @abstractmethod
    def log_prob(self, s_BS: Tensor) -> Tensor:
        """Return the log of the density at latents (B, S), shape (B,), in nats."""

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n latents, shape (n, S)."""

    @classmethod
    def build(cls, card: ModelCard) -> Self:
        """Construct the flow that a card describes, with untrained weights."""
        return cls(**({"n_latent": card.latents} | card.config))
