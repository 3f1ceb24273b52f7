"""Finds plugins through entry points, and guards core against each of them.

Every plugin gets a pluggy manager of its own, so that a fault at load, registration,
check or call stays with the plugin that has it.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from types import ModuleType
from typing import Any

import pluggy

from spender_core.errors import DuplicateNameError, PluginError, UnknownNameError
from spender_core.plugins import hookspecs
from spender_core.plugins.hookspecs import GROUP
from spender_core.records import (
    API_VERSION,
    ArchitectureSpec,
    InstrumentSpec,
    ModelCard,
    PluginStatus,
    Record,
)

_HOOKS: dict[str, tuple[str, type[Record]]] = {
    "spender_instruments": ("instrument", InstrumentSpec),
    "spender_models": ("model", ModelCard),
    "spender_architectures": ("architecture", ArchitectureSpec),
}


@dataclass(frozen=True)
class Candidate:
    """A plugin before it is loaded: its name, whose it is, and how to load it."""

    name: str
    distribution: str
    version: str
    load: Callable[[], Any]


@dataclass
class _Examined:
    """A plugin after it was loaded and asked."""

    candidate: Candidate
    records: dict[str, list[Record]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def names(self, kind: str) -> tuple[str, ...]:
        return tuple(record.name for record in self.records.get(kind, ()))


class Discovery:
    """What the installed plugins offer, and how each of them fared.

    Args:
        candidates: The plugins to examine; those installed by default.
    """

    def __init__(self, candidates: Iterable[Candidate] | None = None) -> None:
        found = installed() if candidates is None else candidates
        self._plugins = [_examine(candidate) for candidate in found]
        self._offers = {kind: self._collect(kind) for kind, _ in _HOOKS.values()}

    def _collect(self, kind: str) -> dict[str, list[tuple[_Examined, Record]]]:
        offers: dict[str, list[tuple[_Examined, Record]]] = {}
        for plugin in self._plugins:
            for record in plugin.records.get(kind, ()):
                for name in (record.name, *getattr(record, "aliases", ())):
                    offers.setdefault(name, []).append((plugin, record))
        for name, owners in offers.items():
            if len(owners) > 1:
                for plugin, _ in owners:
                    problem = f"{kind} {name!r} is offered by {_naming(owners)}"
                    if problem not in plugin.problems:
                        plugin.problems.append(problem)
        return offers

    def names(self, kind: str) -> list[str]:
        """Return the names of one kind that can be asked for, sorted, without aliases."""
        offers = self._offers[kind]
        return sorted(
            name
            for name, owners in offers.items()
            if len(owners) == 1 and owners[0][1].name == name
        )

    def get(self, kind: str, name: str, hint: str = "") -> Any:
        """Return the record of a name or alias.

        Raises:
            DuplicateNameError: Several plugins offer it.
            UnknownNameError: None does.
        """
        owners = self._offers[kind].get(name)
        if owners is None:
            raise UnknownNameError(kind, name, self._offers[kind], hint)
        if len(owners) > 1:
            raise DuplicateNameError(kind, name, [_owner(plugin) for plugin, _ in owners])
        return owners[0][1]

    def distributions(self, names: Iterable[tuple[str, str]]) -> list[str]:
        """Return the distributions that offer some records, given as (kind, name), sorted.

        What nobody offers is passed over.
        """
        offers = [offer for kind, name in names for offer in self._offers[kind].get(name, ())]
        return sorted({plugin.candidate.distribution for plugin, _ in offers})

    def statuses(self) -> list[PluginStatus]:
        """Return how every plugin fared."""
        return [
            PluginStatus(
                name=plugin.candidate.name,
                distribution=plugin.candidate.distribution,
                version=plugin.candidate.version,
                instruments=plugin.names("instrument"),
                models=plugin.names("model"),
                architectures=plugin.names("architecture"),
                problems=tuple(plugin.problems),
            )
            for plugin in self._plugins
        ]


def installed() -> list[Candidate]:
    """Return the plugins of the installed distributions, core's own among them, in order."""
    found = [
        Candidate(
            entry.name,
            entry.dist.name if entry.dist else "unknown distribution",
            entry.dist.version if entry.dist else "?",
            entry.load,
        )
        for entry in metadata.entry_points(group=GROUP)
    ]
    return sorted(found, key=lambda candidate: (candidate.distribution, candidate.name))


def _examine(candidate: Candidate) -> _Examined:
    plugin = _Examined(candidate)
    try:
        module = candidate.load()
    except (Exception, SystemExit) as error:
        plugin.problems.append(f"cannot be imported: {_reason(error)}")
        return plugin
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(module, candidate.name)
        manager.check_pending()
    except Exception as error:
        plugin.problems.append(f"cannot be registered: {_reason(error)}")
    plugin.problems += _misspelt(module)
    for hook, (kind, record_type) in _HOOKS.items():
        try:
            records = _call(getattr(manager.hook, hook))
        except (Exception, SystemExit) as error:
            plugin.problems.append(f"{hook} fails: {_reason(error)}")
            continue
        plugin.records[kind] = []
        for record in records:
            problem = _fault(record, record_type)
            if problem:
                plugin.problems.append(f"{hook}: {problem}")
            else:
                plugin.records[kind].append(record)
    return plugin


def _call(hook: pluggy.HookCaller) -> list[Any]:
    """Call what a plugin implements of a hook; pluggy's own call would drop None."""
    records: list[Any] = []
    for implementation in hook.get_hookimpls():
        result: Any = implementation.function()
        if isinstance(result, (Record, str, bytes, Mapping)) or not isinstance(result, Iterable):
            raise PluginError(f"returned a {type(result).__name__}, must return a list of records")
        records += result
    return records


def _fault(record: Any, expected: type[Record]) -> str:
    if not isinstance(record, expected):
        return f"returned a {type(record).__name__}, must return {expected.__name__} records"
    if record.api_version != API_VERSION:
        return (
            f"{expected.__name__} {record.name!r} has api_version {record.api_version}, this "
            f"spender-core knows {API_VERSION}; update the older of the two"
        )
    return ""


def _misspelt(module: Any) -> list[str]:
    """Name functions that look like hooks and are none, or lack the decorator."""
    problems = []
    members: Mapping[str, Any] = vars(module) if isinstance(module, ModuleType) else {}
    for name, member in members.items():
        if not name.startswith("spender_") or not inspect.isfunction(member):
            continue
        near = difflib.get_close_matches(name, _HOOKS, n=1, cutoff=0.0)[0]
        if name not in _HOOKS:
            problems.append(f"there is no hook {name}; did you mean {near}?")
        elif not hasattr(member, f"{GROUP}_impl"):
            problems.append(f"{name} lacks the decorator @hookimpl, so it is not called")
    return problems


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:300]}"


def _owner(plugin: _Examined) -> str:
    return f"{plugin.candidate.distribution} {plugin.candidate.version}"


def _naming(owners: list[tuple[_Examined, Record]]) -> str:
    names = sorted(_owner(plugin) for plugin, _ in owners)
    return " and ".join(names) if len(set(names)) > 1 else f"{names[0]}, twice"


def import_target(target: str) -> Any:
    """Import the class that a record names.

    Raises:
        PluginError: It cannot be imported.
    """
    from importlib import import_module

    module, _, name = target.partition(":")
    try:
        return getattr(import_module(module), name)
    except (Exception, SystemExit) as error:
        raise PluginError(f"cannot import {target}, named by a plugin: {_reason(error)}") from error
