"""No message about a dataset shows what its URL has of secrets."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest
from small_datasets import Tiny, written

from spender_core.datasets.reading import Dataset
from spender_core.datasets.stores import Store
from spender_core.datasets.stream import Stream
from spender_core.errors import InputError

pytest.importorskip("pyarrow")


def test_no_password_is_shown(tmp_path: Path) -> None:
    root, _ = written(tmp_path, 200)
    memory = fsspec.filesystem("memory")
    for path in root.rglob("*.*"):
        if path.is_file():
            memory.pipe_file(f"/me:hidden@h/ds/{path.relative_to(root)}", path.read_bytes())
    stream = Stream(Dataset("memory://me:hidden@h/ds", Tiny()), batch_size=64)
    with pytest.raises(InputError, match="memory://h/ds is not the one") as caught:
        stream.load_state_dict({**stream.state_dict(), "fingerprint": "0" * 64})
    assert "hidden" not in str(caught.value)
    for refused in (Dataset, Store):
        with pytest.raises(InputError, match="credentials") as caught:
            refused("s3://KEY:hidden@bucket/x")
        assert "hidden" not in str(caught.value)
