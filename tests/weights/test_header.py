"""The header of a safetensors file is checked against the file, before tensors are read."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from spender_core import weights
from spender_core.errors import MissingFileError, WeightsError
from spender_core.records import ModelCard

CARD = ModelCard(name="small", architecture="spectrum_autoencoder", latents=2).to_json()
SOUND: dict[str, Any] = {
    "__metadata__": {"spender": CARD},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "I64", "shape": [], "data_offsets": [24, 32]},
    "c": {"dtype": "U8", "shape": [0, 7], "data_offsets": [32, 32]},
}


def laid_out(header: bytes, data: bytes = bytes(32)) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def changed(name: str, **changes: Any) -> bytes:
    return laid_out(json.dumps(SOUND | {name: SOUND[name] | changes}).encode())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bad.safetensors"


@pytest.fixture
def refused(path: Path) -> Callable[[bytes], str]:
    """Return a function that reads a file, and returns why it was refused."""

    def message(content: bytes) -> str:
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"bad\.safetensors") as caught:
            weights.read(path)
        assert str(caught.value).isprintable()
        return str(caught.value)

    return message


def test_the_header_that_the_others_are_made_from_is_sound(path: Path) -> None:
    path.write_bytes(laid_out(json.dumps(SOUND).encode()))
    _, tensors = weights.read(path)
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {
        "a": (2, 3),
        "b": (),
        "c": (0, 7),
    }
    assert tensors.keys() == load_file(path).keys()


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.uint8),
        *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32),
    ],
    ids=str,
)
def test_tensors_are_read_as_safetensors_reads_them(path: Path, dtype: torch.dtype) -> None:
    tensors = {"a": (torch.rand(3, 5) * 9).to(dtype), "b": torch.ones((), dtype=dtype)}
    try:
        save_file(tensors, path, metadata={"spender": CARD})
    except KeyError:
        pytest.skip(f"this safetensors cannot write {dtype}")
    _, made = weights.read(path)
    for name, expected in load_file(path).items():
        assert made[name].dtype == expected.dtype
        assert torch.equal(made[name], expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes, too few"),
        (b"\x01" * 7, "7 bytes, too few"),
        (struct.pack("<Q", 2**63), "claims 9223372036854775808 bytes"),
        (struct.pack("<Q", 500) + b"{}", "claims 500 bytes, of 10 in the file"),
        (laid_out(b"not json"), "no JSON"),
        (laid_out(b"\xff\xfe{}"), "no JSON"),
        (laid_out(b"[]"), "is a list"),
        (laid_out(b'{"a": 1, "a": 1}'), "'a' is given twice"),
        (laid_out(b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}"), "no JSON"),
        (laid_out(b'{"a": ' + b"9" * 5000 + b"}"), "no JSON"),
        (laid_out(b"{" + b'"a":{},' * 30_000 + b"}"), "more than 4000 tensors"),
        (laid_out(json.dumps({str(k): 1 for k in range(20_000)}).encode()), "more than 4000"),
        (laid_out(b'{"__metadata__": {"a": 1}}'), "must be strings"),
        (laid_out(b'{"__metadata__": []}'), "must be strings"),
        (laid_out(b'{"a": 1}'), "must have dtype, shape and data_offsets"),
        (changed("a", more=1), "must have dtype, shape and data_offsets"),
        (changed("a", dtype="F8_E4M3"), "of type 'F8_E4M3'"),
        (changed("a", dtype=["F32"]), "of type"),
        (changed("a", shape=[2, -3]), "whole numbers"),
        (changed("a", shape=[2.0, 3.0]), "whole numbers"),
        (changed("a", shape=[True, 6]), "whole numbers"),
        (changed("a", shape="23"), "whole numbers"),
        (changed("a", shape=[1] * 17), "whole numbers"),
        (changed("a", shape=[2**40, 2**40]), "beyond all bounds"),
        (changed("a", shape=[0, 2**40, 2**40]), "beyond all bounds"),
        (changed("a", shape=[2, 4]), "takes 32 bytes, its header gives it 24"),
        (changed("a", data_offsets=[24, 0]), "first and last byte"),
        (changed("a", data_offsets=[0, 24, 24]), "first and last byte"),
        (changed("a", data_offsets=[-24, 0]), "first and last byte"),
        (changed("a", data_offsets=[8, 32]), "at byte"),
        (changed("b", data_offsets=[16, 24]), "overlaps"),
        (changed("b", data_offsets=[25, 33]), "leaves a gap"),
        (changed("b", data_offsets=[2**60, 2**60 + 8]), "leaves a gap"),
        (laid_out(json.dumps(SOUND).encode(), bytes(33)), "33 follow the header"),
        (laid_out(json.dumps(SOUND).encode(), bytes(31)), "31 follow the header"),
        (laid_out(json.dumps({"\x1b[31m": SOUND["a"]}).encode()), "not printable"),
        (laid_out(json.dumps({"": SOUND["a"]}).encode()), "not printable"),
    ],
)
def test_a_header_that_does_not_hold_is_refused(
    refused: Callable[[bytes], str], content: bytes, message: str
) -> None:
    assert message in refused(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html>\n<html><head></head>" + b" " * 500, "it is a web page"),
        (b"\xef\xbb\xbf\n<HTML>Sign in</HTML>", "it is a web page"),
        (b"PK\x03\x04" + bytes(100), "such files end in .pt"),
        (b"SIMPLE  =                    T" + b" " * 100, "it is a FITS file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "Git LFS"),
        (b"\x1f\x8b\x08" + bytes(50), "compressed with gzip"),
        (pickle.dumps({"model": [1] * 50}), "bare pickle"),
    ],
    ids=["page", "login", "pt", "fits", "lfs", "gzip", "pickle"],
)
def test_another_kind_of_file_is_told(
    refused: Callable[[bytes], str], content: bytes, message: str
) -> None:
    assert message in refused(content)


@pytest.mark.parametrize("part", range(50))
def test_a_file_cut_anywhere_is_refused(refused: Callable[[bytes], str], part: int) -> None:
    content = laid_out(json.dumps(SOUND).encode())
    refused(content[: part * len(content) // 50])


def test_a_flipped_byte_is_refused_or_changes_only_numbers_and_text(path: Path) -> None:
    content, random = laid_out(json.dumps(SOUND).encode()), np.random.default_rng(6)
    for place in random.integers(0, len(content), 400).tolist():
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(random.integers(8))
        path.write_bytes(flipped)
        try:
            _, tensors = weights.read(path)
        except WeightsError:
            continue
        assert sum(t.numel() * t.element_size() for t in tensors.values()) == 32


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    for name in ("pipe.safetensors", "."):
        with pytest.raises(WeightsError, match="is not a file"):
            weights.read(tmp_path / name)
    with pytest.raises(MissingFileError):
        weights.read(tmp_path / "absent.safetensors")


def test_a_file_that_shrinks_while_it_is_read_is_refused(path: Path) -> None:
    save_file({"a": torch.zeros(500_000)}, path, metadata={"spender": CARD})
    with weights.opened(path) as (_, stored):
        os.truncate(path, 1_000_000)
        with pytest.raises(WeightsError, match="ended while it was read"):
            stored.take(stored.shapes)


def test_the_card_alone_is_read_without_tensors(path: Path) -> None:
    path.write_bytes(laid_out(json.dumps(SOUND).encode()))
    assert weights.read_card(path) == weights.read(path)[0]
