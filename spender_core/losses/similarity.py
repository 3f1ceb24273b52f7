"""Losses that make distances between latents follow those between spectra.

They are those of spender 0.3 (`spender.loss`), in values and gradients; the idea is that of
Liang et al. (2023, AJ 166, 75), section 2. Shapes: B spectra, R restframe pixels, S latents.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from spender_core.errors import InputError
from spender_core.losses.distances import at_least_float32, distances, pair_distances, wide
from spender_core.losses.restframe import restframe_weight
from spender_core.ops.resample import on_host


@dataclass(frozen=True)
class SimilarityConfig:
    """Hyperparameters of the similarity losses, with the values of spender 0.3.

    Attributes:
        slope: Steepness of the sigmoids that compare distances of latents and of spectra.
            Pairs of which they differ by more than `width / (2 * slope)`, in units of the mean
            distance, are penalised. Often annealed in training (`dataclasses.replace`).
        width: Distance of the two sigmoids from each other. A pair that agrees costs
            `2 * sigmoid(-width / 2)`, 0.15, one that does not, up to 1.
        centre: Where the restframe counts most, Angstrom.
        sigma: How fast the weight falls from there, Angstrom; see `restframe_weight`.
        bound: Restframe range in which spectra are normalised by their median, Angstrom;
            its ends do not belong to it.
    """

    slope: float = 5.0
    width: float = 5.0
    centre: float = 5000.0
    sigma: float = 2000.0
    bound: tuple[float, float] = (4000.0, 7000.0)


class Similarity(NamedTuple):
    """Distances of all pairs in units of their mean, and the loss of each; shape (B, B)."""

    latents: Tensor
    spectra: Tensor
    loss: Tensor


Scale = Literal["variance", "typical"]
"""In what unit the consistency measures distances."""


class Consistency(NamedTuple):
    """Squared distances of latents in units of their variance, and the losses; shape (B,)."""

    distance: Tensor
    loss: Tensor


_DEFAULT = SimilarityConfig()


@dataclass(frozen=True)
class RestframePixels:
    """What `similarity_restframe` makes of a restframe grid, once for many batches.

    Attributes:
        weight: Of each pixel, shape (R,).
        first: First pixel of those whose median normalises spectra.
        last: The one after the last.
    """

    weight: Tensor
    first: int
    last: int

    @classmethod
    def of(cls, wave_rest_R: Tensor, config: SimilarityConfig = _DEFAULT) -> RestframePixels:
        """Find the pixels of a grid, shape (R,), strictly increasing, Angstrom.

        Raises:
            InputError: No pixel is in `config.bound`.
        """
        wave_R = wave_rest_R.detach().to(wide(wave_rest_R.device))
        low, high = wave_R.new_tensor(config.bound)
        first = int(torch.searchsorted(wave_R, low, right=True))
        last = int(torch.searchsorted(wave_R, high))
        if first >= last:
            raise InputError(
                f"no restframe pixel is between {config.bound[0]:g} and {config.bound[1]:g} "
                f"Angstrom: the grid covers {float(wave_R[0]):.0f} to {float(wave_R[-1]):.0f}; "
                "set `bound` of the config"
            )
        weight_R = restframe_weight(wave_R, config.centre, config.sigma) / len(wave_R)
        return cls(weight_R, first, last)

    def to(self, device: torch.device) -> RestframePixels:
        """Return them on a device."""
        return replace(self, weight=self.weight.to(device, wide(device)))

    def distances(self, x_BR: Tensor) -> Tensor:
        """Return the distances of spectra (B, R) on this device, normalised, shape (B, B)."""
        return distances(x_BR, self.weight, _median(x_BR, self.first, self.last))

    def similarity(self, s_BS: Tensor, x_BR: Tensor, config: SimilarityConfig) -> Tensor:
        """Return what `similarity_restframe` does, of latents (B, S) and spectra (B, R)."""
        return _total(_compare(s_BS, self.distances(x_BR), config), s_BS)


@overload
def similarity_restframe(
    s_BS: Tensor,
    x_BR: Tensor,
    wave_rest_R: Tensor,
    config: SimilarityConfig = ...,
    individual: Literal[False] = False,
) -> Tensor: ...
@overload
def similarity_restframe(
    s_BS: Tensor,
    x_BR: Tensor,
    wave_rest_R: Tensor,
    config: SimilarityConfig = ...,
    *,
    individual: Literal[True],
) -> Similarity: ...
def similarity_restframe(
    s_BS: Tensor,
    x_BR: Tensor,
    wave_rest_R: Tensor,
    config: SimilarityConfig = _DEFAULT,
    individual: bool = False,
) -> Tensor | Similarity:
    """Compare distances between latents with those between the spectra decoded from them.

    Spectra are divided by their median in `config.bound`, unless it is 0, and pixels weighted
    with `restframe_weight`. Both distances are in units of their mean over the pairs of the batch.

    Args:
        s_BS: Latents, shape (B, S).
        x_BR: The restframe spectra decoded from them, shape (B, R).
        wave_rest_R: Their wavelengths, shape (R,), strictly increasing, Angstrom.
        config: Hyperparameters.
        individual: Return what the sum is made of instead.

    Returns:
        The sum over all ordered pairs divided by B, a scalar of the type of `s_BS`, but at least
        float32; or a `Similarity`. A batch without pairs or without differences, for which
        spender returns NaN, has distances of 0, and without pairs a loss of 0. A spectrum that
        is NaN makes all distances NaN, since it belongs to their mean. Gradients flow to `s_BS`
        and `x_BR`.

    Raises:
        InputError: Shapes do not fit, or no pixel is in `config.bound`.
    """
    _check(s_BS, x_BR, wave_rest=wave_rest_R)
    pixels = RestframePixels.of(wave_rest_R, config).to(x_BR.device)
    compared = _compare(s_BS, pixels.distances(x_BR), config)
    return _each(compared, s_BS) if individual else _total(compared, s_BS)


@overload
def similarity(
    s_BS: Tensor,
    flux_BR: Tensor,
    weight_BR: Tensor,
    config: SimilarityConfig = ...,
    individual: Literal[False] = False,
) -> Tensor: ...
@overload
def similarity(
    s_BS: Tensor,
    flux_BR: Tensor,
    weight_BR: Tensor,
    config: SimilarityConfig = ...,
    *,
    individual: Literal[True],
) -> Similarity: ...
def similarity(
    s_BS: Tensor,
    flux_BR: Tensor,
    weight_BR: Tensor,
    config: SimilarityConfig = _DEFAULT,
    individual: bool = False,
) -> Tensor | Similarity:
    """Compare distances between latents with those between observed spectra, in the restframe.

    Distances of spectra are in units of the error of their difference, over the pixels that
    both have, as in `spender.loss.similarity_loss`, and then, as those of latents, in units of
    their mean. `to_restframe` makes the arguments from a batch.

    Args:
        s_BS: Latents, shape (B, S).
        flux_BR: The spectra that they encode, in the restframe, shape (B, R), finite.
        weight_BR: Inverse variances, shape (B, R); up to 1e-6 a pixel counts as masked.
        config: Hyperparameters; `slope` and `width` are used.
        individual: Return what the sum is made of instead.

    Returns:
        As `similarity_restframe`. Gradients flow to all tensors; that of a masked weight is 0,
        where spender has NaN.

    Raises:
        InputError: Shapes do not fit.
    """
    _check(s_BS, flux_BR, weights=weight_BR)
    compared = _compare(s_BS, pair_distances(flux_BR, weight_BR), config)
    return _each(compared, s_BS) if individual else _total(compared, s_BS)


@overload
def consistency(
    s_BS: Tensor,
    s_aug_BS: Tensor,
    individual: Literal[False] = False,
    scale: Scale = "variance",
) -> Tensor: ...
@overload
def consistency(
    s_BS: Tensor, s_aug_BS: Tensor, individual: Literal[True], scale: Scale = "variance"
) -> Consistency: ...
def consistency(
    s_BS: Tensor, s_aug_BS: Tensor, individual: bool = False, scale: Scale = "variance"
) -> Tensor | Consistency:
    """Penalise latents that change when the spectrum is augmented (`spender.consistency_loss`).

    The squared distance is in units of the variance of a latent across the batch, through
    which gradients flow, too: shrinking all latents does not lower the loss. A few unusual
    objects far from all others make the variance large and the loss lenient to the others. With
    `scale="typical"` the unit is half the geometric mean of the squared distances between two
    objects, which they hardly change; of latents with a normal distribution it is a little
    smaller than the variance (0.84 of it for S = 6).

    Args:
        s_BS: Latents of the spectra, shape (B, S).
        s_aug_BS: Latents of their augmented versions, shape (B, S).
        individual: Return the values of each spectrum instead of their sum.
        scale: The unit of distances, "variance" as in spender, or "typical".

    Returns:
        A scalar of the type of `s_BS`, but at least float32, 0 if nothing changes and at most
        B / 2; or a `Consistency`. Where spender has NaN, values are finite: a batch of fewer than
        two spectra has no variance, and distances of 0; latents that are all alike have a
        variance of 0, and distances are in units of the latents.

    Raises:
        InputError: Shapes do not fit.
    """
    if s_BS.ndim != 2 or s_BS.shape != s_aug_BS.shape or s_BS.shape[1] == 0:
        raise InputError(
            "latents and those of augmented spectra must both have shape (B, S), got "
            f"{tuple(s_BS.shape)} and {tuple(s_aug_BS.shape)}; encode both in the same order"
        )
    dtype = at_least_float32(s_BS)
    # wide, since squares of small latents vanish in float32
    s_BS, s_aug_BS = (tensor.to(wide(s_BS.device)) for tensor in (s_BS, s_aug_BS))
    distance_B = (s_aug_BS - s_BS).square().mean(dim=1)
    unit = _typical if scale == "typical" else _variance
    share = 1 / _or_one(unit(s_BS)) if len(s_BS) > 1 else 0
    distance_B = share * distance_B
    loss_B = torch.sigmoid(distance_B) - 0.5
    if individual:
        return Consistency(distance_B.to(dtype), loss_B.to(dtype))
    return loss_B.sum().to(dtype)


def _variance(s_BS: Tensor) -> Tensor:
    """Return the variance of latents, averaged over them."""
    return s_BS.var(dim=0).mean()


def _typical(s_BS: Tensor) -> Tensor:
    """Return half the geometric mean of squared distances, a latent, of two different objects."""
    count, latents = s_BS.shape
    squares_BB = distances(s_BS, s_BS.new_full((latents,), 1 / latents))
    # the diagonal counts as 1, whose logarithm is 0; equal latents as nearly equal ones
    least = torch.finfo(squares_BB.dtype).tiny
    same_BB = torch.eye(count, dtype=torch.bool, device=squares_BB.device)
    logs_BB = squares_BB.clamp(min=least).masked_fill(same_BB, 1).log()
    return 0.5 * (logs_BB.sum() / (count * (count - 1))).exp()


def _compare(s_BS: Tensor, spectra_BB: Tensor, config: SimilarityConfig) -> Similarity:
    """Turn distances of spectra, and latents, into the losses of pairs, all in float64."""
    share_S = s_BS.new_full((s_BS.shape[1],), 1 / s_BS.shape[1], dtype=at_least_float32(s_BS))
    latents_BB = _over_mean(distances(s_BS, share_S))
    spectra_BB = _over_mean(spectra_BB)
    steep_BB = config.slope * (latents_BB - spectra_BB)
    half = 0.5 * config.width
    loss_BB = torch.sigmoid(steep_BB - half) + torch.sigmoid(-steep_BB - half)
    loss_BB = loss_BB - loss_BB.diagonal().diag()  # exactly 0, and so are its gradients
    return Similarity(latents_BB, spectra_BB, loss_BB)


def _each(compared: Similarity, s_BS: Tensor) -> Similarity:
    return Similarity(*(values_BB.to(at_least_float32(s_BS)) for values_BB in compared))


def _total(compared: Similarity, s_BS: Tensor) -> Tensor:
    return (compared.loss.sum() / max(len(s_BS), 1)).to(at_least_float32(s_BS))


def _over_mean(distance_BB: Tensor) -> Tensor:
    """Return distances in units of their mean over pairs of two spectra; 0 if all are 0."""
    n = len(distance_BB)
    return distance_BB * (n * (n - 1)) / _or_one(distance_BB.sum())


def _or_one(scale: Tensor) -> Tensor:
    """Return what to divide by: 1 instead of 0, and NaN where it is NaN, which is to be seen."""
    return torch.where(scale == 0, torch.ones_like(scale), scale)


def _median(x_BR: Tensor, first: int, last: int) -> Tensor:
    """Return the lower median of a range of pixels of each spectrum, 1 where it is 0, shape (B,).

    The gradient goes to the pixel that is the median, as that of `torch.median` does; of several
    equal ones, to any.
    """
    where_B = _where_median(x_BR.detach()[:, first:last]) + first
    return _or_one(x_BR.gather(1, where_B[:, None])[:, 0])


def _where_median(x_BR: Tensor) -> Tensor:
    """Return a pixel that holds the lower median of each row, shape (B,)."""
    if not on_host(x_BR) or x_BR.dtype not in (torch.float32, torch.float64):
        return x_BR.median(dim=1).indices
    middle = (x_BR.shape[1] - 1) // 2
    # numpy selects with vector instructions, several times faster than torch on a host
    return torch.from_numpy(np.argpartition(x_BR.numpy(), middle, axis=1)[:, middle])


def _check(s_BS: Tensor, x_BR: Tensor, **other: Tensor) -> None:
    """Refuse latents, spectra, and what goes with the latter, if their shapes do not fit."""
    ((name, tensor),) = other.items()
    expected = x_BR.shape[-tensor.ndim :] if tensor.ndim else None
    rows = s_BS.ndim == 2 and x_BR.ndim == 2 and len(s_BS) == len(x_BR)
    if rows and tensor.shape == expected and min(s_BS.shape[1], x_BR.shape[1]) > 0:
        return
    raise InputError(
        "latents must have shape (B, S), spectra (B, R), wave_rest (R,) and weights (B, R), got "
        f"{tuple(s_BS.shape)}, {tuple(x_BR.shape)} and {name} {tuple(tensor.shape)}"
    )
