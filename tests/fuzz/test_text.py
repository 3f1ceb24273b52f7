"""Cards, ids, names and locations: whatever they say, they are taken or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz import mutate_safetensors, seeds, targets
from fuzz.mutate_text import TRICKS
from spender_core import registry
from spender_core.archives.downloads.fetch import fetch
from spender_core.errors import SpenderError
from spender_core.records import ModelCard

few = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

numbers = st.integers() | st.floats() | st.sampled_from([-1, 0, 2**31, 2**63, 10**18])
plain = st.none() | st.booleans() | numbers | st.text(max_size=20)
trees = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)
fields = st.sampled_from(sorted(ModelCard.model_fields))
tricks = st.lists(st.sampled_from(TRICKS) | st.text(max_size=8), min_size=1, max_size=5).map(
    "".join
)
whole = st.integers() | st.integers(0, 10**5) | st.floats() | st.booleans() | st.none()
parts = whole | tricks | st.binary(max_size=4) | st.sampled_from(["sv3", "dark", "26", "v5_13_0"])
ids = st.recursive(
    parts, lambda inner: st.lists(inner, max_size=5) | st.lists(inner, max_size=5).map(tuple)
)

SOUND = seeds.corpus("safetensors")["seed-one"]["one.safetensors"]


def carded(card: str) -> bytes:
    """Return a sound weights file with another card."""
    split = mutate_safetensors.split(SOUND)
    assert split is not None
    return mutate_safetensors.join({**split[0], "__metadata__": {"spender": card}}, split[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the inputs of all examples."""
    return tmp_path_factory.mktemp("texts")


@pytest.fixture
def refused() -> Callable[..., bool]:
    """Return a function that tells whether an action is refused; other errors go on."""

    def tell(action: Callable[..., Any], *arguments: Any, **options: Any) -> bool:
        try:
            action(*arguments, **options)
        except SpenderError as error:
            return len(str(error)) > 0
        return False

    return tell


@few
@given(tree=trees)
def test_any_json_is_a_card_or_none(tree: Any, folder: Path, refused: Callable[..., bool]) -> None:
    targets.card(json.dumps(tree))
    path = folder / "any.safetensors"
    path.write_bytes(carded(json.dumps(tree)))
    assert refused(registry.load, path)


@few
@given(changes=st.dictionaries(fields, trees, min_size=1, max_size=2), kept=st.booleans())
def test_a_card_that_is_nearly_right_is_taken_or_refused(
    changes: dict[str, Any], kept: bool, folder: Path, refused: Callable[..., bool]
) -> None:
    sound = json.loads(mutate_safetensors.split(SOUND)[0]["__metadata__"]["spender"])  # type: ignore[index]
    if kept:
        changes = {"config": sound["config"] | changes}
    text = json.dumps(sound | changes)
    targets.card(text)
    path = folder / "near.safetensors"
    path.write_bytes(carded(text))
    if not refused(registry.load, path):
        assert registry.info(str(path)).name == (sound | changes)["name"]


@pytest.mark.parametrize("name", ["sdss", "boss", "desi"])
@few
@given(entry=ids)
def test_any_id_is_refused_below_an_empty_root(
    entry: Any, name: str, folder: Path, refused: Callable[..., bool]
) -> None:
    root = folder / "root"
    root.mkdir(exist_ok=True)
    instrument = registry.instrument(name)
    assert refused(instrument.read, [entry], root=root, quality=False)
    assert refused(instrument.read, entry, root=root, quality=False)


@pytest.mark.parametrize("name", ["sdss", "boss", "desi"])
@few
@given(entry=ids)
def test_an_id_leads_nowhere_outside_of_the_root(
    entry: Any, name: str, folder: Path, refused: Callable[..., bool]
) -> None:
    found: list[str] = []
    loader = registry.instrument(name).loader
    assert loader is not None

    def locate() -> None:
        for source in loader.locate([entry], "/a/root", None):
            found.extend(source.urls)

    refused(locate)
    for url in found:
        assert url.startswith("/a/root/")
        assert not {"..", ""} & set(url.split("/")[1:])
        assert "\x00" not in url


@few
@given(text=tricks)
def test_any_name_is_refused(text: str, refused: Callable[..., bool]) -> None:
    known = text in registry.list()
    assert refused(registry.info, text) or known
    assert refused(registry.load, text) or known


@few
@given(text=tricks)
def test_no_location_is_read_without_the_network(text: str, refused: Callable[..., bool]) -> None:
    for location in (text, f"hf:{text}", f"https://127.0.0.1/{text}", f"hf:owner/name/{text}"):
        assert refused(fetch, location)


@few
@given(text=tricks)
def test_no_file_outside_of_a_package_is_taken_for_weights(
    text: str, refused: Callable[..., bool]
) -> None:
    for location in (f"package:{text}", f"package:spender_sdss/{text}", f"package:{text}/models"):
        assert refused(targets.location, location)
