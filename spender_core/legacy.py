"""Reads the .pt files of spender up to 0.3, without running any code in them.

A file holds {"model": state or [state, ...], "losses": ...} for an autoencoder, or the
bare state of an nflows flow. Layers that spender keeps as placeholders are dropped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spender_core.errors import MissingFileError, WeightsError
from spender_core.grid import Grid
from spender_core.weights import WAVE_REST

GRID_TOLERANCE = 0.01
"""Largest distance between the grids of a file and of an instrument, in pixels. Those of
spender are float32, which moves SDSS and BOSS nodes by up to 0.0045 pixel."""

# What numpy arrays and numbers need, under the module names of numpy 1 and 2, and nothing
# else: two functions that build them, and the types of plain numbers.
_REBUILD = {"_reconstruct": np.zeros(1).__reduce__()[0], "scalar": np.float64(0).__reduce__()[0]}
_ALLOWED: list[Any] = [
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int32, np.int64, np.bool_)),
    *(
        (function, f"{module}.multiarray.{name}")
        for name, function in _REBUILD.items()
        for module in ("numpy.core", "numpy._core")
    ),
]

_LAYER = re.compile(r"(encoder|decoder)\.mlp\.(?:mlp\.)?(\d+)\.(weight|bias|beta|gamma)")
_CONV = re.compile(r"encoder\.(conv[123]\.\d\.(?:weight|bias))")
_IGNORED = ("encoder.instrument.wave_obs", "encoder.instrument.skyline_mask")
_LSF = "encoder.instrument.lsf.weight"


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
    content = _safe_load(path)
    state, losses = content, None
    if isinstance(content, Mapping) and "model" in content:
        state, losses = content["model"], content.get("losses")
        if isinstance(state, (list, tuple)) and state:
            state = _choose(state, grid)
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{path} is not a spender file: it holds no dictionary of tensors")
    try:
        if "decoder.wave_rest" in state:
            return _autoencoder(dict(state), instrument, _plain(losses))
        if "_transform._transforms.0._shift" in state:
            return _flow(dict(state))
    except KeyError as error:
        raise WeightsError(f"{path} is not a complete spender file: it lacks {error}") from error
    except (IndexError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} is not a spender file: {error}") from error
    raise WeightsError(f"{path} is neither an autoencoder nor a flow of spender")


def _choose(states: Sequence[Any], grid: Grid | None) -> Any:
    if grid is None:
        return states[0]
    for state in states:
        wave = state.get(_IGNORED[0]) if isinstance(state, Mapping) else None
        if isinstance(wave, Tensor) and grid.pixel_offset(wave.double()) < GRID_TOLERANCE:
            return state
    return states[0]


def _safe_load(path: str | os.PathLike[str]) -> Any:
    if not os.path.exists(path):
        raise MissingFileError(f"there is no file {path}")
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage shows in many ways: struct.error, IndexError, ...
        text = str(error).rpartition("WeightsUnpickler error:")[2].strip()
        reason = text.splitlines()[0].split(" was not")[0] if text else type(error).__name__
        raise WeightsError(
            f"{path} cannot be read: it is damaged, or holds more than plain tensors and arrays "
            f"({reason}). Files that need other objects are refused, since they could run code"
        ) from error


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
    if unknown:
        raise WeightsError(f"tensors that spender 0.3 does not have: {', '.join(unknown[:8])}")
    encoder = f"encoders.{instrument}"
    filters = [tensors[f"{encoder}.conv{k}.0.weight"].shape[0] for k in (1, 2, 3)]
    first = f"{encoder}.mlp.0.weight"
    if tensors[first].shape[1] == filters[-1] // 2 + 1:
        tensors[first] = tensors[first][:, :-1].contiguous()  # an older redshift input
    decoder_widths = _widths(tensors, "decoder")
    latents = tensors["decoder.mlp.0.weight"].shape[1]
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
    affine, chain = "_transform._transforms.0.", "_transform._transforms.1._transforms."
    tensors = {"shift": state[f"{affine}_shift"], "scale": state[f"{affine}_scale"]}
    n_latent = len(tensors["shift"])
    count = 1 + max(
        int(name.removeprefix(chain).split(".")[0]) for name in state if name.startswith(chain)
    )
    permutations = [state[f"{chain}{k}._transforms.1._permutation"] for k in range(count)]
    tensors["permutations"] = torch.stack(permutations)
    blocks = 0
    for k in range(count):
        net = f"{chain}{k}._transforms.0.autoregressive_net."
        layers = {"initial": "initial_layer", "final": "final_layer"}
        blocks = 0
        while f"{net}blocks.{blocks}.linear.weight" in state:
            layers[f"blocks.{blocks}"] = f"blocks.{blocks}.linear"
            blocks += 1
        for ours, theirs in layers.items():
            for part in ("weight", "bias"):
                tensors[f"transforms.{k}.{ours}.{part}"] = state[f"{net}{theirs}.{part}"]
            _check_degrees(state, f"{net}{theirs}", n_latent, ours)
    hidden = len(tensors["transforms.0.initial.bias"])
    config = {"hidden": hidden, "transforms": count, "blocks": blocks}
    return Legacy("flow", "maf", config, tensors, n_latent)


def _check_degrees(state: Mapping[str, Tensor], layer: str, n_latent: int, name: str) -> None:
    degrees = state[f"{layer}.degrees"]
    if name == "final":
        expected = torch.arange(1, n_latent + 1).repeat_interleave(2)
    else:
        expected = torch.arange(len(degrees)) % max(1, n_latent - 1) + min(1, n_latent - 1)
    if not torch.equal(degrees, expected):
        raise WeightsError("this flow has random masks, which the flows of spender never have")


def _plain(losses: Any) -> Any:
    """Turn arrays and tensors within losses into lists of numbers."""
    if isinstance(losses, (np.ndarray, np.generic, Tensor)):
        return losses.tolist()
    if isinstance(losses, Mapping):
        return {str(key): _plain(value) for key, value in losses.items()}
    if isinstance(losses, (list, tuple)):
        return [_plain(value) for value in losses]
    return losses
