"""One of several processes that compute the losses of a batch together, and what one computes.

    python tests/ranks.py FOLDER RANK WORLD

The processes meet in FOLDER and write there what each has found.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from objectives import Far, Near, autoencoder, gradients, inputs, with_gaps
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from spender_core.training.config import LossConfig
from spender_core.training.objective import Inputs, Losses, Objective, Weights


@dataclass(frozen=True)
class Case:
    """Losses of a batch, their weights, and how many spectra it has of each instrument."""

    weights: Weights
    config: LossConfig
    counts: dict[str, int]
    known: bool = True
    broken: bool = False
    gaps: bool = False


INSTRUMENTS = {"near": Near(), "far": Far()}
ALL = Weights(0.7, 3.0, 1.3, slope=4.0)
CASES = {
    "fidelity": Case(Weights(), LossConfig(), {"near": 9}),
    "sums": Case(Weights(), LossConfig(reduction="sum", normalize=True), {"near": 9}),
    "all, restframe": Case(ALL, LossConfig(similarity=3, consistency=1), {"near": 9}),
    "all, data": Case(ALL, LossConfig(similarity=3, similarity_form="data"), {"near": 9}),
    "all, sums": Case(ALL, LossConfig(similarity=3, reduction="sum"), {"near": 9}),
    "similarity": Case(Weights(0, 3.0), LossConfig(similarity=3), {"near": 9}),
    "consistency": Case(Weights(1.0, 0.0, 1.0), LossConfig(), {"near": 9}),
    "filled gaps": Case(
        ALL, LossConfig(similarity=3, consistency=1, normalize=True), {"near": 9}, gaps=True
    ),
    "two instruments": Case(ALL, LossConfig(similarity=3), {"near": 9, "far": 6}),
    "sizes that are asked for": Case(ALL, LossConfig(similarity=3), {"near": 9}, known=False),
    "a spectrum that is NaN": Case(ALL, LossConfig(), {"near": 9}, broken=True),
}


def batch(case: Case, rank: int = 0, world: int = 1) -> dict[str, Inputs]:
    """Return the spectra of a process: its part of all, of which the first are the larger."""
    made = {}
    for name, count in case.counts.items():
        whole = inputs(INSTRUMENTS[name], count)
        if case.broken:
            whole.flux[-1, 7] = torch.nan
        parts = tuple(count // world + (r < count % world) for r in range(world))
        first = sum(parts[:rank])
        own = slice(first, first + parts[rank])
        columns = ["flux", "ivar", "z", "flux_aug", "ivar_aug"]
        if case.gaps:
            whole = with_gaps(whole)
            columns += ["z_aug", "gaps_aug"]
        known = parts if case.known and world > 1 else None
        made[name] = Inputs(**{c: getattr(whole, c)[own] for c in columns}, parts=known)
    return made


def run(case: Case, rank: int = 0, world: int = 1) -> dict[str, Any]:
    """Return the values, and the gradients as data parallelism leaves them."""
    torch.manual_seed(5)
    used = [INSTRUMENTS[name] for name in case.counts]
    objective = Objective(autoencoder(*used), case.config)
    wrapped: Any = objective if world == 1 else DistributedDataParallel(objective)
    losses: Losses = wrapped(batch(case, rank, world), case.weights, {"far": 0.5})
    losses.total.backward()
    names = ("total", "fidelity", "similarity", "consistency", "finite")
    values: dict[str, Tensor] = {name: getattr(losses, name).detach() for name in names}
    each = {f"{name} {i}": row[i] for name, row in losses.each.items() for i in range(3)}
    return {
        "count": losses.count,
        "values": values | each,
        "gradients": gradients(objective.model),
    }


def main(folder: str, rank: int, world: int) -> None:
    """Compute all cases as one of the processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)
    found = {name: run(case, rank, world) for name, case in CASES.items()}
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
