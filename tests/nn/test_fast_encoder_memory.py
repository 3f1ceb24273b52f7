"""What the encoder's fast path keeps, for the backward pass, for later, and at most."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from encoders import deviation, direct, encoder, spectra
from torch import Tensor, nn

STATUS = Path("/proc/self/status")


def kept(model: nn.Module, flux: Tensor) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, each storage once."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(flux).sum()
    total = sum(sizes.values())
    loss.backward()
    return total


def test_training_keeps_less_memory_than_the_layers() -> None:
    model, flux = encoder(torch.float32).train(), spectra(32, torch.float32)
    assert kept(model, flux) < 0.6 * kept(direct(model), flux)


def alive(least: int) -> set[int]:
    """Return the tensors that Python holds of at least so many numbers, by address."""
    gc.collect()
    found = (each for each in gc.get_objects() if type(each) is Tensor)
    return {each.untyped_storage().data_ptr() for each in found if each.numel() >= least}


def test_hooks_see_all_that_is_kept() -> None:
    """Nothing as large as the spectra is held otherwise, before or after the backward pass."""
    model, flux = encoder(torch.float32).train(), spectra(32, torch.float32)
    model(flux).sum().backward()
    before = alive(flux.numel())

    def pack(tensor: Tensor) -> tuple[object, torch.Size]:
        return tensor.detach().numpy().copy(), tensor.shape

    def unpack(packed: tuple[object, torch.Size]) -> Tensor:
        return torch.tensor(packed[0]).view(packed[1])

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        loss = model(flux).sum()
    assert alive(flux.numel()) <= before
    loss.backward()
    assert alive(flux.numel()) <= before


def test_transforms_are_kept_for_encoding_only() -> None:
    model, flux = encoder(), spectra()

    def held() -> list[bool]:
        return [cache._kept is not None for cache in model._kernels]

    def encoded() -> Tensor:
        with torch.no_grad():
            latents: Tensor = model(flux)
        assert held() == [True, True]
        return latents

    before = encoded()
    model.eval()
    assert held() == [True, True]
    model.train()
    assert held() == [False, False]
    assert torch.equal(encoded(), before)
    model.float()
    assert held() == [False, False]
    nn.ModuleList([model]).double()
    assert deviation(encoded(), before) < 1e-5


def test_pieces_of_a_batch_do_not_matter() -> None:
    model, flux = encoder(), spectra(70)
    with torch.no_grad():
        found = model(flux)
    assert deviation(found, direct(model)(flux)) < 1e-11
    assert deviation(found, model(flux)) < 1e-12


PEAKS = """
import torch
from encoders import encoder, spectra
from growth import resident
model, flux = encoder(torch.float32), spectra(512, torch.float32)
with torch.no_grad():
    for n in (64, 64, 512):
        model(flux[:n])
        print(resident("VmHWM"))
"""


@pytest.mark.skipif(not STATUS.exists(), reason="needs Linux to measure memory")
def test_memory_of_encoding_does_not_grow_with_the_batch() -> None:
    """In a process of its own, which holds no memory that others have freed."""
    done = subprocess.run(
        [sys.executable, "-c", PEAKS],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    _, few, many = map(int, done.stdout.split())
    assert many < few + 64 * 2**20


def test_threads_share_the_transforms() -> None:
    """Whichever thread fills or drops them, each gets the latents of its own spectra."""
    model = encoder()
    batches = [spectra(1, pixels=pixels) for pixels in (1501, 1601, 1501, 1701)]
    with torch.no_grad():
        expected = [model(flux) for flux in batches]
    wrong: list[int] = []

    def work(i: int) -> None:
        with torch.no_grad():
            for _ in range(6):
                model.train(mode=False)
                if i == 0:
                    model._forget()
                if not torch.equal(model(batches[i]), expected[i]):
                    wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
