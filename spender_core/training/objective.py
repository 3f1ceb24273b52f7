"""What training minimises: fidelity, similarity and consistency of a batch, over all processes.

The losses are those of `get_losses` of spender 0.3, and so is their sum: fidelity, plus amplitudes
times the raw similarity and consistency. Melchior et al. (2023, AJ 166, 74) have the first, Liang et
al. (2023, AJ 166, 75) the other two.

Nothing here looks at a value, for which the host would wait for a GPU: whether redshifts make
sense is to be asked on the host, before (`interfaces.redshifts.check_sensible`), and whether the
losses are finite is itself a tensor.

Shapes: B spectra of this process, N of all, L observed pixels, R restframe pixels, S latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from spender_core import losses
from spender_core.batch import SpectrumLSF
from spender_core.errors import InputError
from spender_core.interfaces import Model
from spender_core.losses import RestframePixels, SimilarityConfig
from spender_core.losses.distances import at_least_float32
from spender_core.ops.normalize import amplitude
from spender_core.training.config import LossConfig
from spender_core.training.gathering import gathered, own_part, parts_of, summed, world
from spender_core.training.ramps import at, positive


@dataclass(frozen=True)
class Inputs:
    """Spectra of one instrument, all tensors on the device and in the type of the model.

    Attributes:
        flux: Normalised spectra, shape (B, L).
        ivar: Inverse variances, shape (B, L).
        z: Redshifts, shape (B,), float64, finite and above -1.
        lsf: Line spread function of each spectrum, for models that use it.
        flux_aug: Augmented spectra, shape (B, L), for the consistency.
        ivar_aug: Their inverse variances.
        z_aug: Their redshifts, shape (B,), float64, where they have gaps to fill.
        gaps_aug: Where their reconstruction is to be added to them, shape (B, L), bool.
        parts: How many spectra of this batch each process has, if there are several. The
            processes tell each other if it is absent, for which the host waits.
    """

    flux: Tensor
    ivar: Tensor
    z: Tensor
    lsf: SpectrumLSF | None = None
    flux_aug: Tensor | None = None
    ivar_aug: Tensor | None = None
    z_aug: Tensor | None = None
    gaps_aug: Tensor | None = None
    parts: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Weights:
    """Amplitudes of the losses in one step, and the slope of the similarity."""

    fidelity: float = 1.0
    similarity: float = 0.0
    consistency: float = 0.0
    slope: float = SimilarityConfig.slope

    @classmethod
    def of(cls, config: LossConfig, share: float) -> Weights:
        """Return what the ramps of a recipe say where a share, 0 to 1, of the phase is done."""
        names = ("fidelity", "similarity", "consistency", "slope")
        return cls(**{name: at(getattr(config, name), share) for name in names})


@dataclass(frozen=True)
class Losses:
    """Losses of one step; tensors on the device, for the host to read when it likes.

    Attributes:
        total: What this process back-propagates, a scalar. The mean over processes of its
            gradients is the gradient of the loss of the whole batch.
        fidelity: Of the whole batch, a spectrum, without amplitude; detached, like the next.
        similarity: Likewise; 0 where its amplitude is.
        consistency: Likewise.
        finite: Whether all of them are; the same in every process.
        count: Number of spectra of the whole batch, over all instruments.
        each: The three losses, a spectrum, of each instrument, shape (3,).
    """

    total: Tensor
    fidelity: Tensor
    similarity: Tensor
    consistency: Tensor
    finite: Tensor
    count: int
    each: dict[str, Tensor] = field(default_factory=dict)


def similarity_settings(config: LossConfig) -> SimilarityConfig:
    """Return the hyperparameters of the similarity that a recipe has, but for the slope."""
    return SimilarityConfig(
        width=config.width, centre=config.centre, sigma=config.sigma, bound=config.bound
    )


class Objective(nn.Module):
    """The losses of a model, as a module that data parallelism can wrap.

    Args:
        model: What is trained.
        config: Which losses, and how; their amplitudes and the slope come with each step.

    Raises:
        InputError: The restframe has no pixel in the `bound` of the similarity.
    """

    def __init__(self, model: Model, config: LossConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self._settings = similarity_settings(config)
        # on the host, where grids are told from each other
        self._wave_rest = model.wave_rest
        self._waves = {
            name: torch.tensor(observer.wave) for name, observer in model.instruments.items()
        }
        self._pixels: dict[torch.device, RestframePixels] = {}
        if self._by_restframe and positive(config.similarity):
            self._pixels_on(torch.device("cpu"))

    def forward(
        self,
        inputs: Mapping[str, Inputs],
        weights: Weights,
        instrument_weights: Mapping[str, float] | None = None,
    ) -> Losses:
        """Return the losses of spectra of one or more instruments.

        In several processes, all call this with the same instruments in the same order.

        Args:
            inputs: Spectra by the name of their instrument; each process has its part of them.
            weights: Amplitudes of the losses.
            instrument_weights: Factors of each instrument's losses in the total; 1 if absent.

        Raises:
            InputError: There is nothing, or something is missing that a loss needs.
        """
        if not inputs:
            raise InputError(
                "there are no spectra to compute losses of; give some of an instrument"
            )
        factors = instrument_weights or {}
        totals, values, counts = [], [], []
        for name, given in inputs.items():
            parts = parts_of(len(given.flux), given.flux.device, given.parts)
            total, three = self._of_instrument(name, given, weights, parts)
            totals.append(factors.get(name, 1.0) * total)
            values.append(three)
            counts.append(sum(parts))
        sums_I3 = torch.stack(values)
        # the last two are those of the whole batch already
        sums_I3 = torch.cat([summed(sums_I3[:, :1]), sums_I3[:, 1:]], dim=1)
        fidelity, similarity, consistency = (sums_I3.sum(dim=0) / max(sum(counts), 1)).unbind()
        return Losses(
            total=torch.stack(totals).sum(),
            fidelity=fidelity,
            similarity=similarity,
            consistency=consistency,
            finite=sums_I3.isfinite().all(),
            count=sum(counts),
            each={
                name: row_3 / max(count, 1)
                for name, row_3, count in zip(inputs, sums_I3, counts, strict=True)
            },
        )

    def _of_instrument(
        self, name: str, given: Inputs, weights: Weights, parts: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Return what is back-propagated, and the three losses as sums, detached, shape (3,).

        The first of these is the sum over this process only.
        """
        s_BS = self.model.encode_weighted(given.flux, given.ivar, name)
        compared = weights.similarity > 0 or weights.consistency > 0
        s_NS = gathered(s_BS, parts) if compared else s_BS
        if weights.similarity > 0 and self._by_restframe:
            x_NR = self.model.decode(s_NS)
            x_BR = x_NR[own_part(parts)]
            similarity = self._restframe_similarity(s_NS, x_NR, weights)
        elif weights.similarity > 0:
            x_BR = self.model.decode(s_BS)
            similarity = self._data_similarity(s_NS, given, name, weights, parts)
        else:
            x_BR, similarity = self.model.decode(s_BS), None
        fidelity = self._fidelity(x_BR, given, name)
        # the mean of gradients over processes divides by their number, and those of this sum
        # come from one of them; of the losses below, every process has all
        total = weights.fidelity * world() * fidelity
        if similarity is not None:
            total = total + weights.similarity * similarity
        consistency = None
        if weights.consistency > 0:
            consistency = self._consistency(s_NS, x_BR, given, name, parts)
            total = total + weights.consistency * consistency
        if self.config.reduction == "mean":
            total = total / max(sum(parts), 1)
        none = torch.zeros_like(fidelity)
        three = [fidelity, *(none if loss is None else loss for loss in (similarity, consistency))]
        return total, torch.stack([loss.detach().to(fidelity) for loss in three])

    def _fidelity(self, x_BR: Tensor, given: Inputs, name: str) -> Tensor:
        """Return the sum over the spectra of this process."""
        lsf = given.lsf if self.model.uses_lsf else None
        if self.model.uses_lsf and lsf is None:
            raise InputError(
                f"this model needs the line spread function of each spectrum of {name!r}; read "
                "them with lsf=True"
            )
        # under autocast, half precision would tell spectra to 0.004 only
        x_BR = x_BR.to(at_least_float32(x_BR))
        y_BL, valid_BL = self.model.observe(x_BR, self.model.instruments[name], given.z, lsf)
        weight_BL = given.ivar * valid_BL
        if self.config.normalize:
            y_BL = y_BL * amplitude(y_BL, given.flux, weight_BL)[:, None]
        fidelity_B = losses.fidelity(given.flux, weight_BL, y_BL, individual=True)
        return (fidelity_B.log1p() if self.config.fidelity_form == "log" else fidelity_B).sum()

    def _restframe_similarity(self, s_NS: Tensor, x_NR: Tensor, weights: Weights) -> Tensor:
        return self._pixels_on(x_NR.device).similarity(s_NS, x_NR, self._similarity(weights))

    def _data_similarity(
        self, s_NS: Tensor, given: Inputs, name: str, weights: Weights, parts: Sequence[int]
    ) -> Tensor:
        wave_obs_L = self._waves[name]
        data_BR = losses.to_restframe(given.flux, given.ivar, wave_obs_L, self._wave_rest, given.z)
        flux_NR, ivar_NR = (gathered(part_BR, parts) for part_BR in data_BR)
        return losses.similarity(s_NS, flux_NR, ivar_NR, self._similarity(weights))

    def _consistency(
        self, s_NS: Tensor, x_BR: Tensor, given: Inputs, name: str, parts: Sequence[int]
    ) -> Tensor:
        if given.flux_aug is None or given.ivar_aug is None:
            raise InputError(
                f"the consistency compares with augmented spectra, of which {name!r} has none; give "
                "flux_aug and ivar_aug, or set the amplitude of the consistency to 0"
            )
        flux_aug_BL = self._filled(x_BR, given, name, given.flux_aug)
        s_aug_BS = self.model.encode_weighted(flux_aug_BL, given.ivar_aug, name)
        return losses.consistency(
            s_NS, gathered(s_aug_BS, parts), scale=self.config.consistency_scale
        )

    @torch.no_grad()
    def _filled(self, x_BR: Tensor, given: Inputs, name: str, flux_aug_BL: Tensor) -> Tensor:
        """Return augmented spectra with reconstructions in their gaps."""
        if given.gaps_aug is None:
            return flux_aug_BL
        if given.z_aug is None:
            raise InputError(f"gaps of {name!r} are filled at a redshift; give z_aug, too")
        observer = self.model.instruments[name]
        lsf = given.lsf if self.model.uses_lsf else None
        x_BR = x_BR.to(at_least_float32(x_BR))
        y_BL, _ = self.model.observe(x_BR, observer, given.z_aug, lsf)
        if self.config.normalize:
            here_BL, valid_BL = self.model.observe(x_BR, observer, given.z, lsf)
            factor_B = amplitude(here_BL, given.flux, given.ivar * valid_BL)
            y_BL = y_BL * factor_B[:, None]
        return torch.where(given.gaps_aug, flux_aug_BL + y_BL.to(flux_aug_BL), flux_aug_BL)

    @property
    def _by_restframe(self) -> bool:
        return self.config.similarity_form == "restframe"

    def _similarity(self, weights: Weights) -> SimilarityConfig:
        return replace(self._settings, slope=weights.slope)

    def _pixels_on(self, device: torch.device) -> RestframePixels:
        if device not in self._pixels:
            found = RestframePixels.of(self._wave_rest, self._settings)
            self._pixels[device] = found.to(device)
        return self._pixels[device]
