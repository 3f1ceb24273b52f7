"""Models from their cards: built within bounds, compared with the file, then filled.

A card may ask for anything. The network is built without the random values that a file
replaces, so that its parameters take address space, not memory; and it is stopped where
its parameters go beyond what the file can fill, or where it takes too much of anything
else. Only when names, types and shapes agree are the tensors read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from spender_core.errors import GridError, SpenderError, WeightsError
from spender_core.grid import as_grid
from spender_core.interfaces import Flow, Instrument, Model
from spender_core.records import ModelCard, printable
from spender_core.weights.describing import lsf_kind, lsf_taps
from spender_core.weights.files import WAVE_REST, Stored, check_finite

_FREE_PARAMETERS, _PARAMETERS = 2**16, 2
"""Bytes that parameters may take: so many, and so many times those in the file."""
_OTHERS = 2**29
"""Bytes that an architecture may take for what no file holds, such as masks."""
_FREE_CALLS, _CALLS = 10_000, 64
"""How often it may call torch: so often, and so often for each tensor in the file."""
_EMPTY = "empty"
_COUNTING = ("arange", "eye", "linspace", "logspace", "randperm")
_RANDOM = ("uniform_", "normal_", "kaiming_uniform_")
_SHAPED = (_EMPTY, "zeros", "ones", "full", "rand", "randn", "randint", "normal")


def build(
    architecture: Any, card: ModelCard, stored: Stored, instruments: Sequence[Instrument] = ()
) -> Any:
    """Build the model or flow of a card, and fill it with the tensors of its file.

    Args:
        architecture: Its class.
        card: The card.
        stored: The tensors: the state, and for a model `wave_rest`.
        instruments: Those served, for a model.

    Raises:
        WeightsError: Card, architecture and tensors do not fit together; no memory was
            taken for what the file cannot fill. Or values make no sense. Or the card says
            another line spread function than the model has.
    """
    kind: Any = Flow if card.kind == "flow" else Model
    if not (isinstance(architecture, type) and issubclass(architecture, kind)):
        raise WeightsError(
            f"the card of {card.name!r} is of kind {card.kind!r}, but its architecture "
            f"{card.architecture!r} makes no {kind.__name__}; the card may be of another file"
        )
    factory: Any = architecture.build  # type: ignore[attr-defined]
    arguments: tuple[Any, ...] = ()
    if kind is Model:
        arguments = (instruments, _wavelengths(stored))
        stored = stored.without([WAVE_REST])

    with _readable(card, architecture.__name__), _Bounded(stored):
        model: nn.Module = factory(card, *arguments)
    _compare(model, stored.shapes, stored.source)
    if isinstance(model, Model):
        model.uses_lsf = card.lsf == "per_spectrum"
        _compare_lsf(model, card, stored.source)
    _fill(model, stored.take(stored.shapes), stored.source)
    return model


def restore(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Put tensors into a model, strictly: all of them, no others, in shape.

    Then every part of the model that has a method `check_state` is asked whether the
    values make sense; it raises a `SpenderError` if not.

    Raises:
        WeightsError: Tensors are missing, unknown, misshapen, or hold NaN or infinity;
            all of them are named. Or the model refuses their values.
    """
    _compare(model, tensors, source)
    _fill(model, tensors, source)


def _fill(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    check_finite(tensors, source)
    with torch.no_grad():
        model.load_state_dict(dict(tensors), strict=True, assign=True)
    for name, part in model.named_modules():
        check = getattr(part, "check_state", None)
        if check is not None:
            try:
                check()
            except SpenderError as error:
                raise WeightsError(f"{source}, {name or type(model).__name__}: {error}") from error


def _wavelengths(stored: Stored) -> Tensor:
    if WAVE_REST not in stored.shapes:
        raise WeightsError(f"{stored.source} holds no {WAVE_REST}, so its restframe is unknown")
    given = stored.shapes[WAVE_REST]
    if given.ndim != 1 or given.dtype != torch.float64:
        raise WeightsError(
            f"{WAVE_REST} in {stored.source} is {given.dtype} of shape {tuple(given.shape)}, must "
            "be float64 in one dimension"
        )
    wave = stored.take([WAVE_REST])[WAVE_REST]
    try:
        as_grid(wave)
    except GridError as error:
        raise WeightsError(f"{WAVE_REST} in {stored.source}: {error}") from error
    return wave


@contextmanager
def _readable(card: ModelCard, name: str) -> Iterator[None]:
    try:
        yield
    except WeightsError:
        raise
    except Exception as error:
        reason = printable(str(error)[:300]) or type(error).__name__
        raise WeightsError(f"the config of {card.name!r} makes no {name}: {reason}") from error


class _Bounded(TorchFunctionMode):
    """Builds parameters without values, and nothing beyond what a file can account for."""

    def __init__(self, stored: Stored) -> None:
        super().__init__()
        held = sum(t.numel() * t.element_size() for t in stored.shapes.values())
        self._source, self._held = stored.source, len(stored.shapes)
        self._parameters = _FREE_PARAMETERS + _PARAMETERS * held
        self._others = _OTHERS
        self._calls = _FREE_CALLS + _CALLS * self._held

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function if there is room for what it makes; fill no parameter at random."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").removeprefix("new_")
        if name in _RANDOM and isinstance(args[0] if args else kwargs.get("tensor"), nn.Parameter):
            return args[0] if args else kwargs["tensor"]
        self._calls -= 1
        self._check(name, _claimed(name, (*args, *kwargs.values())))
        made = func(*args, **kwargs)
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor) and not tensor._is_view():
                self._check(name, tensor.numel() * tensor.element_size(), taken=True)
        return made

    def _check(self, name: str, size: int, taken: bool = False) -> None:
        left = (self._parameters if name == _EMPTY else self._others) - size
        if left < 0 or self._calls < 0:
            raise WeightsError(
                f"the card in {self._source} asks for a far larger network than the {self._held} "
                "tensors in the file can fill; the card may be of another file"
            )
        if taken and name == _EMPTY:
            self._parameters = left
        elif taken:
            self._others = left


def _claimed(name: str, arguments: Sequence[Any]) -> int:
    """Return how many bytes a function is about to take, at least, if its name tells."""
    whole = [n for n in arguments if isinstance(n, int)]
    if name in _COUNTING:
        return 4 * max(whole, default=0)
    if name not in _SHAPED:
        return 0
    shapes = [shape for shape in arguments if isinstance(shape, list | tuple)]
    return math.prod(n for n in (shapes[0] if shapes else whole) if isinstance(n, int))


def _compare_lsf(model: Model, card: ModelCard, source: str) -> None:
    """Refuse a card that says another line spread function than the model has.

    Of instruments that are not installed, only what the card says is known. A card may leave the
    number of taps unsaid.
    """
    made = [entry for entry in card.instruments if entry.name in model.instruments]
    kind = lsf_kind(model)
    if kind != card.lsf and not (card.lsf == "constant" and len(made) < len(card.instruments)):
        raise WeightsError(
            f"the card in {source} says lsf {card.lsf!r}, its network and tensors have {kind!r}; "
            "the card may be of another file"
        )
    for entry in made:
        taps = lsf_taps(model, entry.name)
        if entry.lsf_taps not in (None, taps):
            raise WeightsError(
                f"the card in {source} says {entry.lsf_taps} taps of the LSF kernel of "
                f"{entry.name!r}, the tensors have {taps}; the card may be of another file"
            )


def _compare(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse tensors that are not those of a model, naming what differs."""
    state = model.state_dict()
    problems = [f"{name} is missing" for name in state.keys() - tensors.keys()]
    problems += [f"{name} is unknown" for name in tensors.keys() - state.keys()]
    for name in state.keys() & tensors.keys():
        expected, given = state[name], tensors[name]
        if given.shape != expected.shape:
            shapes = tuple(given.shape), tuple(expected.shape)
            problems.append(f"{name} has shape {shapes[0]} instead of {shapes[1]}")
        exact = not (given.is_floating_point() and expected.is_floating_point())
        if exact and given.dtype != expected.dtype:
            problems.append(f"{name} is {given.dtype} instead of {expected.dtype}")
    floats = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if floats - {torch.float32} and floats != {torch.float64}:
        problems.append(f"it mixes or has unusual types: {', '.join(sorted(map(str, floats)))}")
    if problems:
        raise WeightsError(
            f"{source} does not fit {type(model).__name__}: {'; '.join(sorted(problems)[:8])}"
            f"{f'; and {len(problems) - 8} more' if len(problems) > 8 else ''}. "
            "The config in its card may belong to another file"
        )
