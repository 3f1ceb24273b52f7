"""Models trained by recipes, exactly resumable, by one process or by many.

    >>> from spender_core.training import packaged
    >>> packaged()[:2]
    ('desi_edr_galaxy', 'desi_edr_star')

Importing this package loads nothing else: its names are imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spender_core.training.adding import encoder_recipe as encoder_recipe
    from spender_core.training.config import Recipe as Recipe
    from spender_core.training.config import packaged as packaged
    from spender_core.training.loop import Trainer as Trainer
    from spender_core.training.loop import train as train

_HOMES = {
    "Recipe": "config",
    "Trainer": "loop",
    "encoder_recipe": "adding",
    "packaged": "config",
    "train": "loop",
}

__all__ = ["Recipe", "Trainer", "encoder_recipe", "packaged", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'spender_core.training' has no attribute {name!r}")
    return getattr(import_module(f"spender_core.training.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
