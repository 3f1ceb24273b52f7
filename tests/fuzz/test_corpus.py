"""Inputs that are kept, and mutations of them: read, or refused by a `SpenderError`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fuzz import mutations, seeds
from fuzz.mutations import Case

Check = Callable[[Case], list[str]]

KEPT = [(kind, name) for kind in seeds.KINDS for name in seeds.corpus(kind)]
MUTATIONS = 150
"""Of each kind of binary file."""


@pytest.mark.parametrize(("kind", "name"), KEPT, ids=lambda text: text)
def test_what_is_kept_is_read_or_refused(kind: str, name: str, check: Check) -> None:
    ended = check(Case(kind, -1, name, (), dict(seeds.corpus(kind)[name])))
    if kind in seeds.BINARY and name.startswith("seed-"):
        assert ended[-1] == ended[-2] == "accepted"


@pytest.mark.parametrize("kind", seeds.BINARY)
def test_mutations_are_read_or_refused(kind: str, check: Check) -> None:
    cases = [mutations.make(kind, 7, number, real_share=0) for number in range(MUTATIONS)]
    ended = [check(case)[-1] for case in cases]
    # most are refused, and not all: the mutations reach beyond the first check
    assert 0 < ended.count("accepted") < MUTATIONS // 2


@pytest.mark.parametrize("kind", seeds.TEXT)
def test_mutated_texts_are_taken_or_refused(kind: str, check: Check) -> None:
    for number in range(MUTATIONS // 2):
        assert check(mutations.make(kind, 7, number, real_share=0))


def test_the_corpus_is_small() -> None:
    files = [path for path in seeds.CORPUS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 300_000
