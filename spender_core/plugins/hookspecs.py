"""The hooks that a plugin implements. They return records; they do no network I/O.

A plugin is a module named in the entry-point group "spender" of its distribution::

    [project.entry-points.spender]
    mine = "my_package.plugin"

It should import neither torch nor astropy, so that listing what is installed stays fast.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from spender_core.records import ArchitectureSpec, InstrumentSpec, ModelCard

GROUP = "spender"
"""Entry-point group, and name of the pluggy project."""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def spender_instruments() -> Iterable[InstrumentSpec]:  # type: ignore[empty-body]
    """Return the instruments that a plugin offers.

    Example:
        A complete plugin module::

            from spender_core import hookimpl
            from spender_core.records import InstrumentSpec

            @hookimpl
            def spender_instruments():
                return [InstrumentSpec(name="mine", target="my_package.instrument:Mine")]
    """


@hookspec
def spender_models() -> Iterable[ModelCard]:  # type: ignore[empty-body]
    """Return the cards of the models that a plugin offers.

    Example:
        A complete plugin module, with cards as JSON files in `my_package/cards`::

            from spender_core import hookimpl
            from spender_core.records import read_cards

            @hookimpl
            def spender_models():
                return read_cards("my_package")
    """


@hookspec
def spender_architectures() -> Iterable[ArchitectureSpec]:  # type: ignore[empty-body]
    """Return the networks that weights files may name, each a `Model` or `Flow` class.

    Example:
        A complete plugin module::

            from spender_core import hookimpl
            from spender_core.records import ArchitectureSpec

            @hookimpl
            def spender_architectures():
                return [ArchitectureSpec(name="my_net", target="my_package.net:MyNet")]
    """
