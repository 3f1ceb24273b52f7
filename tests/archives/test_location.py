"""Where files are, and what of an address may be shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spender_core.archives.downloads.cache import entry, home
from spender_core.archives.location import mirrors, parse, redacted
from spender_core.errors import InputError, SpenderError


def test_a_location_on_the_hub_is_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse("hf:a/b/c.pt").url == "https://huggingface.co/a/b/resolve/main/c.pt"
    assert parse("hf:a/b/folder/c.pt").url.endswith("/a/b/resolve/main/folder/c.pt")
    assert parse("https://example.org/c.pt").url == "https://example.org/c.pt"
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example.org/")
    assert parse("hf:a/b/c.pt").url == "https://mirror.example.org/a/b/resolve/main/c.pt"


def test_a_revision_is_part_of_the_location() -> None:
    place = parse("hf:a/b@v1.0/c.pt")
    assert place.url == "https://huggingface.co/a/b/resolve/v1.0/c.pt"
    assert place.revision == "v1.0"
    assert parse("hf:a/b/c.pt").revision == "main"
    assert entry(place) != entry(parse("hf:a/b/c.pt"))


def test_a_hash_may_follow_a_location() -> None:
    place = parse(f"https://example.org/c.pt#sha256={'AB' * 32}")
    assert place.sha256 == "ab" * 32
    assert place.url == "https://example.org/c.pt"


@pytest.mark.parametrize("end", ["#md5=123", "#sha256=xyz", "#sha256=abc", "#top"])
def test_what_else_follows_is_refused(end: str) -> None:
    with pytest.raises(InputError, match="sha256="):
        parse(f"https://example.org/c.pt{end}")


@pytest.mark.parametrize(
    "text",
    [
        "hf:",
        "hf:owner",
        "hf:owner/repository",
        "hf:owner/repository/",
        "hf:/b/c",
        "hf:a//c",
        "hf:../b/c.pt",
        "hf:a/../c.pt",
        "hf:a/b@/c.pt",
        "hf:a/b@../c.pt",
        "hf:a/b@x@y/c.pt",
    ],
)
def test_a_location_that_names_no_file_is_refused_readably(text: str) -> None:
    with pytest.raises(InputError, match=r"hf:owner/repository/file|names the file"):
        parse(text)


@pytest.mark.parametrize(
    "name",
    [
        "..",
        ".",
        "",
        ".hidden",
        "..%2f..%2fevil.pt",
        "%2e%2e",
        "a%2f..%2f..%2fb",
        "..\\evil.pt",
        "a%00b.pt",
        "a%0ab.pt",
        "-rf",
        " c.pt",
        "c.pt%20",
        "a" * 300,
        "con:c.pt",
        "~c.pt",
    ],
)
def test_a_file_name_that_could_leave_the_cache_is_refused(name: str) -> None:
    for text in (f"https://example.org/models/{name}", f"hf:owner/repository/{name}"):
        with pytest.raises(InputError, match=r"names the file|of the form"):
            parse(text)


@given(st.text(max_size=80))
def test_no_location_leaves_its_folder(text: str) -> None:
    for start in ("", "hf:", "hf:owner/repository/", "https://example.org/"):
        try:
            place = parse(start + text)
        except SpenderError:
            continue
        path = entry(place).path
        assert path.resolve().parent == entry(place).folder.resolve()
        assert entry(place).folder.parent == home() / "models"
        assert entry(place).part.resolve().parent == entry(place).folder.resolve()


def test_the_users_mirrors_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPENDER_MIRRORS", " https://a.org/b/ ,, /data/models,s3://bucket/x")
    assert mirrors() == ["https://a.org/b/", "/data/models", "s3://bucket/x"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:secret@host:80/a/b.pt?token=secret&x=secret#secret", "https://host:80/a/b.pt?token=...&x=..."),
        ("https://secret@host/b.pt", "https://host/b.pt"),
        ("https://host/b.pt?secret", "https://host/b.pt?..."),
        ("s3://secret:secret@bucket/key", "s3://bucket/key"),
        ("https://[secret/b.pt", "https://..."),
        ("https://me:se/cret@host/b.pt", "https://..."),
        ("https://me:se?cret@host/b.pt", "https://..."),
        ("https://host/b.pt?secret&x=secret&secret", "https://host/b.pt?...&x=...&..."),
        ("simplecache::https://me:secret@host/b.pt", "simplecache::https://host/b.pt"),
        ("/data/spec@home.fits", "/data/spec@home.fits"),
    ],
)  # fmt: skip
def test_secrets_in_a_url_are_not_shown(url: str, shown: str) -> None:
    assert redacted(url) == shown
    assert "cret" not in shown
