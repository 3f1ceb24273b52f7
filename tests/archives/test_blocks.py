"""The cache of archive files: what is kept, found again, found damaged, and removed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spender_core.archives.location import redacted
from spender_core.archives.remote import keeping, whole
from spender_core.archives.remote.blocks import BLOCK, Entry, drop, save
from spender_core.errors import InputError

URL = "https://archive.invalid/a/spec.fits"
CONTENT = np.random.default_rng(1).bytes(10 * BLOCK + 777)


def entry(version: str = "v1", content: bytes = CONTENT, url: str = URL) -> Entry:
    made = Entry.create(url, len(content), version)
    assert made is not None
    return made


def all_files() -> list[Path]:
    return [path for path in keeping.folder().rglob("*") if path.is_file()]


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None
)
@given(st.lists(st.tuples(st.integers(0, 10), st.integers(1, 11)), max_size=6))
def test_blocks_that_were_written_are_read_and_no_others(runs: list[tuple[int, int]]) -> None:
    with entry() as one:
        written = set()
        for first, count in runs:
            stop = min(first + count, 11)
            assert one.write(first, CONTENT[first * BLOCK : stop * BLOCK])
            written |= set(range(first, stop))
    with Entry.open(URL) as again:  # type: ignore[union-attr]
        assert set(np.flatnonzero(again.has(0, 11)).tolist()) == written
        found = again.read(0, 11)
        assert set(found) == written
        for block, part in found.items():
            assert part == CONTENT[block * BLOCK : (block + 1) * BLOCK]
    drop(URL)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None
)
@given(st.data())
def test_whatever_is_damaged_counts_as_absent(data: st.DataObject) -> None:
    """Bytes of the index or of the blocks are changed, or their ends cut off."""
    with entry() as one:
        one.write(0, CONTENT)
    save(URL + "?small", CONTENT[:5000], "v")
    kind = data.draw(st.sampled_from(["index", "blocks", "whole"]))
    (path,) = [path for path in all_files() if path.suffix == f".{kind}"]
    content = bytearray(path.read_bytes())
    place = int(data.draw(st.floats(0, 1, exclude_max=True)) * len(content))
    if data.draw(st.booleans()):
        del content[place:]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    again = Entry.open(URL)
    if again is not None:
        with again:
            for block, part in again.read(0, 11).items():
                assert part == CONTENT[block * BLOCK : (block + 1) * BLOCK]
    kept = whole.load(URL + "?small")
    assert kept is None or kept.content == CONTENT[:5000]
    # and it can be kept anew
    with entry() as one:
        assert one.write(0, CONTENT)
        assert len(one.read(0, 11)) == 11
    drop(URL)


def test_versions_are_never_mixed() -> None:
    other = CONTENT[::-1]
    with entry("v1") as old:
        old.write(0, CONTENT)
        with entry("v2", other) as new:
            new.write(3, other[3 * BLOCK : 4 * BLOCK])
            assert old.read(2, 4)[3] == CONTENT[3 * BLOCK : 4 * BLOCK]
            old.write(5, CONTENT[5 * BLOCK : 6 * BLOCK])
            assert list(new.read(0, 11)) == [3]
            assert new.read(3, 4)[3] == other[3 * BLOCK : 4 * BLOCK]
    with Entry.open(URL) as now:  # type: ignore[union-attr]
        assert now.version == "v2"
    assert len(all_files()) == 2


def test_files_without_a_version_are_kept_whole_or_not_at_all() -> None:
    assert Entry.create(URL, len(CONTENT), "") is None
    assert save(URL, CONTENT[:1000], "")
    kept = whole.load(URL)
    assert kept is not None
    assert kept.content == CONTENT[:1000]


@pytest.mark.parametrize(
    "url",
    [
        "https://h.invalid/../../../etc/passwd",
        "https://h.invalid/%2e%2e/%2e%2e/x",
        "https://h.invalid/a\0b/\n../c",
        "s3://bucket/../../key",
        "https://h.invalid/" + "x" * 9000,
        "https://[::1/broken",
        "https://h.invalid/\ud800",
    ],
)
def test_no_url_leads_out_of_the_folder(url: str) -> None:
    assert save(url, CONTENT[:100], "../../v")
    with entry("../../v\0", url=url) as one:
        one.write(0, CONTENT)
    files = all_files()
    assert len(files) == 3
    for path in files:
        assert path.resolve().parent.parent == keeping.folder().resolve()
        assert set(path.name.partition(".")[0]) <= set("0123456789abcdef")


def test_no_secret_is_on_the_disk() -> None:
    url = "https://alice:pw123@h.invalid/spec.fits?token=hidden"
    assert save(url, CONTENT[:100], "v")
    with entry(url=url) as one:
        one.write(0, CONTENT)
    held = b"".join(path.read_bytes() + str(path).encode() for path in all_files())
    for secret in (b"alice", b"pw123", b"hidden"):
        assert secret not in held
    assert redacted(url).encode() in held
    assert whole.load("https://h.invalid/spec.fits?token=hidden") is not None
    assert whole.load("https://h.invalid/spec.fits?token=other") is None


def test_buckets_of_different_endpoints_are_different(monkeypatch: pytest.MonkeyPatch) -> None:
    save("s3://desidata/a", b"public", "v")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert whole.load("s3://desidata/a") is None


def test_what_was_not_used_for_longest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPENDER_CACHE_SIZE", "4MB")
    urls = [f"https://h.invalid/{k}" for k in range(60)]
    content = np.random.default_rng(2).bytes(200_000)
    save(urls[0], content, "v")
    held = entry(content=content * 2, url="https://h.invalid/held")
    held.write(0, (content * 2)[: 24 * BLOCK])
    for k, url in enumerate(urls[1:]):
        os.utime(whole.path_of(urls[0], "whole"), (2e9 + k, 2e9 + k))  # used again and again
        save(url, content, "v")
        old = 1e9 + k
        if whole.is_kept(url):
            os.utime(whole.path_of(url, "whole"), (old, old))
        taken = sum(path.stat().st_blocks * 512 for path in all_files())
        assert taken <= 4e6 + len(content)
    assert whole.is_kept(urls[0])
    assert whole.is_kept(urls[-1])
    assert not whole.is_kept(urls[1])
    assert len(held.read(0, 24)) == 24
    held.close()
    assert keeping.clear() > 1e6
    assert keeping.used() == []


def test_leftovers_of_killed_processes_go_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPENDER_CACHE_SIZE", "1MB")
    save(URL, b"content", "v")
    stem = whole.path_of(URL, "whole").with_suffix("")
    old, new = (stem.with_name(f"{stem.name}.{c * 16}.part") for c in "ab")
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1e9, 1e9))
    foreign = keeping.folder() / "notes.txt"
    foreign.write_text("mine")
    for k in range(20):
        save(f"{URL}?{k}", CONTENT[:100_000], "v")
    assert not old.exists()
    assert foreign.exists()


@pytest.mark.parametrize(
    ("text", "size"),
    [("20GB", 20 * 10**9), ("0", 0), ("1.5 MiB", 3 << 19), ("7k", 7000), ("", 20 * 10**9)],
)
def test_sizes(text: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPENDER_CACHE_SIZE", text)
    assert keeping.bound() == size


def test_sizes_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPENDER_CACHE_SIZE", "plenty")
    with pytest.raises(InputError, match="SPENDER_CACHE_SIZE must be a size such as 20GB"):
        keeping.bound()


def test_without_a_cache_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPENDER_CACHE_SIZE", "0")
    assert not save(URL, CONTENT, "v")
    assert Entry.create(URL, len(CONTENT), "v") is None
    assert not keeping.folder().exists()
