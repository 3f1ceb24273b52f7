"""Every fault of a plugin is caught, and the message names it."""

from __future__ import annotations

from pathlib import Path

import pytest
from testing import mutants

from spender_core.plugins.manager import Candidate, Discovery
from spender_core.records import InstrumentSpec
from spender_core.testing import Example
from spender_core.testing.checks import CHECKS
from spender_core.testing.checks.plugin import check_plugin_offers
from spender_core.testing.faults import ContractError
from spender_core.testing.running import run
from spender_core.testing.subject import Subject


def checks_of(name):
    """All checks less the slow one, a process of its own, unless it is what must fail."""
    wanted = mutants.MUTANTS[name][1]
    return [one for one in CHECKS if one.name in (wanted, "pickles") or one.group != "processes"]


@pytest.fixture
def state(monkeypatch):
    """State that other processes lack."""
    monkeypatch.setattr(mutants, "STATE", ["of this process"])


def test_the_correct_instrument_passes(tmp_path):
    results = run(Subject(mutants.Correct, tmp_path, mutants.write(tmp_path), name="correct"))
    assert [str(one.error) for one in results if one.error] == []
    skipped = [one.name for one in results if one.outcome == "skipped"]
    assert skipped == ["plugin offers", "registry round trip"]


@pytest.mark.parametrize("name", mutants.MUTANTS)
@pytest.mark.usefixtures("state")
def test_a_fault_is_named(name, tmp_path):
    mutant, check, words = mutants.MUTANTS[name]
    subject = Subject(mutant, tmp_path, mutants.write(tmp_path), name="correct")
    failed = {one.name: one.error for one in run(subject, checks=checks_of(name)) if one.error}
    assert check in failed, failed
    assert words in f"{failed[check].expected} | {failed[check].found}"
    assert failed[check].fix
    assert "pickles" not in failed or check in ("pickles", "grid increases")


def test_every_check_has_a_mutant():
    """But those whose faults need a plugin, or another device; they have tests below."""
    caught = {check for _, check, _ in mutants.MUTANTS.values()}
    assert {one.name for one in CHECKS} - caught == {
        "plugin offers", "example", "devices", "registry round trip",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: 1 / 0, "ZeroDivisionError"),
        (lambda: [Path("mine.fits")], "a list"),
        (lambda: Example((Path("absent.fits"),)), "no file absent.fits"),
        (lambda: Example(()), "no paths"),
    ],
)
def test_faults_of_an_example_are_named(write, words, tmp_path):
    results = run(Subject(mutants.Correct, tmp_path, write))
    (error,) = [one.error for one in results if one.name == "example"]
    assert words in error.found
    told_again = [one.error for one in results if one.error and words in one.error.found]
    assert told_again == [error]


class Plugin:
    """A plugin whose hook returns what it is given."""

    def __init__(self, version=None):
        if version is not None:
            from spender_core import hookimpl

            spec = InstrumentSpec(name="mine", target="mine:Mine", api_version=version)

            def spender_instruments():
                return [spec]

            self.spender_instruments = hookimpl(spender_instruments)


@pytest.mark.parametrize(
    ("version", "words"), [(None, "lacks the hook"), (0, "api_version 0"), (1, "")]
)
def test_faults_of_a_plugin_are_named(version, words, tmp_path):
    candidate = Candidate("mine", "spender-mine", "1", lambda: Plugin(version))
    statuses = Discovery([candidate]).statuses()
    subject = Subject(mutants.Correct, tmp_path, name="mine", statuses=statuses)
    if not words:
        check_plugin_offers(subject)
        return
    with pytest.raises(ContractError, match=words):
        check_plugin_offers(subject)


def test_a_missing_entry_point_is_named(tmp_path):
    statuses = Discovery([Candidate("other", "o", "1", lambda: Plugin(1))]).statuses()
    with pytest.raises(ContractError, match="entry point"):
        check_plugin_offers(Subject(mutants.Correct, tmp_path, name="absent", statuses=statuses))
