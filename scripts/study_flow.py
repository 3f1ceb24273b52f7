"""How far flows are from densities that are known: KL divergence in nats, on samples held out.

    python scripts/study_flow.py [NUMBER]

NUMBER samples, 100,000 by default, of two densities: a bent one with two arms in 2 dimensions,
and a correlated one with a bend in 6.
"""

from __future__ import annotations

import math
import sys
import time

import torch
from torch import Tensor

from spender_core.training.flows import FlowSettings, train_flow

_HELD = 200_000


def bent(n: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw from a density with a banana and, in 2 dimensions, two arms; return its logarithm too.

    Args:
        n: Number of samples.
        size: Number S of dimensions.
        seed: Of the samples.

    Returns:
        Samples, shape (n, S), and their log densities, shape (n,), float64.
    """
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(n, size, generator=generator, dtype=torch.float64)
    log_p = torch.zeros(n, dtype=torch.float64)
    if size == 2:
        arm = torch.randint(2, (n,), generator=generator).double() * 2 - 1
        u[:, 0] += 2.0 * arm
        parts = [-0.5 * (u[:, 0] - 2.0 * side).square() for side in (-1, 1)]
        log_p += torch.logsumexp(torch.stack(parts), dim=0) - math.log(2)
        log_p -= 0.5 * u[:, 1].square()
    else:
        log_p -= 0.5 * u.square().sum(dim=1)
    log_p -= 0.5 * size * math.log(2 * math.pi)
    x = u.clone()
    x[:, 1] += 0.5 * (u[:, 0].square() - 1)  # volume is kept
    mixing = torch.eye(size, dtype=torch.float64) + 0.5 * torch.ones(size, size).double().tril(-1)
    return x @ mixing.T, log_p  # of determinant 1


def main(number: int) -> None:
    """Train and compare."""
    for size in (2, 6):
        latents, _ = bent(number, size, 1)
        held, log_p = bent(_HELD, size, 2)
        for kind in ("nsf", "maf"):
            began = time.perf_counter()
            settings = FlowSettings(kind, epochs=16, batch_size=1024, transforms=3)
            made = train_flow(latents, settings)
            with torch.no_grad():
                log_q = torch.cat([made.flow.log_prob(part.float()) for part in held.split(8192)])
            gap = log_p - log_q.double()
            error = float(gap.std()) / math.sqrt(_HELD)
            spent = time.perf_counter() - began
            print(
                f"{size}-D {kind}: KL {float(gap.mean()):.4f} +- {error:.4f} nats, {spent:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
