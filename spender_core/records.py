"""What a plugin tells about itself: typed, versioned records, free of torch and numpy.

A hook returns these. They are cheap to import and to build, so that listing what is
installed needs neither torch nor astropy.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

API_VERSION = 1
"""Version of the records in this module. A record of another version is refused by name."""

FORMAT_VERSION = 1
"""Version of the layout of a weights file."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
# what moves the cursor, colours or reorders text on a terminal, or cannot be printed
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_ONE_LINE = ("architecture", "weights", "mirrors", "parent", "aliases", "instruments")


def printable(text: str) -> str:
    """Return text with every control character, line breaks too, written as its escape."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    plain = character.isprintable() or not (character in "\n\t" or _CONTROL.match(character))
    return character if plain else ascii(character)[1:-1]


def _strings(content: Any) -> Iterator[str]:
    """Yield every string in nested plain data, keys too."""
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            waiting += [*value, *value.values()]
        elif isinstance(value, list | tuple):
            waiting += value


class Record(BaseModel):
    """Base of all records: immutable, named, and of a stated version.

    Fields that this version does not know are an error in a record of this version,
    and kept aside in one of another version, so that it can be refused by name.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    api_version: int = API_VERSION
    name: str

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"name {self.name[:80]!r} is not allowed: use letters, digits and underscores, "
                "and begin with a letter"
            )
        if self.api_version == API_VERSION and self.model_extra:
            allowed = ", ".join(type(self).model_fields)
            raise ValueError(f"unknown field {', '.join(self.model_extra)}; allowed are {allowed}")
        return self


class _Importable(Record):
    target: str
    """Import path of a class, as "package.module:Class"."""
    description: str = ""

    @model_validator(mode="after")
    def _check_target(self) -> Self:
        if not _TARGET.fullmatch(self.target):
            raise ValueError(f"target {self.target!r} is not of the form 'package.module:Class'")
        return self


class InstrumentSpec(_Importable):
    """An instrument that a plugin offers; `target` is its `Instrument` class.

    Example:
        >>> InstrumentSpec(name="mine", target="my_package.instrument:Mine").name
        'mine'
    """

    example: str | None = None
    """Import path of a function, as "package.module:function". It takes a folder (Path), writes
    small fabricated files of the instrument into it, and returns `spender_core.testing.Example`,
    so that `spender check NAME` needs no data."""

    @model_validator(mode="after")
    def _check_example(self) -> Self:
        if self.example is not None and not _TARGET.fullmatch(self.example):
            raise ValueError(
                f"example {self.example!r} is not of the form 'package.module:function'"
            )
        return self


class ArchitectureSpec(_Importable):
    """A network that weights files may name; `target` is its `Model` or `Flow` class.

    A weights file holds the name only, never the import path: a downloaded file
    cannot choose which code runs.
    """


class ServedInstrument(BaseModel):
    """An instrument that a model serves, with the grid it was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    grid: str
    """Hash of the instrument's grid (`Grid.sha256`). Another grid is refused."""
    lsf_taps: int | None = None
    """Number of taps of the learned LSF kernel; None if the model has none."""


class ModelCard(Record):
    """Everything one should know about a model before using it.

    `weights` says where the file is: `package:my_plugin/models/file.safetensors` inside
    an installed package, `hf:owner/repository[@revision]/file` on the Hugging Face Hub, or a URL.
    """

    aliases: tuple[str, ...] = ()
    kind: Literal["autoencoder", "flow"] = "autoencoder"
    description: str = ""
    architecture: str
    format_version: int = FORMAT_VERSION
    config: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the architecture, e.g. the widths of its layers."""
    instruments: tuple[ServedInstrument, ...] = ()
    latents: int = Field(gt=0)
    z_range: tuple[float, float] | None = None
    """Redshifts on which the model was trained."""
    lsf: Literal["none", "constant", "per_spectrum"] = "none"
    """Which line spread function the model applies to its restframe spectra. With
    "none", the restframe already holds the resolution of the training data; with "constant", a
    learned kernel for each instrument is applied; with "per_spectrum", the line spread function
    of each spectrum (`SpectrumBatch.lsf`), and then kernels if there are any."""
    normalisation: str = "median of good pixels in restframe 5300-5850 Angstrom"
    training: dict[str, Any] = Field(default_factory=dict)
    """What the model was trained on, and how."""
    evaluation: dict[str, Any] = Field(default_factory=dict)
    """Figures by which the model was judged, and on what."""
    licence: str = "unknown"
    citation: tuple[str, ...] = ()
    weights: str = ""
    mirrors: tuple[str, ...] = ()
    """URLs of the same file, tried in turn where its own server fails."""
    file_format: Literal["safetensors", "spender-pt"] = "safetensors"
    sha256: str = Field(default="", pattern=r"^([0-9a-fA-F]{8,64})?$")
    """Hash of the weights file: all 64 hex digits, or the leading ones that are known, at least 8."""
    parent: str = ""
    """Name of the model from which this one was derived."""
    requires: tuple[str, ...] = ()
    """Distributions, beside spender-core, that provide the architecture and the instruments."""

    @model_validator(mode="after")
    def _check_text(self) -> Self:
        content = self.model_dump()
        for field_name, value in content.items():
            for text in _strings(value):
                broken = field_name in _ONE_LINE and re.search(r"[\n\t]", text)
                if broken or _CONTROL.search(text):
                    raise ValueError(
                        f"{field_name} has a control character, in {printable(text[:80])!r}; "
                        "leave it out"
                    )
        if self.z_range is not None and not -1 < self.z_range[0] <= self.z_range[1] < math.inf:
            raise ValueError(f"z_range {self.z_range} must be two redshifts above -1, in order")
        for name in self.requires:
            if not _DISTRIBUTION.fullmatch(name):
                raise ValueError(
                    f"requires {printable(name[:80])!r}, which is no name of a distribution, such "
                    "as 'spender-sdss'; versions and addresses are not allowed"
                )
        return self

    def to_json(self) -> str:
        """Return the card as JSON: what differs from the defaults, and always its versions."""
        content = self.model_dump(mode="json", exclude_defaults=True)
        versions = {"api_version": self.api_version, "format_version": self.format_version}
        return json.dumps({"name": self.name, **versions, **content}, indent=2)

    def serves(self, instrument: str) -> bool:
        """Tell whether the model has an encoder for the instrument of this name."""
        return any(served.name == instrument for served in self.instruments)

    def __str__(self) -> str:
        """Return the fields that say something, a line each, as `spender info` shows them."""
        lines = _lines(self.model_dump(mode="json"))
        return "\n".join("\n    ".join(map(printable, line.split("\n"))) for line in lines)


@dataclass(frozen=True)
class PluginStatus:
    """How one installed plugin fared: what it offers, or why it failed.

    `problems` is empty for a healthy plugin. A plugin with problems may still offer
    whatever is sound in it.
    """

    name: str
    distribution: str
    version: str
    instruments: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    problems: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """True if nothing is wrong with the plugin."""
        return not self.problems


def read_cards(package: str, folder: str = "cards") -> list[ModelCard]:
    """Read the model cards (JSON files) that lie in a folder of an installed package.

    Example:
        A plugin's hook is then one line::

            @hookimpl
            def spender_models():
                return read_cards("my_plugin")
    """
    files = sorted((resources.files(package) / folder).iterdir(), key=lambda file: file.name)
    return [
        ModelCard.model_validate_json(file.read_text(encoding="utf-8"))
        for file in files
        if file.name.endswith(".json")
    ]


def _lines(content: Mapping[str, Any], indent: str = "") -> list[str]:
    lines = []
    for key, value in content.items():
        if value in (None, "", [], {}):
            continue
        if isinstance(value, Mapping):
            lines += [f"{indent}{key}:", *_lines(value, indent + "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            lines.append(f"{indent}{key}:")
            for entry in value:
                lines += [
                    f"{indent}  - "
                    + ", ".join(f"{k} {v}" for k, v in entry.items() if v is not None)
                ]
        elif isinstance(value, list):
            lines.append(f"{indent}{key}: {', '.join(map(str, value))}")
        else:
            lines.append(f"{indent}{key}: {value}")
    return lines
