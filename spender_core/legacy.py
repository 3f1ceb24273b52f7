"""Reads the .pt files of spender up to 0.3, without running any code in them.

A file holds {"model": state or [state, ...], "losses": ...} for an autoencoder, or the
bare state of an nflows flow. Layers that spender keeps as placeholders are dropped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spender_core import pickles
from spender_core.errors import WeightsError
from spender_core.grid import Grid
from spender_core.interfaces import Instrument
from spender_core.records import ModelCard, ServedInstrument, printable
from spender_core.weights import WAVE_REST

GRID_TOLERANCE = 0.01
"""Largest distance between the grids of a file and of an instrument, in pixels. Those of
spender are float32, which moves SDSS and BOSS nodes by up to 0.0045 pixel."""

MOST_LOSSES = 10_000
"""Numbers in the training losses of a file that are kept in its card."""
_DEEPEST_LOSSES = 16

_LAYER = re.compile(r"(encoder|decoder)\.mlp\.(?:mlp\.)?(\d+)\.(weight|bias|beta|gamma)")
_CONV = re.compile(r"encoder\.(conv[123]\.\d\.(?:weight|bias))")
_IGNORED = ("encoder.instrument.wave_obs", "encoder.instrument.skyline_mask")
_LSF = "encoder.instrument.lsf.weight"
_AFFINE, _CHAIN = "_transform._transforms.0.", "_transform._transforms.1._transforms."


@dataclass(frozen=True)
class Legacy:
    """A spender file in the terms of this package.

    Attributes:
        kind: "autoencoder" or "flow".
        architecture: Name of the architecture.
        config: Its arguments.
        tensors: Its state, with `wave_rest` for an autoencoder.
        latents: Number S of latents.
        wave_obs: The observed wavelengths stored in the file, if any, shape (L,).
        lsf_taps: Taps of the learned LSF, if any.
        losses: Training losses stored in the file, as plain lists; None if there are none.
    """

    kind: str
    architecture: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    latents: int
    wave_obs: Tensor | None = None
    lsf_taps: int | None = None
    losses: Any = None

    def fits(self, grid: Grid) -> bool:
        """Tell whether the file may have been made for this grid."""
        return self.wave_obs is None or grid.pixel_offset(self.wave_obs.double()) < GRID_TOLERANCE

    def card(self, instrument: Instrument, name: str, description: str) -> ModelCard:
        """Return a card of the file, as a model of an instrument."""
        served = ServedInstrument(
            name=instrument.name, grid=instrument.grid.sha256, lsf_taps=self.lsf_taps
        )
        return ModelCard(
            name=name,
            kind="flow" if self.kind == "flow" else "autoencoder",
            description=description,
            architecture=self.architecture,
            config=self.config,
            instruments=(served,),
            latents=self.latents,
            lsf="constant" if self.lsf_taps else "none",
            training={} if self.losses is None else {"losses": self.losses},
        )


def read(path: str | os.PathLike[str], instrument: str, grid: Grid | None = None) -> Legacy:
    """Read a spender file.

    Args:
        path: The .pt file.
        instrument: Name of the instrument it was made for; names its encoder.
        grid: Its grid. Of several models in a file, the first one made for this grid is
            taken; without it, as in spender, the first one.

    Raises:
        MissingFileError: There is no such file.
        WeightsError: It is no spender file, or holds something that is not plain data.
    """
    content = pickles.read(path)
    state, losses = content, None
    if isinstance(content, Mapping) and "model" in content:
        state, losses = content["model"], content.get("losses")
        if isinstance(state, (list, tuple)) and state:
            state = _choose(state, grid)
    try:
        return _converted(_tensors(state, Path(path).stat().st_size), instrument, losses)
    except KeyError as error:
        reason = f"is not a complete spender file: it lacks {printable(str(error))}"
    except (WeightsError, IndexError, TypeError, ValueError, RuntimeError) as error:
        reason = f"is not a spender file: {printable(str(error)[:500])}"
    raise WeightsError(f"{path} {reason}")


def _tensors(state: Any, size: int) -> dict[str, Tensor]:
    """Return the tensors of a state, which take no more than the `size` bytes of its file."""
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError("it holds no dictionary of tensors")
    if not all(isinstance(name, str) for name in state):
        raise WeightsError("its tensors have no names")
    if any(tensor.is_complex() for tensor in state.values()):
        raise WeightsError("it holds complex numbers")
    if sum(tensor.numel() * tensor.element_size() for tensor in state.values()) > size:
        raise WeightsError("its tensors share their numbers, so that they are more than the file")
    return dict(state)


def _converted(state: dict[str, Tensor], instrument: str, losses: Any) -> Legacy:
    if "decoder.wave_rest" in state:
        return _autoencoder(state, instrument, _plain(losses))
    if f"{_AFFINE}_shift" in state:
        return _flow(state)
    raise WeightsError("it holds neither an autoencoder nor a flow of spender")


def _choose(states: Sequence[Any], grid: Grid | None) -> Any:
    if grid is None:
        return states[0]
    for state in states:
        wave = state.get(_IGNORED[0]) if isinstance(state, Mapping) else None
        if not isinstance(wave, Tensor) or wave.is_complex():
            continue
        if grid.pixel_offset(wave.double()) < GRID_TOLERANCE:
            return state
    return states[0]


def _autoencoder(state: dict[str, Tensor], instrument: str, losses: Any) -> Legacy:
    tensors = {WAVE_REST: state.pop("decoder.wave_rest").double()}
    wave_obs = state.get(_IGNORED[0])
    kernel = state.pop(_LSF, None)
    if kernel is not None:
        # stored flipped, for a cross-correlation
        tensors[f"lsf.{instrument}.kernel"] = kernel.flatten().flip(0).contiguous()
    unknown = []
    for name, tensor in state.items():
        layer, conv = _LAYER.fullmatch(name), _CONV.fullmatch(name)
        if conv:
            tensors[f"encoders.{instrument}.{conv[1]}"] = tensor
        elif layer:
            # linear, activation, placeholder -> linear, activation
            block, part = divmod(int(layer[2]), 3)
            home = f"encoders.{instrument}" if layer[1] == "encoder" else "decoder"
            tensors[f"{home}.mlp.{2 * block + part}.{layer[3]}"] = tensor
        elif name not in _IGNORED:
            unknown.append(name)
    _refuse_unknown(unknown)
    encoder = f"encoders.{instrument}"
    filters = [tensors[f"{encoder}.conv{k}.0.weight"].shape[0] for k in (1, 2, 3)]
    first = f"{encoder}.mlp.0.weight"
    if tensors[first].shape[1] == filters[-1] // 2 + 1:
        tensors[first] = tensors[first][:, :-1].contiguous()  # an older redshift input
    decoder_widths = _widths(tensors, "decoder")
    latents = tensors["decoder.mlp.0.weight"].shape[1]
    _check_latents(latents)
    config = {
        "n_latent": latents,
        "filters": filters,
        "sizes": [tensors[f"{encoder}.conv{k}.0.weight"].shape[2] for k in (1, 2, 3)],
        "encoder_hidden": _widths(tensors, encoder)[:-1],
        "decoder_hidden": decoder_widths[:-1],
        "activation": "speculator" if "decoder.mlp.1.beta" in tensors else "leaky_relu",
        "lsf_taps": {} if kernel is None else {instrument: kernel.numel()},
    }
    return Legacy(
        "autoencoder",
        "spectrum_autoencoder",
        config,
        tensors,
        latents,
        wave_obs,
        None if kernel is None else kernel.numel(),
        losses,
    )


def _widths(tensors: Mapping[str, Tensor], prefix: str) -> list[int]:
    """Return the output widths of the linear layers of an MLP."""
    widths, layer = [], 0
    while (name := f"{prefix}.mlp.{layer}.weight") in tensors:
        widths.append(tensors[name].shape[0])
        layer += 2
    return widths


def _flow(state: dict[str, Tensor]) -> Legacy:
    tensors = {"shift": state.pop(f"{_AFFINE}_shift"), "scale": state.pop(f"{_AFFINE}_scale")}
    n_latent = len(tensors["shift"])
    _check_latents(n_latent)
    permutations: list[Tensor] = []
    blocks = 0
    while f"{_CHAIN}{len(permutations)}._transforms.1._permutation" in state or not permutations:
        home = f"{_CHAIN}{len(permutations)}._transforms."
        blocks = 0
        while f"{home}0.autoregressive_net.blocks.{blocks}.linear.weight" in state:
            blocks += 1
        layers = {"initial": "initial_layer", "final": "final_layer"}
        layers |= {f"blocks.{b}": f"blocks.{b}.linear" for b in range(blocks)}
        for ours, theirs in layers.items():
            layer = f"{home}0.autoregressive_net.{theirs}"
            for part in ("weight", "bias"):
                name = f"transforms.{len(permutations)}.{ours}.{part}"
                tensors[name] = state.pop(f"{layer}.{part}")
            _check_degrees(state.pop(f"{layer}.degrees"), n_latent, ours)
            state.pop(f"{layer}.mask", None)
        permutations.append(state.pop(f"{home}1._permutation"))
    _refuse_unknown(state)
    tensors["permutations"] = torch.stack(permutations)
    hidden = len(tensors["transforms.0.initial.bias"])
    config = {"hidden": hidden, "transforms": len(permutations), "blocks": blocks}
    return Legacy("flow", "maf", config, tensors, n_latent)


def _check_latents(count: int) -> None:
    if count < 1:
        raise WeightsError("it has no latents")


def _refuse_unknown(names: Iterable[str]) -> None:
    names = sorted(names)
    if names:
        shown = ", ".join(name[:80] for name in names[:8])
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        raise WeightsError(f"tensors that spender 0.3 does not have: {shown}{more}")


def _check_degrees(degrees: Tensor, n_latent: int, layer: str) -> None:
    if layer == "final":
        expected = torch.arange(1, n_latent + 1).repeat_interleave(2)
    else:
        expected = torch.arange(len(degrees)) % max(1, n_latent - 1) + min(1, n_latent - 1)
    if degrees.dtype != expected.dtype or not torch.equal(degrees, expected):
        raise WeightsError("this flow has random masks, which the flows of spender never have")


def _plain(losses: Any) -> Any:
    """Turn arrays and tensors within losses into lists of numbers; say so if they are too many."""
    try:
        return _Losses().plain(losses)
    except WeightsError as error:
        return f"left out: {error}"


class _Losses:
    """Counts numbers, which a file may hold once and list again and again."""

    def __init__(self) -> None:
        self._left = MOST_LOSSES

    def plain(self, value: Any, depth: int = 0) -> Any:
        self._left -= value.numel() if isinstance(value, Tensor) else getattr(value, "size", 1)
        if self._left < 0 or depth > _DEEPEST_LOSSES:
            raise WeightsError(f"more than {MOST_LOSSES} numbers, or nested too deeply")
        if isinstance(value, (np.ndarray, np.generic)):
            return value.tolist()
        if isinstance(value, Tensor) and not value.is_complex():
            return value.tolist()
        if isinstance(value, Mapping):
            return {printable(str(name)): self.plain(one, depth + 1) for name, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.plain(one, depth + 1) for one in value]
        if isinstance(value, str):
            return printable(value[:MOST_LOSSES])
        if value is not None and not isinstance(value, (bool, int, float)):
            raise WeightsError(f"a {type(value).__name__} among them, which is no number")
        return value
