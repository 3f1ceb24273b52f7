"""The campaign notices what it is there for, each fault by a target that commits it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz import campaign, misbehaving, mutations, seeds
from fuzz.campaign import Summary

NOTICED = {
    "allocates": "memory: ",
    "breaks": "breaks: KeyError: 'NAXIS1' | ",
    "runs": "runs: code ran: os.system",
    "swallows": "swallows: code ran: os.system",
    "spawns": "spawns: code ran: ",
    "connects": "connects: code ran: socket.",
    "writes": "writes: code ran: open for writing ('/tmp/spender-outside',)",
    "removes": "removes: code ran: os.remove ('/tmp/spender-absent',)",
    "leaves": "leaves: code ran: it left ",
    "greedy": "greedy: MemoryError",
    "crashes": "the interpreter died: SIGABRT; ",
    "sleeps": "slow: 1.",
    "hangs": "hang: no answer in 2 s; ",
}


@pytest.fixture(scope="module")
def misbehaved() -> dict[str, Summary]:
    """What became of a case of each misbehaving kind, with sound ones after them."""
    kinds = [*NOTICED, "sound", "harmless"]
    work = [(kind, 0) for kind in kinds] + [("sound", number) for number in (1, 2)]
    return campaign.run(work, workers=1, targets=misbehaving.__name__, slow=1.0)


@pytest.mark.parametrize("kind", NOTICED)
def test_a_fault_is_noticed(misbehaved: dict[str, Summary], kind: str) -> None:
    assert len(misbehaved[kind].faults) == 1
    assert misbehaved[kind].faults[0][1].startswith(NOTICED[kind])


def test_nothing_else_is_taken_for_a_fault(misbehaved: dict[str, Summary]) -> None:
    assert misbehaved["harmless"].faults == []
    # after crashes and hangs, a new worker goes on
    assert misbehaved["sound"].faults == []
    assert misbehaved["sound"].outcomes == {"accepted": 3}


def test_a_hang_is_told_with_its_place(misbehaved: dict[str, Summary]) -> None:
    assert "misbehaving.py" in misbehaved["hangs"].faults[0][1]
    assert "worker.py" in misbehaved["crashes"].faults[0][1]


def test_prevented_actions_did_not_happen(misbehaved: dict[str, Summary]) -> None:
    assert misbehaved["writes"].faults
    assert not Path("/tmp/spender-outside").exists()


def test_a_campaign_is_repeatable_and_sound_files_are_accepted() -> None:
    work = [(kind, number) for number in range(-3, 8) for kind in seeds.BINARY]
    first, second = (campaign.run(work, seed=3, workers=2) for _ in range(2))
    for kind in seeds.BINARY:
        assert first[kind].outcomes == second[kind].outcomes
        assert sum(first[kind].outcomes.values()) == 8
        assert len(first[kind].sound) == 3
        assert [fault for fault in first[kind].faults if fault[0] < 0] == []


def test_the_report_tells_how_to_repeat_a_fault(misbehaved: dict[str, Summary]) -> None:
    text = campaign.report(misbehaved, 1)
    assert "FAULT breaks --seed 1 --only 0, 1 times: breaks: KeyError" in text
    assert len([line for line in text.splitlines() if line.startswith("FAULT")]) == len(NOTICED)


def test_faults_of_one_place_are_told_once() -> None:
    faults = [
        (3, "read: KeyError: 'A' | a.py:1 f | b.py:2 g"),
        (9, "read: OSError: x | a.py:1 f | c"),
    ]
    faults.append((4, "load: KeyError: 'B' | a.py:1 f | b.py:2 g"))
    told = campaign.grouped(sorted(faults))
    assert [line.partition(":")[0] for line in told] == ["--only 3, 2 times", "--only 9, 1 times"]


def test_the_input_of_a_fault_is_kept_as_the_corpus_is(tmp_path: Path) -> None:
    case = mutations.make("fits", 1, 3, 0)
    campaign.preserve(tmp_path, case)
    assert seeds._files(tmp_path / "fits" / "case-3") == case.files
