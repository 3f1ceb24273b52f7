"""Mutations: the same ones for the same seed, files that their formats still allow, many kinds."""

from __future__ import annotations

import hashlib
import io
import struct
import subprocess
import sys
import zipfile
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from fuzz import mutate_fits, mutate_pt, mutate_safetensors, mutations, seeds

FIRST = {
    "safetensors": "21531bb867692e7f",
    "pt": "bf9cea21413fd269",
    "fits": "cd6c3cc562668030",
}
"""Of the first 50 cases of seed 1, made from the committed files: the hash of all bytes."""


@pytest.mark.parametrize("kind", seeds.BINARY)
def test_a_case_is_told_by_kind_seed_and_number(kind: str) -> None:
    digest = hashlib.sha256()
    for number in range(50):
        for name, content in mutations.make(kind, 1, number, real_share=0).files.items():
            digest.update(name.encode() + content)
    assert digest.hexdigest()[:16] == FIRST[kind]


@pytest.mark.parametrize("kind", seeds.KINDS)
def test_cases_differ_by_number_and_by_seed(kind: str) -> None:
    made = [mutations.make(kind, seed, n, 0).files for seed in (1, 2) for n in range(40)]
    assert len({repr(files) for files in made}) > len(made) // 2
    assert made[3] == mutations.make(kind, 1, 3, 0).files


@pytest.mark.parametrize("kind", seeds.BINARY)
def test_every_mutation_is_drawn(kind: str) -> None:
    drawn = {step for n in range(400) for step in mutations.make(kind, 1, n, 0).steps}
    known = {one.__name__ for one in (*mutations.mutators(kind), *mutations.BLIND)}
    assert drawn == known


@pytest.mark.parametrize("kind", seeds.KINDS)
def test_nothing_is_too_damaged_to_be_mutated(kind: str) -> None:
    rng = np.random.default_rng(1)
    for content in (b"", b"\0", b"PK\3\4", b"\xff" * 3000, b"{}", b"SIMPLE  =" + b" " * 2871):
        for step in (*mutations.mutators(kind), *mutations.BLIND):
            for _ in range(5):
                assert isinstance(step(content, rng, content), bytes)


def test_a_zip_built_here_is_a_zip() -> None:
    sound = seeds.corpus("pt")["seed-plain"]["plain.pt"]
    parts = mutate_pt.entries(sound)
    assert len(parts) > 10
    again = mutate_pt.build(parts)
    with zipfile.ZipFile(io.BytesIO(again)) as file:
        assert file.testzip() is None
        assert {i.filename: file.read(i) for i in file.infolist()} == {
            p.name: p.content for p in parts
        }
        assert all(i.header_offset + len(i.filename) + 34 <= len(again) for i in file.infolist())
    assert mutate_pt.entries(again) == parts


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 200_000])
def test_deflate_without_a_library(size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    assert zlib.decompress(mutate_pt.stored(content[:size]), -15) == content[:size]


def test_many_zeros_in_few_bytes() -> None:
    packed, size = mutate_pt.packed_zeros(1000)
    assert zlib.decompress(packed, -15) == bytes(size)
    assert size > 100 * len(packed)


@pytest.mark.parametrize("payload", [p for p in mutate_pt.PAYLOADS if b"torch" not in p])
def test_a_payload_would_run(payload: bytes, tmp_path: Path) -> None:
    code = "import pickle, sys; pickle.loads(sys.stdin.buffer.read())"
    content = b"\x80\x04" + payload[:-1] + b"."
    subprocess.run([sys.executable, "-c", code], input=content, cwd=tmp_path, check=True)
    assert (tmp_path / mutate_pt.CANARY).exists()


def test_headers_of_fits_are_walked() -> None:
    for _, files in seeds.small("fits"):
        for name, content in files.items():
            hdus = mutate_fits.walk(content)
            assert hdus[-1].end == len(content), name
            assert all(a.end == b.start for a, b in pairwise(hdus))


def test_a_header_of_safetensors_is_put_together_again() -> None:
    content = seeds.corpus("safetensors")["seed-one"]["one.safetensors"]
    parts = mutate_safetensors.split(content)
    assert parts is not None
    again = mutate_safetensors.join(*parts)
    assert mutate_safetensors.split(again) == parts
    assert struct.unpack("<Q", again[:8])[0] % 8 == 0
