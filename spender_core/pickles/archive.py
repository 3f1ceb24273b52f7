"""The zip archives of torch.save: records stored as they are, and no more than the file has."""

from __future__ import annotations

import re
import zipfile
from io import BufferedReader

from spender_core.pickles.rebuild import RefusedError

LARGEST_DIRECTORY = 2**20
"""Bytes of a zip archive's directory; some 80 for each tensor."""
LARGEST_PICKLE = 2**23
"""Bytes of the instructions; some 250 for each tensor."""

_NAME = re.compile(r"[^/\\\x00-\x1f]+(/[^/\\\x00-\x1f]+)+")
_KEY = re.compile(r"\d{1,9}")
_END, _END_64 = b"PK\x05\x06", b"PK\x06\x06"
_END_SIZE, _ENDS_SIZE = 22, 98


class Archive:
    """A zip archive of torch.save, with its directory checked.

    Args:
        file: The file.
        size: Its bytes.

    Raises:
        RefusedError: It is compressed, encrypted, TorchScript, or claims more than the file has.
    """

    def __init__(self, file: BufferedReader, size: int) -> None:
        _check_end(file, size)
        self._zip = zipfile.ZipFile(file)
        self._records = {info.filename: info for info in self._zip.infolist()}
        for info in self._records.values():
            _check_record(info)
        if len(self._records) < len(self._zip.infolist()):
            raise RefusedError("its archive has two records of one name")
        if sum(info.file_size for info in self._records.values()) > size:
            raise RefusedError("its archive claims more bytes than the file has")
        self._folder = self._only_folder()
        self._check_order()

    def instructions(self) -> bytes:
        """Return the pickled description of the content."""
        return self._record("data.pkl", LARGEST_PICKLE)

    def storage(self, key: str, size: int) -> bytes:
        """Return the numbers of a storage of `size` bytes."""
        name = f"{self._folder}/data/{key}"
        if not _KEY.fullmatch(key) or name not in self._records:
            raise RefusedError(f"it lacks the storage {key[:20]!r}")
        found = self._records[name].file_size
        if found != size:
            raise RefusedError(f"the storage {key} has {found} bytes, {size} are claimed")
        return self._record(f"data/{key}", size)

    def _record(self, name: str, most: int) -> bytes:
        info = self._records[f"{self._folder}/{name}"]
        if info.file_size > most:
            raise RefusedError(f"its record {name} has {info.file_size} bytes, allowed are {most}")
        return self._zip.read(info)

    def _only_folder(self) -> str:
        folders = {name.partition("/")[0] for name in self._records}
        folder = next(iter(folders), "")
        names = {name.partition("/")[2] for name in self._records}
        if "constants.pkl" in names or any(name.startswith("code/") for name in names):
            raise RefusedError(
                "it is a TorchScript archive, which holds code; save a state_dict instead"
            )
        if len(folders) != 1 or "data.pkl" not in names:
            raise RefusedError(
                "its archive is not one of torch.save, with one folder and its data.pkl"
            )
        return folder

    def _check_order(self) -> None:
        name = f"{self._folder}/byteorder"
        order = self._record("byteorder", 16) if name in self._records else b"little"
        if order != b"little":
            raise RefusedError(
                f"its numbers are in the byte order {order!r}; save it again on a PC"
            )


def _check_end(file: BufferedReader, size: int) -> None:
    """Bound the directory, before it is read: its size stands at the end of the file."""
    file.seek(max(0, size - _ENDS_SIZE))
    ends = file.read(_ENDS_SIZE)
    end = ends[-_END_SIZE:]
    if not end.startswith(_END):
        raise RefusedError("it is damaged: its archive has no end; download it again")
    large = int.from_bytes(ends[40:48], "little") if ends.startswith(_END_64) else 0
    if max(large, int.from_bytes(end[12:16], "little")) > LARGEST_DIRECTORY:
        raise RefusedError(
            f"the directory of its archive takes more than {LARGEST_DIRECTORY} bytes"
        )
    file.seek(0)


def _check_record(info: zipfile.ZipInfo) -> None:
    name = info.filename[:80]
    if not _NAME.fullmatch(info.filename) or ".." in info.filename.split("/"):
        raise RefusedError(f"its archive has a record named {name!r}")
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise RefusedError(f"the record {name!r} is compressed, which torch never does")
    if info.flag_bits & 0x1:
        raise RefusedError(f"the record {name!r} is encrypted")
