"""Follows the instructions of a pickle, those that plain data need, on a stack of its own."""

from __future__ import annotations

import pickletools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from spender_core.pickles.rebuild import (
    DType,
    Function,
    RefusedError,
    Storages,
    fill,
    known,
    order,
)

MOST_STEPS = 200_000
"""Instructions in a file; those of the published models have some 3500."""
DEEPEST = 1000
"""Containers within containers."""
_LARGEST_NUMBER_AS_NAME = 2**31
_CONTAINER = 64
"""Bytes that an empty list, dictionary or tuple takes, about."""


class Machine:
    """Makes plain data from a pickle of protocol 2.

    Args:
        storages: Where the numbers of its tensors are.
    """

    def __init__(self, storages: Storages) -> None:
        self._storages = storages
        self._known = known(storages)
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._left = 0

    def run(self, data: bytes) -> Any:
        """Return what a pickle describes.

        Raises:
            RefusedError: It asks for more than plain data.
        """
        self._left = 4 * len(data) + 4096
        for count, (instruction, argument, _) in enumerate(pickletools.genops(data)):
            name = instruction.name
            if name == "STOP":
                break
            if name not in _STEPS:
                raise RefusedError(f"it uses the instruction {name}, which plain data never need")
            if count > MOST_STEPS:
                raise RefusedError(f"it has more than {MOST_STEPS} instructions")
            _STEPS[name](self, argument)
        (made,) = self._stack
        return made

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _contain(self, made: Any) -> None:
        self._pay(_CONTAINER)
        self._push(made)

    def _since_mark(self) -> list[Any]:
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _mark(self, _: Any) -> None:
        if len(self._marks) == DEEPEST:
            raise RefusedError(f"it nests its content more than {DEEPEST} deep")
        self._marks.append(len(self._stack))

    def _protocol(self, version: int) -> None:
        if version != 2:
            raise RefusedError(f"it is a pickle of protocol {version}; torch writes protocol 2")

    def _global(self, name: str) -> None:
        if name not in self._known:
            raise RefusedError(f"it asks for {name[:100].replace(' ', '.')}, which could run code")
        self._push(self._known[name])

    def _reduce(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Function) or not isinstance(arguments, tuple):
            raise RefusedError("it asks to call something that is no function")
        made = function.call(*arguments)
        if isinstance(made, bytes):
            self._pay(len(made))
        self._push(made)

    def _build(self, _: Any) -> None:
        state, made = self._stack.pop(), self._stack[-1]
        if isinstance(made, np.ndarray):
            fill(made, state)
            self._pay(made.nbytes)
        elif isinstance(made, DType):
            order(made, state)
        elif not (isinstance(made, OrderedDict) and isinstance(state, dict)):
            raise RefusedError("it changes the state of an object")

    def _pay(self, size: int) -> None:
        """Bound what is made: bytes, which a file may use again and again, and containers."""
        self._left -= size
        if self._left < 0:
            raise RefusedError("it asks for more bytes than it holds")

    def _reference(self, _: Any) -> None:
        self._push(self._storages.load(self._stack.pop()))

    def _remember(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _recall(self, index: int) -> None:
        self._push(self._memo[index])

    def _tuple(self, count: int) -> None:
        if len(self._stack) < count:
            raise RefusedError("it is damaged: its instructions lack their arguments")
        values = self._stack[-count:]
        del self._stack[-count:]
        self._contain(tuple(values))

    def _append(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise RefusedError("it appends to something that is no list")
        target += values

    def _set(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) not in (dict, OrderedDict) or len(values) % 2:
            raise RefusedError("it adds entries to something that is no dictionary")
        for name, value in zip(values[::2], values[1::2], strict=True):
            number = type(name) is int and abs(name) < _LARGEST_NUMBER_AS_NAME
            if not number and type(name) is not str:
                raise RefusedError(
                    "it has a dictionary whose entries are named by no text or number"
                )
            target[name] = value

    def _set_one(self, _: Any) -> None:
        value, name = self._stack.pop(), self._stack.pop()
        self._set([name, value])


def _literal(make: Callable[[], Any]) -> Callable[[Machine, Any], None]:
    return lambda machine, _: machine._push(make())


_NUMBERS_AND_TEXT = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE")
_STEPS: dict[str, Callable[[Machine, Any], None]] = {
    **dict.fromkeys(_NUMBERS_AND_TEXT, Machine._push),
    "PROTO": Machine._protocol,
    "MARK": Machine._mark,
    "GLOBAL": Machine._global,
    "REDUCE": Machine._reduce,
    "BUILD": Machine._build,
    "BINPERSID": Machine._reference,
    "NONE": _literal(lambda: None),
    "NEWTRUE": _literal(lambda: True),
    "NEWFALSE": _literal(lambda: False),
    "EMPTY_TUPLE": _literal(tuple),
    "EMPTY_LIST": lambda machine, _: machine._contain([]),
    "EMPTY_DICT": lambda machine, _: machine._contain({}),
    "TUPLE": lambda machine, _: machine._contain(tuple(machine._since_mark())),
    "APPEND": lambda machine, _: machine._append([machine._stack.pop()]),
    "APPENDS": lambda machine, _: machine._append(machine._since_mark()),
    "SETITEM": Machine._set_one,
    "SETITEMS": lambda machine, _: machine._set(machine._since_mark()),
    "BINPUT": Machine._remember,
    "LONG_BINPUT": Machine._remember,
    "BINGET": Machine._recall,
    "LONG_BINGET": Machine._recall,
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
}
