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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spender_core.archives.location import is_remote, normal, redacted
from spender_core.errors import (
    FileError,
    GridError,
    InputError,
    MissingFileError,
    PluginError,
    UnknownNameError,
    WeightsError,
)
from spender_core.plugins.manager import Discovery, import_target
from spender_core.records import ModelCard, PluginStatus

if TYPE_CHECKING:
    from spender_core.interfaces import Flow, Instrument, Model
    from spender_core.weights import Stored

_LARGEST_PUBLISHED = 1 << 30
"""Bytes; the published files of spender have some 50 million."""

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
        return weights.read_card(_local(name))
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
    troubles = []
    for candidate in _working(instruments()):
        try:
            if candidate.loader is not None and candidate.loader.recognises(url):
                return candidate
        except MissingFileError:
            raise
        except FileError as error:
            troubles.append(error)
    if troubles:
        raise troubles[0]
    raise FileError(
        f"{redacted(url)} is not a file of an installed instrument ({', '.join(instruments()) or 'none'}); "
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
        card, stored = _from_legacy(path, card, instrument)
        served, model = _made(card, stored, instrument)
    else:
        with weights.opened(path) as (own, stored):
            card = own if card is None else _agreeing(card, own, path)
            served, model = _made(card, stored, instrument)
    model.card = card
    try:
        return served, model.eval().to(device)
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

    architecture = import_target(discovery().get("architecture", card.architecture).target)
    if type(model) is not architecture:
        raise InputError(
            f"the card names the architecture {card.architecture!r} ({architecture.__name__}), "
            f"but the model is a {type(model).__name__}"
        )
    described = weights.described(model, card)
    needed = [("architecture", card.architecture)]
    needed += [("instrument", one.name) for one in described.instruments]
    others = [name for name in discovery().distributions(needed) if name != "spender-core"]
    described = described.model_copy(update={"requires": tuple(others)})
    digest = weights.write(path, model, described)
    return described.model_copy(update={"sha256": digest})


def pull(name: str) -> Path:
    """Bring the weights of a model into the cache, and return their path.

    Args:
        name: Name of a model, `hf:owner/repository[@revision]/file`, or a URL.

    Raises:
        UnknownNameError: There is no such model.
        OfflineError: It must be downloaded and cannot be.
        WeightsError: What the server has is not what the card says.
        FileError: The cache cannot be written.
    """
    path = _local(name) if is_file(name) else _weights_of(info(name))
    if not path.exists():
        raise MissingFileError(f"there is no file {path}; give a model, or where its file is")
    return path


def push(
    file: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    revision: str | None = None,
    message: str = "",
    private: bool = False,
) -> str:
    """Publish a model, and return the location that `load` takes, with its commit and hash.

    Args:
        file: Path of a weights file, or the name of a model.
        destination: A folder, s3://bucket/prefix, or hf:owner/repository[/file].
        revision: Branch on the Hub that takes a new commit, even over another file.
        message: What the commit is called.
        private: Whether a repository that is made for it is private.

    Raises as `load`, and as `spender_core.archives.downloads.publishing.publish`.
    """
    from spender_core import weights
    from spender_core.archives.downloads import publishing

    upload = publishing.checked(pull(os.fspath(file)), load, weights.page)
    change = publishing.Change(revision, message, private)
    return publishing.publish(upload, os.fspath(destination), change)


def _made(card: ModelCard, stored: Stored, wanted: str | None) -> tuple[Instrument, Any]:
    """Make the model of a card from its file, for its instruments that are installed."""
    from spender_core import weights

    hint = weights.remedy(card, "Install the plugin that has it.")
    architecture = discovery().get("architecture", card.architecture, hint)
    served = _instruments_of(card, wanted)
    absent = {entry.name for entry in card.instruments} - {one.name for one in served}
    stored = stored.without([name for name in stored.shapes if _belongs(name, absent)])
    return served[0], weights.build(import_target(architecture.target), card, stored, served)


def _belongs(tensor: str, instruments: set[str]) -> bool:
    """Tell whether a tensor is part of the encoder or LSF of one of the instruments."""
    part, _, rest = tensor.partition(".")
    return part in ("encoders", "lsf") and rest.partition(".")[0] in instruments


def is_file(source: str) -> bool:
    """Tell whether a source names a file, by path or URL, rather than a model."""
    return (
        "/" in source
        or os.sep in source
        or source.startswith("hf:")
        or source.endswith((".pt", ".safetensors"))
    )


def _local(source: str) -> Path:
    if source.startswith("hf:") or is_remote(source):
        from spender_core.archives.downloads.fetch import fetch

        return fetch(source)
    return Path(normal(source))


def _weights_of(card: ModelCard) -> Path:
    """Return the path of a card's weights, with their hash checked."""
    if not card.weights:
        raise WeightsError(f"the card of {card.name!r} does not say where its weights are")
    if not card.sha256:
        raise WeightsError(
            f"the card of {card.name!r} has no sha256, so its weights cannot be trusted; the author "
            "of its plugin must add it"
        )
    if card.weights.startswith("package:"):
        from spender_core.archives.packaged import packaged

        return packaged(card.weights, card.sha256, card.name)
    from spender_core.archives.downloads.fetch import fetch

    return fetch(card.weights, card.sha256, card.name, card.mirrors)


def _published(path: Path) -> ModelCard | None:
    """Return the card of a file that a plugin knows by its name and hash, if one does."""
    from spender_core.archives.writing import file_sha256

    for card in map(info, list()):
        if card.weights.rpartition("/")[2] != path.name or not card.sha256:
            continue
        with suppress(OSError):  # what is wrong with it is told when it is read
            if path.stat().st_size <= _LARGEST_PUBLISHED:
                return card if file_sha256(path).startswith(card.sha256) else None
    return None


def _agreeing(card: ModelCard, stored: ModelCard, path: Path) -> ModelCard:
    for name in ("name", "kind", "architecture", "config", "instruments", "latents", "lsf"):
        if getattr(card, name) != getattr(stored, name):
            raise WeightsError(
                f"{path} says {name} = {getattr(stored, name)!r}, the card of the plugin says "
                f"{getattr(card, name)!r}; install the plugin again"
            )
    return card


def _instruments_of(card: ModelCard, wanted: str | None) -> builtins.list[Instrument]:
    """Return the installed instruments of a model, the wanted one first."""
    from spender_core import weights

    names = [entry.name for entry in card.instruments]
    if not names:
        raise WeightsError(f"the card of {card.name!r} names no instrument")
    if wanted is not None and wanted not in names:
        raise UnknownNameError(f"instrument in model {card.name!r}", wanted, names)
    first = wanted or names[0]
    discovery().get("instrument", first, weights.remedy(card, _PUBLISHED))
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
) -> tuple[ModelCard, Stored]:
    """Read a .pt file of spender, with the card of its model, or a card made from it."""
    from spender_core import legacy, weights

    name = card.instruments[0].name if card is not None and card.instruments else wanted
    one = instrument(name) if name is not None else _fitting(path)
    content = legacy.read(path, one.name, one.grid)
    if not content.fits(one.grid):
        raise GridError(f"the wavelengths in {path} are not those of {one.name!r}, {one.grid}")
    made = content.card(one, card.name if card else "converted", f"Converted from {path.name}")
    stored = weights.Stored.held(str(path), content.tensors)
    if card is None:
        return made, stored
    if (card.kind, card.latents) != (made.kind, made.latents):
        raise WeightsError(
            f"{path} holds a {made.kind} of {made.latents} latents, the card of {card.name!r} says "
            f"a {card.kind} of {card.latents}"
        )
    taken = ("architecture", "config", "instruments", "lsf")
    return card.model_copy(update={n: getattr(made, n) for n in taken}), stored


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
