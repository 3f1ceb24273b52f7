"""Files of torch.save, read without running anything in them.

torch writes a zip archive: `data.pkl` describes the content as instructions of a pickle,
and refers to the numbers of each tensor, which lie in a record of their own. Here those
instructions are followed that plain tensors, arrays and numbers need, by functions of
this package; others are refused by name. Neither `pickle` nor `torch.load` takes part: the
first runs what a file names, the second takes memory for what a file merely claims.
"""

from __future__ import annotations

import os
from typing import Any

from spender_core.errors import WeightsError
from spender_core.pickles.archive import Archive
from spender_core.pickles.machine import Machine
from spender_core.pickles.rebuild import RefusedError, Storages
from spender_core.records import printable
from spender_core.weights.files import opened_file
from spender_core.weights.header import begins_header, content_of

__all__ = ["read"]

_FIRST = b"PK\x03\x04"


def read(path: str | os.PathLike[str]) -> Any:
    """Read plain data from a file of torch.save: tensors, arrays, numbers, containers.

    Tensors come on the host, without gradients; Parameters as tensors.

    Raises:
        MissingFileError: There is no such file.
        WeightsError: It is damaged, or holds anything else.
    """
    with opened_file(path) as (file, size):
        head = file.read(64)
        try:
            if not head.startswith(_FIRST):
                raise RefusedError(_other(head))
            archive = Archive(file, size)
            return Machine(Storages(archive.storage)).run(archive.instructions())
        except RefusedError as error:
            reason = str(error)
        except Exception as error:  # damage shows in many ways: BadZipFile, IndexError, ...
            reason = f"it is damaged: {str(error)[:200] or type(error).__name__}"
    raise WeightsError(
        f"{path} cannot be read: {printable(reason)}. Only plain tensors and arrays are read, "
        "since anything else could run code"
    )


def _other(head: bytes) -> str:
    if begins_header(head):
        return "it is a safetensors file; such files end in .safetensors"
    return content_of(head) or "it is no zip archive, as torch writes since 1.6"
