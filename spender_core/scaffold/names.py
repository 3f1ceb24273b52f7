"""Names of plugins: which can be had, and what follows from one."""

from __future__ import annotations

import keyword
import re
from importlib import metadata
from importlib.util import find_spec

from spender_core import registry
from spender_core.errors import InputError

LONGEST = 20
"""Characters of a name, at most."""

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def distribution_of(name: str) -> str:
    """Return what `pip install` calls the plugin of an instrument, e.g. "spender-my-survey"."""
    return f"spender-{name.replace('_', '-')}"


def package_of(name: str) -> str:
    """Return what `import` calls it, e.g. "spender_my_survey"."""
    return f"spender_{name}"


def class_of(name: str) -> str:
    """Return the beginning of the names of its classes, e.g. "MySurvey"."""
    return "".join(word.capitalize() for word in name.split("_"))


def check_name(name: str) -> None:
    """Check that an instrument can have a name.

    Raises:
        InputError: It is none, or it is taken by what is installed.
    """
    if not _NAME.fullmatch(name) or len(name) > LONGEST:
        near = re.sub(r"[^a-z0-9]+", "_", name.lower().removeprefix("spender"))
        near = near.strip("_0123456789")[:LONGEST].rstrip("_")
        hint = f"; {near!r} would do" if _NAME.fullmatch(near) and _free(near) else ""
        raise InputError(
            f"{name[:80]!r} cannot name a plugin: use at most {LONGEST} small letters, "
            f"digits and single underscores between them, beginning with a letter{hint}"
        )
    if keyword.iskeyword(name):
        raise InputError(f"{name!r} is a word of Python; choose a name such as '{name}_survey'")
    owner = _owner(name)
    if owner:
        raise InputError(f"the name {name!r} is taken by {owner}; choose another, or uninstall it")


def _free(name: str) -> bool:
    return not keyword.iskeyword(name) and not _owner(name)


def _owner(name: str) -> str:
    """Return in words what is installed under a name, "" if nothing is."""
    if name in {known.lower() for known in registry.discovery().names("instrument")}:
        return f"the instrument {name!r} of an installed plugin"
    for status in registry.plugins():
        if name in {known.lower() for known in (status.name, *status.instruments)}:
            return f"the installed plugin {status.name!r} of {status.distribution}"
    distribution = distribution_of(name)
    try:
        return f"the installed distribution {metadata.distribution(distribution).name}"
    except metadata.PackageNotFoundError:
        found = find_spec(package_of(name))
        return f"the module {package_of(name)}, which can be imported already" if found else ""
