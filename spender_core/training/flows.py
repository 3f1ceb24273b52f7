"""Flows trained on latents, by maximum likelihood.

Shapes: N objects, S latents.
"""

from __future__ import annotations

import copy
import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from spender_core import registry
from spender_core.errors import InputError, NonFiniteError
from spender_core.nn.layers import check_sizes
from spender_core.nn.zuko_flow import ZukoFlow
from spender_core.records import ModelCard

ARCHITECTURE = "zuko_flow"
_CHUNK = 8192
"""Latents whose density is computed together for the validation."""
_LEAST = 2
"""Objects that training and validation need at least, each."""


@dataclass(frozen=True)
class FlowSettings:
    """How a flow is made and trained.

    Attributes:
        kind: "nsf" or "maf", as of `ZukoFlow`; the next four too.
        transforms: Number of transforms.
        hidden: Width of the hidden layers.
        layers: Number of hidden layers.
        bins: Of each spline.
        epochs: Passes over the sample at most; the cosine schedule ends with the last.
        batch_size: Objects of a step.
        lr: Highest learning rate, which the first step has.
        weight_decay: Of AdamW.
        clip: Largest norm of a gradient.
        patience: Epochs without a better validation after which it stops.
        validation: Share of the objects that are validated on.
        seed: Of the split, the first weights and the order of objects.

    Raises:
        InputError: A number makes no sense.
    """

    kind: str = "nsf"
    transforms: int = 4
    hidden: int = 64
    layers: int = 2
    bins: int = 8
    epochs: int = 60
    batch_size: int = 512
    lr: float = 3e-3
    weight_decay: float = 1e-5
    clip: float = 5.0
    patience: int = 15
    validation: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        numbers = (self.epochs, self.batch_size, self.patience)
        check_sizes("epochs, batch_size and patience", numbers)
        check_sizes("seed", [self.seed], least=0)
        for name in ("lr", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be above 0, not {getattr(self, name)!r}")
        if not 0 < self.validation < 1:
            raise InputError(f"validation must be a share between 0 and 1, not {self.validation!r}")
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(f"weight_decay must be 0 or more, not {self.weight_decay!r}")


@dataclass(frozen=True)
class TrainedFlow:
    """A flow, and how its training went.

    Attributes:
        flow: With the weights of the best epoch, on the host.
        nll: Mean of -log p of the objects that were validated on, nats, at the best epoch.
        nll_error: Its standard error.
        epoch: The best one, from 1.
        history: Mean of -log p of training, in training, and of validation, of every epoch.
        trained: Number of objects trained on.
        validated: Number of objects validated on.
        settings: How it was trained.
    """

    flow: ZukoFlow
    nll: float
    nll_error: float
    epoch: int
    history: tuple[tuple[float, float], ...]
    trained: int
    validated: int
    settings: FlowSettings


def train_flow(
    s_NS: Tensor,
    settings: FlowSettings | None = None,
    *,
    ids: Sequence[str] | None = None,
    device: Any = "cpu",
    on_epoch: Callable[[int, float, float], None] | None = None,
) -> TrainedFlow:
    """Train a flow on latents, by maximum likelihood.

    AdamW with a cosine schedule; it stops early once the validation does not improve, and the
    best weights are kept. The same latents and settings give the same flow on one device and
    number of threads; the global random state is neither used nor changed.

    Args:
        s_NS: Latents, shape (N, S).
        settings: The defaults of `FlowSettings` if None.
        ids: One for each object: those of one id are all trained on, or all validated on, by the
            hash of id and seed. Without, the split is drawn by the seed.
        device: Of torch.
        on_epoch: Is told each epoch, from 1, and -log p of training and validation.

    Raises:
        InputError: Latents have another shape or are not finite, with how many of them; or there
            are too few.
        NonFiniteError: The likelihood became NaN or infinite.
        SpenderError: zuko is not installed.
    """
    settings = settings or FlowSettings()
    _check(s_NS)
    held_N = _held_out(len(s_NS), settings, ids)
    s_NS = s_NS.float()
    flow = _untrained(s_NS[~held_N], settings).to(device)
    train_NS, held_NS = s_NS[~held_N].to(device), s_NS[held_N].to(device)
    optimizer = torch.optim.AdamW(
        flow.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
    )
    steps = settings.epochs * math.ceil(len(train_NS) / settings.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(settings.seed)
    best = (math.inf, math.inf, 0)
    kept: dict[str, Tensor] = {}
    history: list[tuple[float, float]] = []
    for epoch in range(1, settings.epochs + 1):
        order = torch.randperm(len(train_NS), generator=generator).to(train_NS.device)
        flow.train()
        loss = _pass(flow, train_NS[order], settings, optimizer, schedule)
        nll, error = _validation(flow.eval(), held_NS)
        history.append((loss, nll))
        if not (math.isfinite(loss) and math.isfinite(nll)):
            raise NonFiniteError(
                f"-log p became {loss:g} in training and {nll:g} in validation at epoch {epoch}; "
                "lower lr, or look for latents far from all others"
            )
        if on_epoch is not None:
            on_epoch(epoch, loss, nll)
        if nll < best[0]:
            best, kept = (nll, error, epoch), copy.deepcopy(flow.state_dict())
        elif epoch - best[2] >= settings.patience:
            break
    flow.load_state_dict(kept)
    trained, validated = len(train_NS), len(held_NS)
    return TrainedFlow(flow.cpu(), *best, tuple(history), trained, validated, settings)


def save_flow(
    path: str | os.PathLike[str], made: TrainedFlow, model: ModelCard, name: str
) -> ModelCard:
    """Write a flow with a card that says of which latents it is, whole or not at all.

    Args:
        path: The .safetensors file.
        made: The flow.
        model: Card of the model that made the latents.
        name: Of the flow, letters, digits and underscores.

    Returns:
        The card as written, with the sha256 of the file.

    Raises:
        InputError: The model has another number of latents, or the name is not allowed.
        FileError: The file cannot be written.
    """
    if model.latents != made.flow.n_latent:
        raise InputError(
            f"{model.name!r} has {model.latents} latents, the flow is of {made.flow.n_latent}; "
            "give the model that made them"
        )
    try:
        card = ModelCard(
            name=name,
            kind="flow",
            description=f"Density of the latents of {model.name}",
            architecture=ARCHITECTURE,
            instruments=model.instruments,
            latents=made.flow.n_latent,
            z_range=model.z_range,
            normalisation=model.normalisation,
            parent=model.name,
            training={
                "method": "maximum likelihood of latents",
                "model": model.name,
                "model_sha256": model.sha256,
                "latents_trained": made.trained,
                "latents_validated": made.validated,
                "epochs": len(made.history),
                "settings": asdict(made.settings),
            },
            evaluation={
                "validation_nll": round(made.nll, 5),
                "validation_nll_error": round(made.nll_error, 5),
                "best_epoch": made.epoch,
            },
        )
    except ValueError as error:
        raise InputError(f"the flow cannot be named {name!r}: {error}") from error
    return registry.save(path, made.flow, card)


def _check(s_NS: Tensor) -> None:
    if s_NS.ndim != 2 or 0 in s_NS.shape:
        raise InputError(f"latents must have shape (N, S), got {tuple(s_NS.shape)}")
    bad = int((~s_NS.isfinite().all(dim=1)).sum())
    if bad:
        raise InputError(
            f"{bad} of {len(s_NS)} rows of latents hold NaN or infinity; leave these objects out"
        )


def _held_out(n: int, settings: FlowSettings, ids: Sequence[str] | None) -> Tensor:
    """Return which objects are validated on, shape (N,), bool."""
    if ids is None:
        order = torch.randperm(n, generator=torch.Generator().manual_seed(settings.seed))
        held_N = order < round(settings.validation * n)
    elif len(ids) != n:
        raise InputError(f"there are {len(ids)} ids for {n} rows of latents; give one for each")
    else:
        held_N = torch.tensor([_place(one, settings.seed) < settings.validation for one in ids])
    held = int(held_N.sum())
    if min(held, n - held) < _LEAST:
        raise InputError(
            f"of {n} objects, {held} are for validation and {n - held} for training; each needs "
            f"{_LEAST} or more: give more objects, or another share for validation"
        )
    return held_N


def _place(one: str, seed: int) -> float:
    """Return where an id stands between 0 and 1, evenly for all ids."""
    digest = hashlib.blake2b(f"{seed}/{one}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _untrained(s_NS: Tensor, settings: FlowSettings) -> ZukoFlow:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        flow = ZukoFlow(
            s_NS.shape[1],
            settings.kind,
            settings.transforms,
            settings.hidden,
            settings.layers,
            settings.bins,
        )
    flow.standardise(s_NS)
    return flow


def _pass(
    flow: ZukoFlow,
    s_NS: Tensor,
    settings: FlowSettings,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> float:
    """Train one epoch; return the mean of -log p on the way."""
    total = torch.zeros((), dtype=torch.float64)
    for part in s_NS.split(settings.batch_size):
        loss = -flow.log_prob(part).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), settings.clip)
        optimizer.step()
        schedule.step()
        total += float(loss.detach()) * len(part)
    return float(total) / len(s_NS)


@torch.no_grad()
def _validation(flow: ZukoFlow, s_NS: Tensor) -> tuple[float, float]:
    """Return the mean of -log p and its standard error."""
    nll_N = torch.cat([-flow.log_prob(part) for part in s_NS.split(_CHUNK)]).double()
    return float(nll_N.mean()), float(nll_N.std() / math.sqrt(len(nll_N)))
