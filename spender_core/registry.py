"""Models and instruments by name: what is installed, and how to get it.

    >>> from spender_core import registry
    >>> instrument, model = registry.load("sdss_demo")

Listing needs neither torch nor astropy; they are imported when something is loaded.
"""

from __future__ import annotations

import builtins
import os
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spender_core.errors import (
    FileError,
    GridError,
    InputError,
    MissingFileError,
    PluginError,
    SpenderError,
    UnknownNameError,
    WeightsError,
)
from spender_core.plugins.manager import Discovery, import_target
from spender_core.records import ModelCard, PluginStatus, ServedInstrument

if TYPE_CHECKING:
    from spender_core.interfaces import Flow, Instrument, Model

_NO_SPECTRUM_LSF = "which this version of spender-core cannot apply"
_PUBLISHED = "The published models come with the plugins spender-sdss and spender-desi."


@cache
def discovery() -> Discovery:
    """Return what the installed plugins offer; examined once a process."""
    return Discovery()


def list() -> builtins.list[str]:
    """Return the names of all models that the installed plugins offer."""
    return discovery().names("model")


def info(name: str) -> ModelCard:
    """Return the card of a model, by name, or by the path of its file.

    Raises:
        UnknownNameError: No plugin offers it.
        DuplicateNameError: Several do.
    """
    if is_file(name):
        from spender_core import weights

        if name.endswith(".pt"):
            raise InputError(f"{name} has no card; give it one with `spender convert`")
        return weights.read(_local(name))[0]
    card: ModelCard = discovery().get("model", name, _PUBLISHED)
    return card


def plugins() -> builtins.list[PluginStatus]:
    """Return every installed plugin: its version, what it offers, or why it failed."""
    return discovery().statuses()


def instruments() -> builtins.list[str]:
    """Return the names of all instruments that the installed plugins offer."""
    return discovery().names("instrument")


@cache
def instrument(name: str) -> Instrument:
    """Return an instrument by name.

    Raises:
        UnknownNameError: No plugin offers it.
        DuplicateNameError: Several do.
    """
    spec = discovery().get("instrument", name, _PUBLISHED)
    factory = import_target(spec.target)
    try:
        made: Instrument = factory()
    except Exception as error:
        raise PluginError(f"cannot make instrument {name!r}, {spec.target}: {error}") from error
    return made


def _working(names: Iterable[str]) -> builtins.list[Instrument]:
    """Return the installed ones of some instruments, without those that cannot be made."""
    made = []
    for name in [name for name in names if name in instruments()]:
        with suppress(PluginError):
            made.append(instrument(name))
    return made


def recognise(url: str) -> Instrument:
    """Return the instrument that a file of spectra comes from, by its content.

    Raises:
        FileError: The file cannot be read, or no installed instrument knows it.
    """
    for candidate in _working(instruments()):
        if candidate.loader is not None and candidate.loader.recognises(url):
            return candidate
    raise FileError(
        f"{url} is not a file of an installed instrument ({', '.join(instruments()) or 'none'}); "
        "install the plugin of its survey"
    )


def embedded(instrument: str) -> ModelCard | None:
    """Return the card of the autoencoder that an instrument's plugin brings along, if any."""
    package = discovery().get("instrument", instrument).target.partition(":")[0].partition(".")[0]
    for name in list():
        card = info(name)
        if (
            card.kind == "autoencoder"
            and card.weights.startswith(f"package:{package}/")
            and card.serves(instrument)
        ):
            return card
    return None


def load(
    source: str | os.PathLike[str], instrument: str | None = None, device: Any = "cpu"
) -> tuple[Instrument, Any]:
    """Load a model, ready for evaluation, with the instrument it was made for.

    Args:
        source: Name of a model, path of a weights file, or URL of one. Files written by
            spender up to 0.3 (.pt) are read too.
        instrument: Which of the instruments of a joint model; its first by default. For
            a .pt file, the instrument it was trained on, unless its grid tells.
        device: Where to put the model.

    Returns:
        The instrument, and the `Model`, or for a card of kind "flow" the `Flow`.

    Raises:
        UnknownNameError: There is no such model or instrument.
        WeightsError: The file does not fit its card, or was altered.
        OfflineError: The file must be downloaded and cannot be.
    """
    source = os.fspath(source)
    if is_file(source):
        path = _local(source)
        card = _published(path) if path.suffix == ".pt" else None
    else:
        card = info(source)
        path = _weights_of(card)
    from spender_core import weights

    if path.suffix == ".pt":
        card, tensors = _from_legacy(path, card, instrument)
    else:
        stored, tensors = weights.read(path)
        card = stored if card is None else _agreeing(card, stored, path)
    architecture = import_target(discovery().get("architecture", card.architecture).target)
    served = _instruments_of(card, instrument)
    model: Any
    if card.kind == "flow":
        model = _build(architecture, card)
    else:
        absent = {entry.name for entry in card.instruments} - {one.name for one in served}
        tensors = {name: t for name, t in tensors.items() if not _belongs(name, absent)}
        if weights.WAVE_REST not in tensors:
            raise WeightsError(f"{path} holds no {weights.WAVE_REST}, so its restframe is unknown")
        model = _build(architecture, card, served, tensors.pop(weights.WAVE_REST))
    if card.lsf == "per_spectrum":
        raise WeightsError(f"{path} needs an LSF of each spectrum, {_NO_SPECTRUM_LSF}")
    weights.restore(model, tensors, str(path))
    model.card = card
    try:
        return served[0], model.eval().to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"cannot put the model on device {device!r}: {reason}") from error


def save(path: str | os.PathLike[str], model: Model | Flow, card: ModelCard) -> ModelCard:
    """Write a model to a safetensors file that describes itself.

    The card's config and instruments are taken from the model, so that they fit.

    Returns:
        The card as written, with the sha256 of the file.

    Raises:
        InputError: The card names another architecture or number of latents.
        FileError: The file cannot be written; nothing is left behind.
    """
    from spender_core import weights
    from spender_core.interfaces import Model as ModelType

    architecture = import_target(discovery().get("architecture", card.architecture).target)
    if type(model) is not architecture:
        raise InputError(
            f"the card names the architecture {card.architecture!r} ({architecture.__name__}), "
            f"but the model is a {type(model).__name__}"
        )
    changes: dict[str, Any] = {"config": model.config}
    if isinstance(model, ModelType):
        if len(model.calibration):
            raise InputError(
                f"the calibration of {', '.join(model.calibration)} cannot be stored in a file; "
                "take it off with model.calibration.clear(), and keep it beside the file"
            )
        changes["lsf"] = "constant" if len(model.lsf) else "none"
        changes["instruments"] = tuple(
            ServedInstrument(name=name, grid=one.grid.sha256, lsf_taps=_taps(model, name))
            for name, one in model.instruments.items()
        )
    if card.lsf == "per_spectrum":
        raise InputError(f"the card says lsf per_spectrum, {_NO_SPECTRUM_LSF}")
    kind = "autoencoder" if isinstance(model, ModelType) else "flow"
    if card.kind != kind:
        raise InputError(f"the card is of kind {card.kind!r}, the model of kind {kind!r}")
    latents = model.config.get("n_latent", getattr(model, "n_latent", card.latents))
    if latents != card.latents:
        raise InputError(f"the card says {card.latents} latents, the model has {latents}")
    described = card.model_copy(update=changes | {"weights": "", "file_format": "safetensors"})
    if not described.instruments:
        raise InputError("the card of a flow must name the instrument of its model")
    digest = weights.write(path, model, described)
    return described.model_copy(update={"sha256": digest})


def pull(name: str) -> Path:
    """Bring the weights of a model into the cache, and return their path."""
    return _weights_of(info(name))


def _taps(model: Model, instrument: str) -> int | None:
    """Return the size of the learned LSF kernel of an instrument, if it has one."""
    if instrument not in model.lsf:
        return None
    kernel = getattr(model.lsf[instrument], "kernel", None)
    return None if kernel is None else int(kernel.numel())


def _belongs(tensor: str, instruments: set[str]) -> bool:
    """Tell whether a tensor is part of the encoder or LSF of one of the instruments."""
    part, _, rest = tensor.partition(".")
    return part in ("encoders", "lsf") and rest.partition(".")[0] in instruments


def _build(architecture: Any, card: ModelCard, *arguments: Any) -> Any:
    try:
        return architecture.build(card, *arguments)
    except SpenderError:
        raise
    except Exception as error:
        raise WeightsError(
            f"the config of {card.name!r} makes no {architecture.__name__}: {error}"
        ) from error


def is_file(source: str) -> bool:
    """Tell whether a source names a file, by path or URL, rather than a model."""
    return "/" in source or os.sep in source or source.endswith((".pt", ".safetensors"))


def _local(source: str) -> Path:
    if "://" in source and not source.startswith("file://"):
        from spender_core.archives.download import fetch

        return fetch(source, "")
    return Path(source.removeprefix("file://"))


def _weights_of(card: ModelCard) -> Path:
    """Return the path of a card's weights, with their hash checked."""
    if card.weights.startswith("package:"):
        package, _, file = card.weights.removeprefix("package:").partition("/")
        try:
            path = Path(str(resources.files(package) / file))
        except ModuleNotFoundError as error:
            raise WeightsError(f"the package {package} of {card.weights} is missing") from error
        if not path.exists():
            raise MissingFileError(f"there is no file {path}; install {package} again")
        from spender_core.archives.writing import file_sha256

        found = file_sha256(path)
        if not card.sha256 or not found.startswith(card.sha256):
            raise WeightsError(
                f"{path} has sha256 {found}, its card says {card.sha256 or 'nothing'}; install "
                f"{package.replace('_', '-')} again"
            )
        return path
    if not card.weights:
        raise WeightsError(f"the card of {card.name!r} does not say where its weights are")
    from spender_core.archives.download import fetch

    return fetch(card.weights, card.sha256)


def _published(path: Path) -> ModelCard | None:
    """Return the card of a file that a plugin knows by its name and hash, if one does."""
    from spender_core.archives.writing import file_sha256

    for name in list():
        card = info(name)
        if card.weights.rpartition("/")[2] == path.name and path.exists():
            return card if card.sha256 and file_sha256(path).startswith(card.sha256) else None
    return None


def _agreeing(card: ModelCard, stored: ModelCard, path: Path) -> ModelCard:
    for name in ("name", "kind", "architecture", "config", "instruments", "latents"):
        if getattr(card, name) != getattr(stored, name):
            raise WeightsError(
                f"{path} says {name} = {getattr(stored, name)!r}, the card of the plugin says "
                f"{getattr(card, name)!r}; install the plugin again"
            )
    return card


def _instruments_of(card: ModelCard, wanted: str | None) -> builtins.list[Instrument]:
    """Return the installed instruments of a model, the wanted one first."""
    names = [entry.name for entry in card.instruments]
    if not names:
        raise WeightsError(f"the card of {card.name!r} names no instrument")
    if wanted is not None and wanted not in names:
        raise UnknownNameError(f"instrument in model {card.name!r}", wanted, names)
    first = wanted or names[0]
    working = {one.name for one in _working(names)}
    chosen = [first, *(n for n in names if n != first and n in working)]
    made = []
    for name in chosen:
        one, entry = instrument(name), next(e for e in card.instruments if e.name == name)
        if one.grid.sha256 != entry.grid:
            raise GridError(
                f"model {card.name!r} was made for another grid of {name!r} (hash "
                f"{entry.grid[:8]}) than the installed one ({one.grid.sha256[:8]}, {one.grid}); "
                "install the version of the plugin that the model was made with"
            )
        made.append(one)
    return made


def _from_legacy(
    path: Path, card: ModelCard | None, wanted: str | None
) -> tuple[ModelCard, dict[str, Any]]:
    """Read a .pt file of spender, with the card of its model, or a card made from it."""
    from spender_core import legacy

    name = card.instruments[0].name if card is not None else wanted
    one = instrument(name) if name is not None else _fitting(path)
    content = legacy.read(path, one.name, one.grid)
    if not content.fits(one.grid):
        raise GridError(f"the wavelengths in {path} are not those of {one.name!r}, {one.grid}")
    made = ModelCard(
        name=card.name if card else "converted",
        kind="flow" if content.kind == "flow" else "autoencoder",
        description=f"Converted from {path.name}",
        architecture=content.architecture,
        config=content.config,
        instruments=(
            ServedInstrument(name=one.name, grid=one.grid.sha256, lsf_taps=content.lsf_taps),
        ),
        latents=content.latents,
        lsf="constant" if content.lsf_taps else "none",
        training={} if content.losses is None else {"losses": content.losses},
    )
    if card is None:
        return made, content.tensors
    if (card.kind, card.latents) != (made.kind, made.latents):
        raise WeightsError(
            f"{path} holds a {made.kind} of {made.latents} latents, the card of {card.name!r} says "
            f"a {card.kind} of {card.latents}"
        )
    taken = ("architecture", "config", "instruments", "lsf")
    return card.model_copy(update={n: getattr(made, n) for n in taken}), content.tensors


def _fitting(path: Path) -> Instrument:
    """Return the installed instrument whose grid is stored in a .pt file of spender."""
    from spender_core import legacy

    content = legacy.read(path, "unknown")
    known = content.wave_obs is not None
    fitting = [one for one in _working(instruments()) if known and content.fits(one.grid)]
    if len(fitting) != 1:
        names = [one.name for one in fitting]
        raise InputError(
            f"{path} does not tell its instrument (its grid fits {names or 'none'}); say "
            f"which one, of {instruments()}"
        )
    return fitting[0]
