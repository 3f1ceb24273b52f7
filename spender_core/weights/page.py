"""The page of a model on the Hugging Face Hub, written from its card."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping
from typing import Any

from spender_core.records import ModelCard

_LICENCES = {
    "agpl-3.0", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "bsl-1.0", "cc-by-4.0",
    "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-sa-4.0", "cc0-1.0", "gpl-2.0", "gpl-3.0", "isc",
    "lgpl-2.1", "lgpl-3.0", "mit", "mpl-2.0", "unknown", "unlicense", "wtfpl",
}  # fmt: skip
"""Licences that the Hub knows by these names
(https://huggingface.co/docs/hub/repositories-licenses)."""

_KINDS = {
    "autoencoder": "An autoencoder of astronomical spectra.",
    "flow": "A normalising flow on the latents of a model of astronomical spectra.",
}
_LSF = {
    "none": "not modelled; the restframe has the resolution of the training data",
    "constant": "a learned kernel for each instrument",
    "per_spectrum": "that of each spectrum",
}


def page(card: ModelCard, location: str) -> str:
    """Return the page of a model: Markdown with metadata in front, as the Hub reads it.

    Args:
        card: Its card.
        location: Where `registry.load` finds it.
    """
    names = [one.name for one in card.instruments]
    metadata: dict[str, Any] = {
        **_licence(card.licence),
        "library_name": "spender",
        "tags": ["spender", "astronomy", "spectroscopy", card.kind, *names],
    }
    # a JSON string, number or list is YAML
    front = "".join(
        f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in metadata.items()
    )
    sections = [
        f"# {card.name}",
        _shown(card.description) or _KINDS[card.kind],
        "```python\nfrom spender_core import registry\n\n"
        f"instrument, model = registry.load({json.dumps(location)})\n```",
        "\n".join(_items(_facts(card))),
    ]
    for title, content in (
        ("What it was trained on", card.training),
        ("How it was judged", card.evaluation),
    ):
        items = "\n".join(_items(content)) or "The card does not say."
        sections.append(f"## {title}\n\n{items}")
    cited = "\n".join(f"- {_shown(text)}" for text in card.citation)
    sections.append(
        f"## Licence and citation\n\nLicence: {_shown(card.licence)}\n\n{cited}".rstrip()
    )
    return f"---\n{front}---\n" + "\n\n".join(sections) + "\n"


def _licence(text: str) -> dict[str, str]:
    """Return a licence in the words of the Hub: one that it knows, or another by its name."""
    plain = text.strip().lower().removesuffix("-or-later").removesuffix("-only")
    if plain in _LICENCES:
        return {"license": plain}
    return {"license": "other", "license_name": "-".join(plain.split()) or "unnamed"}


def _facts(card: ModelCard) -> dict[str, Any]:
    """Return what the model is, in the order in which it is shown."""
    facts: dict[str, Any] = {
        "architecture": card.architecture,
        "latents": card.latents,
        "instruments": ", ".join(one.name for one in card.instruments),
        "redshifts": "" if card.z_range is None else f"{card.z_range[0]} to {card.z_range[1]}",
        "line spread function": _LSF[card.lsf],
        "normalisation": card.normalisation,
        "derived from": card.parent,
        "needs": ", ".join(("spender-core", *card.requires)),
    }
    return {name: value for name, value in facts.items() if value != ""}


def _items(content: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    """Yield the lines of a nested list of what a card says."""
    for name, value in content.items():
        start = f"{'  ' * depth}- {_shown(str(name))}:"
        if isinstance(value, Mapping) and value:
            yield start
            yield from _items(value, depth + 1)
        else:
            yield f"{start} {_shown(value)}"


def _shown(value: Any) -> str:
    """Return a value as text on one line that is no markup."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return html.escape(" ".join(text.split()), quote=False).replace("`", "'")
