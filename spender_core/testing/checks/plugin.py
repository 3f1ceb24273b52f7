"""Checks of the plugin that offers an instrument: its hooks, records and entry point."""

from __future__ import annotations

from spender_core.interfaces import Instrument
from spender_core.testing.faults import NotApplicable, expect
from spender_core.testing.subject import Subject


def check_plugin_offers(subject: Subject) -> None:
    """A plugin, found by its entry point, offers the instrument, and nothing is wrong with it."""
    if not subject.statuses:
        raise NotApplicable("the instrument comes from no installed plugin")
    owners = [one for one in subject.statuses if subject.name in one.instruments]
    own = [one for one in subject.statuses if subject.name in (one.name, *one.instruments)]
    problems = [problem for one in own for problem in one.problems]
    expect(
        not problems,
        expected="the plugin has no problem",
        found="; ".join(problems),
        fix="mend it in the module that the entry point names; `spender plugins` shows it again",
    )
    found = f"plugin {own[0].name!r} lacks the hook, or it returns other names" if own else (
        "no plugin of this name: the entry point is missing"
    )  # fmt: skip
    expect(
        owners,
        expected=f"a plugin whose hook spender_instruments returns an InstrumentSpec {subject.name!r}",
        found=found,
        fix="add the hook with @hookimpl, name its module in [project.entry-points.spender], and "
        "install again",
    )


def check_name(subject: Subject) -> None:
    """The target of the record is an Instrument of the record's name."""
    one = subject.instrument
    expect(
        isinstance(one, Instrument) and one.name.isidentifier(),
        expected="an Instrument whose name is an identifier",
        found=f"a {type(one).__name__} named {getattr(one, 'name', '')!r}",
        fix="derive the class from spender_core.Instrument, and set its name",
    )
    expect(
        subject.spec is None or one.name == subject.spec.name,
        expected=f"the instrument has the name of its InstrumentSpec, {subject.name!r}",
        found=repr(one.name),
        fix="use one name in both",
    )


def check_example(subject: Subject) -> None:
    """The example is written, and its files are where it says."""
    _ = subject.example
