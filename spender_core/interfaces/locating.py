"""Finds ids in a survey's archive, of which one that cannot be does not cost the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spender_core.errors import InputError, PluginError, SpenderError
from spender_core.interfaces.loader import Loader, Source


def located(
    name: str, loader: Loader, ids: Sequence[Any], root: str | None, release: str | None
) -> list[Source | SpenderError]:
    """Return where the spectra of ids are, or for each why it cannot be.

    Args:
        name: The instrument's.
        loader: The instrument's.
        ids: Of the survey.
        root: A copy of the archive.
        release: The data release.

    Raises:
        InputError: None of them can be.
        PluginError: The loader found too few or too many.
    """
    try:
        return list(_places(name, loader, ids, root, release))
    except PluginError:
        raise
    except InputError:
        if len(ids) == 1:
            raise
    found: list[Source | SpenderError] = []
    for one in ids:
        try:
            found += _places(name, loader, [one], root, release)
        except InputError as error:
            found.append(error)
    errors = [one for one in found if isinstance(one, SpenderError)]
    if len(errors) == len(found):
        raise errors[0]
    return found


def _places(
    name: str, loader: Loader, ids: Sequence[Any], root: str | None, release: str | None
) -> list[Source]:
    try:
        places = loader.locate(ids, root, release)
    except SpenderError:
        raise
    except Exception as error:
        raise InputError(
            f"{ids!r:.60} are no ids of {name} ({type(error).__name__}: {error})"
        ) from error
    if len(places) != len(ids):
        raise PluginError(
            f"{type(loader).__name__}.locate found {len(places)} places for {len(ids)} ids"
        )
    return list(places)
