"""Pushing to a repository of the Hugging Face Hub, and loading from there."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event

import pytest
import yaml
from hub_server import READER, WRITER, Handler, HubServer, Stored, drop, status

from spender_core import registry
from spender_core.archives.downloads import cache
from spender_core.errors import FileError, InputError, MissingFileError, OfflineError
from spender_core.records import ModelCard

Check = Callable[[str, Path], None]

# httpx2 says so of what huggingface_hub itself does
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

REPOSITORY = "hf:team/models"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_repository_is_made_and_takes_the_file(
    described: Path, market: HubServer, assert_loads: Check
) -> None:
    location = registry.push(described, REPOSITORY)
    made = market.repositories["team/models"]
    head = made.branches["main"]
    assert location == f"hf:team/models@{head}/{described.name}#sha256={sha256(described)}"
    assert not made.private
    assert made.messages == ["", "Add small"]
    assert made.commits[head].keys() == {".gitattributes", "README.md", described.name}
    assert made.commits[head][described.name] == Stored(described.read_bytes(), True)
    assert_loads(location, described)


def test_it_loads_by_branch_tag_and_commit(
    described: Path, other: Path, market: HubServer, assert_loads: Check
) -> None:
    first = registry.push(described, REPOSITORY)
    made = market.repositories["team/models"]
    made.tags["v1.0"] = made.branches["main"]
    second = registry.push(other, REPOSITORY, revision="wider", message="Wider")
    assert made.messages[-1] == "Wider"
    assert_loads(f"hf:team/models/{described.name}", described)
    for revision in ("main", "v1.0", made.branches["main"]):
        assert_loads(f"hf:team/models@{revision}/{described.name}", described)
    for revision in ("wider", made.branches["wider"]):
        assert_loads(f"hf:team/models@{revision}/{described.name}", other)
    assert_loads(first, described)
    assert_loads(second, other)


def test_the_hub_is_asked_once_and_the_cache_tells_the_commit(
    described: Path, market: HubServer, monkeypatch: pytest.MonkeyPatch, assert_loads: Check
) -> None:
    location = registry.push(described, REPOSITORY)
    registry.load(location)
    (kept,) = cache.kept()
    assert kept.record is not None
    assert kept.record.commit == market.repositories["team/models"].branches["main"]
    monkeypatch.setenv("SPENDER_OFFLINE", "1")
    assert_loads(location, described)


def test_the_same_file_again_makes_no_commit(described: Path, market: HubServer) -> None:
    location = registry.push(described, REPOSITORY)
    assert registry.push(described, REPOSITORY) == location
    assert registry.push(described, REPOSITORY, revision="main", message="again") == location
    assert len(market.repositories["team/models"].commits) == 2


def test_another_file_needs_a_branch_that_is_named(
    described: Path, other: Path, market: HubServer, assert_loads: Check
) -> None:
    first = registry.push(described, REPOSITORY)
    with pytest.raises(FileError, match="--revision main a new commit"):
        registry.push(other, REPOSITORY)
    second = registry.push(other, REPOSITORY, revision="main")
    assert_loads(first, described)
    assert_loads(second, other)
    assert len(market.repositories["team/models"].commits) == 3


def test_a_file_has_its_place_in_the_repository(
    described: Path, market: HubServer, assert_loads: Check
) -> None:
    location = registry.push(described, f"{REPOSITORY}/edr/galaxies.safetensors")
    assert "/edr/galaxies.safetensors#" in location
    assert_loads(location, described)
    assert f"/edr/more/{described.name}#" in registry.push(described, f"{REPOSITORY}/edr/more")


def test_a_private_repository_serves_its_owner_alone(
    described: Path,
    market: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    assert_loads: Check,
) -> None:
    location = registry.push(described, REPOSITORY, private=True)
    assert market.repositories["team/models"].private
    assert_loads(location, described)
    monkeypatch.setenv("SPENDER_HOME", str(tmp_path / "somebody"))
    monkeypatch.setenv("HF_TOKEN", READER)
    with pytest.raises(MissingFileError):
        registry.load(location)


def test_a_public_repository_does_not_take_what_shall_be_private(
    described: Path, market: HubServer
) -> None:
    market.make("team/models")
    with pytest.raises(InputError, match="is public"):
        registry.push(described, REPOSITORY, private=True)
    assert len(market.repositories["team/models"].commits) == 1


@pytest.mark.parametrize(
    ("revision", "said"), [("v1.0", "is a tag"), ("0" * 40, "is a commit"), ("a/b", "branch")]
)
def test_only_branches_take_commits(
    described: Path, market: HubServer, revision: str, said: str
) -> None:
    made = market.make("team/models")
    made.tags["v1.0"] = made.branches["main"]
    with pytest.raises(InputError, match=said):
        registry.push(described, REPOSITORY, revision=revision)
    assert made.branches.keys() == {"main"}


# -- the page --------------------------------------------------------------------------------


def page_of(market: HubServer, path: str = "README.md") -> str:
    made = market.repositories["team/models"]
    return made.commits[made.branches["main"]][path].content.decode()


def test_the_page_tells_what_the_card_says(described: Path, market: HubServer) -> None:
    registry.push(described, REPOSITORY)
    _, front, body = page_of(market).split("---\n", 2)
    assert yaml.safe_load(front) == {
        "license": "cc-by-4.0",
        "library_name": "spender",
        "tags": ["spender", "astronomy", "spectroscopy", "autoencoder", "near", "far"],
    }
    for line in (
        "# small",
        "A small &lt;model&gt;.",
        f'instrument, model = registry.load("hf:team/models/{described.name}#sha256={sha256(described)}")',
        "- data:\n  - spectra: 12\n  - survey: near\n- steps: 50",
        "- chi2: 1.25",
        "Licence: CC-BY-4.0",
        "- Somebody et al. 2026",
    ):
        assert line in body


def test_the_page_is_written_anew_with_the_file(
    described: Path, other: Path, market: HubServer
) -> None:
    registry.push(described, REPOSITORY)
    registry.push(other, REPOSITORY, revision="main")
    assert sha256(other) in page_of(market)
    assert sha256(described) not in page_of(market)


def test_a_page_of_others_is_left_alone(described: Path, market: HubServer) -> None:
    made = market.make("team/models")
    made.commit("main", {"README.md": Stored(b"# Ours\n", False)}, "by hand")
    registry.push(described, REPOSITORY)
    assert page_of(market) == "# Ours\n"
    assert sha256(described) in page_of(market, "small.md")


def test_a_second_model_has_a_page_beside_it(
    described: Path, other: Path, market: HubServer
) -> None:
    registry.push(described, REPOSITORY)
    registry.push(other, f"{REPOSITORY}/second.safetensors")
    assert sha256(described) in page_of(market)
    assert sha256(other) in page_of(market, "second.md")


def test_a_licence_that_the_hub_does_not_know_has_its_name() -> None:
    from spender_core.weights import page

    card = ModelCard(name="x", architecture="maf", latents=1, licence="Our Own")
    front = yaml.safe_load(page(card, "hf:a/b/x.safetensors").split("---\n")[1])
    assert (front["license"], front["license_name"]) == ("other", "our-own")


# -- what goes wrong on the Hub --------------------------------------------------------------


def test_a_token_is_needed(
    described: Path, market: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(InputError, match="set HF_TOKEN"):
        registry.push(described, REPOSITORY)
    assert market.requests == []


@pytest.mark.parametrize(
    ("token", "repository", "said"),
    [
        ("hf_not_the_token_of_anybody", "team/models", "HF_TOKEN is not valid"),
        (READER, "team/models", "may not write there"),
        (READER, "team/new", "may not write there"),
        (WRITER, "strangers/new", "may not write there"),
    ],
)
def test_who_may_not_write_is_told(
    described: Path,
    market: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    token: str,
    repository: str,
    said: str,
) -> None:
    market.make("team/models")
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(FileError, match=said) as caught:
        registry.push(described, f"hf:{repository}")
    assert token not in str(caught.value)
    assert market.repositories.keys() == {"team/models"}
    assert len(market.repositories["team/models"].commits) == 1


@pytest.mark.parametrize(
    ("request_", "fault", "kind", "said"),
    [
        ("preupload", status(403, "No storage left"), FileError, r"403 \(No storage left\)"),
        ("PUT /lfs", status(403), FileError, "403"),
        ("validate-yaml", status(418, "\x1b[31mred"), OfflineError, r"418.*Push again"),
        ("commit/main", status(401), FileError, r"401.*HF_TOKEN"),
        ("commit/main", status(403), FileError, "403"),
        ("commit/main", status(412), FileError, "changed by somebody else"),
        ("paths-info", status(404), FileError, "404"),
    ],
)
def test_a_refusal_midway_leaves_nothing(
    described: Path,
    market: HubServer,
    request_: str,
    fault: Callable[[Handler], None],
    kind: type[Exception],
    said: str,
    assert_loads: Check,
) -> None:
    made = market.make("team/models")
    market.faults.append((request_, fault))
    with pytest.raises(kind, match=said) as caught:
        registry.push(described, REPOSITORY)
    assert WRITER not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(made.commits) == 1
    assert_loads(registry.push(described, REPOSITORY), described)


@pytest.mark.parametrize("fault", [status(500), drop], ids=["500", "dropped"])
def test_a_failure_at_the_commit_leaves_nothing(
    described: Path, market: HubServer, fault: Callable[[Handler], None], assert_loads: Check
) -> None:
    made = market.make("team/models")
    market.faults.append(("commit/main", fault))
    with pytest.raises(OfflineError, match=r"cannot push to hf:team/models.*Push again"):
        registry.push(described, REPOSITORY)
    assert len(made.commits) == 1
    assert_loads(registry.push(described, REPOSITORY), described)


@pytest.mark.parametrize("fault", [status(500), drop], ids=["500", "dropped"])
def test_an_upload_that_fails_once_is_made_good(
    described: Path, market: HubServer, fault: Callable[[Handler], None], assert_loads: Check
) -> None:
    market.faults.append(("PUT /lfs", fault))
    with suppress(OfflineError):  # some versions of the library try again themselves
        registry.push(described, REPOSITORY)
    assert not market.faults
    assert_loads(registry.push(described, REPOSITORY), described)
    assert len(market.repositories["team/models"].commits) == 2


def test_a_commit_whose_answer_was_lost_is_found(
    described: Path, market: HubServer, assert_loads: Check
) -> None:
    def lose(handler: Handler) -> None:
        reply, handler.reply = handler.reply, lambda *a, **k: None  # type: ignore[method-assign]
        Handler.commit(handler, handler.body(), "team/models", "main")
        handler.reply = reply  # type: ignore[method-assign]
        handler.close_connection = True

    made = market.make("team/models")
    market.faults.append(("commit/main", lose))
    with pytest.raises(OfflineError, match="if the commit was made all the same"):
        registry.push(described, REPOSITORY)
    assert len(made.commits) == 2
    assert_loads(registry.push(described, REPOSITORY), described)
    assert len(made.commits) == 2


def test_a_server_that_is_silent_is_left(
    described: Path, market: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = Event()

    def silence(handler: Handler) -> None:
        ended.wait(30)
        handler.close_connection = True

    monkeypatch.setenv("SPENDER_TIMEOUT", "1")
    market.make("team/models")
    market.faults.append(("commit/main", silence))
    with pytest.raises(OfflineError, match="Push again"):
        registry.push(described, REPOSITORY)
    ended.set()


def test_somebody_else_may_commit_at_the_same_time(
    described: Path, other: Path, market: HubServer
) -> None:
    made = market.make("team/models")

    def overtake(handler: Handler) -> None:
        made.commit("main", {described.name: Stored(other.read_bytes(), True)}, "theirs")
        body = handler.body()
        Handler.commit(handler, body, "team/models", "main")

    market.faults.append(("commit/main", overtake))
    with pytest.raises(FileError, match="changed by somebody else meanwhile"):
        registry.push(described, REPOSITORY)
    assert made.messages == ["", "theirs"]
    with pytest.raises(FileError, match="is another file"):
        registry.push(described, REPOSITORY)


def test_a_file_that_the_repository_ignores_is_told(described: Path, market: HubServer) -> None:
    market.ignored = described.name
    with pytest.raises(FileError, match=r"\.gitignore"):
        registry.push(described, REPOSITORY)


def test_a_hub_that_is_not_there_is_told(
    described: Path, market: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OfflineError, match="cannot push to hf:team/models"):
        registry.push(described, REPOSITORY)


def test_without_the_library_it_is_told_what_to_install(
    described: Path, market: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r'pip install "spender-core\[push\]"'):
        registry.push(described, REPOSITORY)
