"""Files that would run code, or take what they only claim, do neither."""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from growth import outcomes
from states import state

from spender_core import legacy, pickles
from spender_core.errors import MissingFileError, WeightsError

MIB = 2**20


def zipped(instructions: bytes, storages: dict[str, bytes] | None = None, **how: Any) -> bytes:
    """Return a file as torch lays it out, with any instructions and storages."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **how) as archive:
        archive.writestr("x/data.pkl", instructions)
        archive.writestr("x/byteorder", b"little")
        for key, content in (storages or {}).items():
            archive.writestr(f"x/data/{key}", content)
        archive.writestr("x/version", b"3\n")
    return buffer.getvalue()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def called(name: str, *arguments: str) -> bytes:
    """Return instructions that call a function, as pickle would write them."""
    module, _, function = name.rpartition(".")
    call = f"c{module}\n{function}\n".encode()
    return b"\x80\x02" + call + b"(" + b"".join(map(text, arguments)) + b"tR."


def tensor_of(count: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    """Return instructions for a tensor in a storage of `count` numbers."""
    numbers = [pickle.dumps(n, 2)[2:-1] for n in (count, offset)]
    shapes = [pickle.dumps(shape, 2)[2:-1] for shape in (size, stride)]
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    storage += numbers[0] + b"tQ"
    rest = numbers[1] + shapes[0] + shapes[1] + b"\x89" + b"ccollections\nOrderedDict\n)R"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + b"tR."


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bad.pt"


@pytest.fixture
def refused(path: Path) -> Callable[[bytes], str]:
    """Return a function that reads a file, and returns why it was refused."""

    def message(content: bytes) -> str:
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"bad\.pt cannot be read: ") as caught:
            pickles.read(path)
        assert str(caught.value).isprintable()
        return str(caught.value)

    return message


# -- code -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("os.system", "posix.system", "subprocess.getoutput", "pty.spawn", "shutil.rmtree"),
        *("builtins.exec", "builtins.eval", "__builtin__.exec", "builtins.getattr"),
        *("torch.hub.load", "torch.load", "torch.jit.load", "torch.ops.load_library"),
        *(
            "torch._utils._import_dotted_name",
            "torch.serialization.load",
            "torch.storage._load_from_bytes",
        ),
        *("numpy.load", "numpy.fromfile", "numpy.memmap", "numpy.testing._private.utils.runstring"),
        *("importlib.import_module", "runpy.run_path", "webbrowser.open", "codecs.open"),
        *(
            "torch._utils._rebuild_tensor",
            "torch._tensor._rebuild_from_type_v2",
            "copyreg._reconstructor",
        ),
    ],
)
def test_a_function_is_refused_by_name_and_not_called(
    refused: Callable[[bytes], str], tmp_path: Path, name: str
) -> None:
    target = tmp_path / "trace"
    message = refused(zipped(called(name, f"touch {target}")))
    assert f"it asks for {name}, which could run code" in message
    assert not target.exists()


def test_what_would_leave_a_trace_leaves_none(
    refused: Callable[[bytes], str], tmp_path: Path
) -> None:
    target = tmp_path / "trace"
    evil = called("os.system", f"touch {target}")
    refused(zipped(evil))
    assert not target.exists()
    pickle.loads(evil)
    assert target.exists(), "the instructions would not have done anything"


def test_a_module_named_by_a_file_is_not_imported(
    refused: Callable[[bytes], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spender_trap.py").write_text("raise SystemExit", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    refused(zipped(b"\x80\x02cspender_trap\nspring\n."))
    assert "spender_trap" not in sys.modules


@pytest.mark.parametrize(
    ("instructions", "message"),
    [
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb.", "the state of"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "no function"),
        (b"\x80\x02cnumpy\nndarray\n)R.", "asks to call numpy.ndarray"),
        (b"\x80\x02ccollections\nOrderedDict\n]\x85R.", "OrderedDict in a form"),
        (b"\x80\x02" + text("pid") + b"Q.", "no storage of numbers"),
        (b"\x80\x02(" + text("storage") + b"NNNNtQ.", "unknown kind"),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "instruction NEWOBJ"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "protocol 4"),
        (b"(dp0\n.", "instruction DICT"),
        (b"\x80\x02\x82\x01.", "instruction EXT1"),
        (b"\x80\x02]K\x01K\x04s.", "no dictionary"),
        (b"\x80\x02})K\x04s.", "named by no text or number"),
        (b"\x80\x02NK\x01a.", "no list"),
        (b"\x80\x02K\x01K\x02.", "damaged"),
        (b"\x80\x02h\x07.", "damaged"),
        (b"\x80\x02R.", "damaged"),
        (b"\x80\x02", "damaged"),
        (b"", "damaged"),
    ],
)
def test_instructions_that_data_never_need_are_refused(
    refused: Callable[[bytes], str], instructions: bytes, message: str
) -> None:
    assert message in refused(zipped(instructions))


def test_a_reference_outside_of_the_archive_is_refused(
    refused: Callable[[bytes], str],
) -> None:
    outside = tensor_of(1, (1,), (1,)).replace(text("0"), text("../data.pkl"))
    assert "lacks the storage" in refused(zipped(outside, {"0": bytes(4)}))


# -- tensors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "size", "stride", "offset"),
    [
        (4, (5,), (1,), 0),
        (4, (4,), (1,), 1),
        (4, (2, 2), (4, 1), 0),
        (4, (40,), (0,), 0),
        (4, (2,), (-1,), 1),
        (4, (-2,), (1,), 0),
        (4, (1,), (1,), -1),
        (4, (1,), (1,), 4),
        (4, (0,), (1,), 5),
        (4, (2,), (1, 1), 0),
        (4, (0, 2**50), (1, 1), 0),
        (4, (2**31, 2**31, 4), (1, 1, 1), 0),
        (4, (1,) * 20, (1,) * 20, 0),
        (5, (1,), (1,), 0),
        (3, (1,), (1,), 0),
        (-1, (1,), (1,), 0),
        (2**62, (1,), (1,), 0),
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(
    refused: Callable[[bytes], str],
    count: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    offset: int,
) -> None:
    message = refused(zipped(tensor_of(count, size, stride, offset), {"0": bytes(16)}))
    assert "tensor" in message or "storage" in message


def test_the_crafted_tensor_is_read_where_it_fits(path: Path) -> None:
    content = np.arange(4, dtype="<f4").tobytes()
    path.write_bytes(zipped(tensor_of(4, (2,), (2,), 1), {"0": content}))
    assert pickles.read(path).tolist() == [1.0, 3.0]


# -- archives -------------------------------------------------------------------------------


def good() -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": state(), "losses": np.zeros(100)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("part", range(50))
def test_a_file_cut_anywhere_is_refused(refused: Callable[[bytes], str], part: int) -> None:
    content = good()
    refused(content[: part * len(content) // 50])


def test_a_flipped_byte_changes_nothing_or_is_refused(path: Path) -> None:
    content, random = good(), np.random.default_rng(5)
    path.write_bytes(content)
    sound = pickles.read(path)["model"]
    kept = 0
    for place in random.integers(0, len(content), 300).tolist():
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(random.integers(8))
        path.write_bytes(flipped)
        try:
            made = pickles.read(path)["model"]
        except WeightsError:
            continue
        kept += 1
        assert all(torch.equal(made[name], tensor) for name, tensor in sound.items())
    assert kept < 200


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no zip archive"),
        (b"<!DOCTYPE html><html>404</html>", "it is a web page"),
        (b"\n <html>login</html>", "it is a web page"),
        (b"SIMPLE  =                    T", "it is a FITS file"),
        (struct.pack("<Q", 20) + b'{"a":{}}' * 10, "it is a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (pickle.dumps({"model": 1}, 2), "bare pickle"),
        (b"PK\x03\x04" + bytes(200), "has no end"),
        (zipped(b"\x80\x02N.", compression=zipfile.ZIP_DEFLATED), "is compressed"),
    ],
    ids=["empty", "html", "login", "fits", "safetensors", "lfs", "pickle", "zip", "deflated"],
)
def test_another_kind_of_file_is_told(
    refused: Callable[[bytes], str], content: bytes, message: str
) -> None:
    assert message in refused(content)


def renamed(**names: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ({"x/data.pkl": b"", "x/constants.pkl": b""}, "TorchScript"),
        ({"x/data.pkl": b"", "x/code/a.py": b""}, "TorchScript"),
        ({"x/data.pkl": b"", "y/version": b""}, "one folder"),
        ({"x/version": b""}, "one folder"),
        ({"data.pkl": b""}, "a record named"),
        ({"x/data.pkl": b"", "x/../../y": b""}, "a record named"),
        ({"x/data.pkl": b"\x80\x02N.", "x/byteorder": b"big"}, "byte order"),
        ({"x/data.pkl": bytes(9 * MIB)}, "allowed are"),
    ],
    ids=["script", "code", "two folders", "no data", "no folder", "above", "order", "large"],
)
def test_another_archive_is_refused(
    refused: Callable[[bytes], str], records: dict[str, bytes], message: str
) -> None:
    assert message in refused(renamed(**records))


def test_an_encrypted_record_is_refused(refused: Callable[[bytes], str]) -> None:
    content = bytearray(zipped(b"\x80\x02N."))
    entry = content.index(b"PK\x01\x02")
    content[entry + 8] |= 1
    assert "is encrypted" in refused(bytes(content))


def test_a_record_under_two_names_is_counted_twice(refused: Callable[[bytes], str]) -> None:
    content = zipped(b"\x80\x02N.", {"0": bytes(5000), "1": bytes(5000)})
    first, second = (content.index(b"x/data/" + k) - 30 for k in (b"0", b"1"))
    end = content.index(b"PK\x01\x02")
    entry = content.index(b"x/data/1", end) - 46
    aimed = bytearray(content)
    aimed[entry + 42 : entry + 46] = struct.pack("<I", first)
    assert struct.unpack("<I", content[entry + 42 : entry + 46]) == (second,)
    aimed[entry + 20 : entry + 28] = struct.pack("<II", 10_000, 10_000)
    assert "more bytes than the file" in refused(bytes(aimed))


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    for name in ("pipe.pt", "."):
        with pytest.raises(WeightsError, match="is not a file"):
            pickles.read(tmp_path / name)
    with pytest.raises(MissingFileError):
        pickles.read(tmp_path / "absent.pt")
    with pytest.raises(WeightsError):
        pickles.read("a\0b.pt")


# -- memory and time ------------------------------------------------------------------------


def bombs() -> dict[str, bytes]:
    """Return files that claim, or would unfold to, far more than they hold."""
    encode = b"c_codecs\nencode\nq\x00" + text("z" * MIB) + b"q\x01" + text("latin1") + b"q\x02"
    again = b"h\x00h\x01h\x02\x86R"
    deep = b"(]q\x00" + (b"](" + b"h\x00" * 10 + b"eq\x00") * 40 + b"t"
    wave = b"}" + text("decoder.wave_rest") + tensor_of(1, (1,), (1,))[2:-1] + b"s"
    nested = b"\x80\x02}" + text("model") + wave + b"s" + text("losses") + deep + b"s."
    return {
        "deflated": zipped(
            b"\x80\x02N.", {"0": bytes(400 * MIB)}, compression=zipfile.ZIP_DEFLATED
        ),
        "expanded": zipped(tensor_of(1, (1_900_000_000,), (0,)), {"0": bytes(4)}),
        "claimed": zipped(tensor_of(10**12, (10**12,), (1,)), {"0": bytes(4)}),
        "memo": zipped(b"\x80\x02Nr\xff\xff\xff\x7f."),
        "lists": zipped(b"\x80\x02(" + b"]" * 4 * MIB + b"t."),
        "tuples": zipped(b"\x80\x02)" + b"\x85" * 150_000 + b"."),
        "encoded": zipped(b"\x80\x02(" + encode + again * 20_000 + b"t."),
        "unfolded": zipped(nested, {"0": bytes(4)}),
        "directory": renamed(**{f"x/{k}": b"" for k in range(30_000)}),
        "text": zipped(b"\x80\x02" + b"X\xff\xff\xff\x7f"),
    }


def test_no_file_takes_more_than_it_holds(tmp_path: Path) -> None:
    sound = tmp_path / "sound.pt"
    torch.save({"model": state()}, sound)
    made = bombs()
    files = [tmp_path / f"{name}.pt" for name in made]
    for file, content in zip(files, made.values(), strict=True):
        file.write_bytes(content)
    for file, outcome in zip(files, outcomes("sdss", sound, files), strict=True):
        assert outcome.error.startswith("WeightsError"), (file.name, outcome)
        assert outcome.grown < 4 * file.stat().st_size + 32 * MIB, (file.name, outcome)
        assert outcome.seconds < 5, (file.name, outcome)


def test_a_refusal_of_the_mapping_names_the_file(path: Path) -> None:
    path.write_bytes(zipped(b"\x80\x02}."))
    with pytest.raises(WeightsError, match=r"bad\.pt is not a spender file"):
        legacy.read(path, "tiny")
