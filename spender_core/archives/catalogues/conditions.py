"""Conditions on the rows of a catalogue, written as text: `Z > 0.1 and CLASS == 'GALAXY'`.

The text has the grammar of Python's expressions and is never run: only what is listed here is
understood, and every operation works on whole columns at a time.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spender_core.archives.catalogues.values import (
    ARITHMETIC,
    BITS,
    COMPARE,
    FUNCTIONS,
    Columns,
    compared,
    constants,
    evaluated,
    is_among,
    listed,
    one_value,
    unparsed,
)
from spender_core.errors import InputError

LONGEST = 10_000
"""Characters of a condition."""

_DEEPEST = 50
_CLASS = re.compile(r"""('[^']*'|"[^"]*")|\bclass\b""")
"""The column CLASS in lower case, outside of texts: a word that Python keeps for itself."""

_ALLOWED = (
    "comparisons (< <= > >= == != in), and, or, not, arithmetic (+ - * / %), bits (& | ^ ~ << >>), "
    "numbers, texts in quotes, names of columns, NAME[0] of a column with several values, "
    f"{', '.join(FUNCTIONS)}"
)


@dataclass(frozen=True)
class Cut:
    """A condition that rows of a catalogue must meet.

    Attributes:
        names: Columns that it needs, in capitals.
        keep: Which of N rows meet it, shape (N,), from these columns.
        shown: The condition in words.
    """

    names: tuple[str, ...]
    keep: Callable[[Columns], NDArray[np.bool_]]
    shown: str = ""


def condition(text: str) -> Cut:
    """Return the condition that a text describes.

    Comparisons with NaN, and with whole numbers that a row lacks or that come of a division by 0,
    are false, `!=` apart. A column is compared with a constant in its own precision, so that 0.1
    equals what is stored for it. Texts are compared without trailing blanks.

    Raises:
        InputError: The text is not understood; or, when rows are judged, types do not fit.
    """
    if not isinstance(text, str) or not text.strip() or len(text) > LONGEST:
        raise InputError(
            f"where must be a condition of at most {LONGEST} characters, such as "
            f"\"Z > 0.1 and CLASS == 'GALAXY'\", not {text!r:.80}"
        )
    try:
        tree = ast.parse(_CLASS.sub(lambda f: f[1] or "CLASS", text.strip()), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        cause = str(error) or "it has too many levels"
        raise InputError(f"cannot understand where={text!r:.200}: {cause}") from None
    names: dict[str, None] = {}
    _check(tree, names, 0)
    if not names:
        raise InputError(f"where={text!r:.80} names no column, so that it tells no rows apart")

    def keep(columns: Columns) -> NDArray[np.bool_]:
        rows = len(next(iter(columns.values())))
        with np.errstate(all="ignore"):
            found = evaluated(tree, columns)
        found = np.broadcast_to(one_value(found, ast.unparse(tree)), (rows,))
        if found.dtype != bool:
            raise InputError(
                f"where={text!r:.80} gives {found.dtype} for each row, not true or false; compare "
                "it with something"
            )
        return found

    return Cut(tuple(names), keep, text.strip())


def conditions(where: str | Mapping[str, Any] | None) -> list[Cut]:
    """Return the conditions of a text, or of a mapping from columns to what they must be.

    Args:
        where: A text as of `condition`; or a mapping, of which every entry must be met. A number
            or text must be equal, a list holds what is allowed, a tuple (lowest, highest) is a
            range with its ends, and None in it means no bound.

    Raises:
        InputError: It is neither, or a value is of no use.
    """
    if where is None:
        return []
    if isinstance(where, str):
        return [condition(where)]
    if not isinstance(where, Mapping) or not all(isinstance(name, str) for name in where):
        raise InputError(f"where must be a text or a mapping from columns, not {where!r:.80}")
    return [_entry(name.upper(), value) for name, value in where.items()]


def check_names(cuts: Sequence[Cut], known: Collection[str], place: str) -> None:
    """Check that a catalogue has all columns that conditions need.

    Raises:
        InputError: It lacks one.
    """
    for name in (name for cut in cuts for name in cut.names):
        if name not in known:
            near = get_close_matches(name, known, n=3, cutoff=0.6)
            hint = f"did you mean {' or '.join(near)}?" if near else f"it has {_some(known)}"
            raise InputError(f"{place} has no column {name}; {hint}")


def _some(names: Collection[str]) -> str:
    listing = sorted(names)
    return ", ".join(listing[:40]) + (f" and {len(listing) - 40} more" if len(listing) > 40 else "")


def _entry(name: str, value: Any) -> Cut:
    """Return the condition that a column is what a value says."""
    if isinstance(value, tuple):
        if len(value) != 2 or any(isinstance(end, str) for end in value):
            raise InputError(
                f"where[{name!r}] = {value!r:.80}: a tuple is a range (lowest, highest); give a "
                "list of the values that are allowed"
            )
        lowest, highest = (None if end is None else _number(end, name)[0] for end in value)

        def inside(columns: Columns) -> NDArray[np.bool_]:
            values = one_value(columns[name], name)
            keep = np.ones(len(values), dtype=bool)
            for end, compare in ((lowest, operator.ge), (highest, operator.le)):
                keep = keep if end is None else keep & compared(compare, values, end, name)
            return keep

        return Cut((name,), inside, f"{name} in {value}")
    several = isinstance(value, (list, set, frozenset, np.ndarray))
    allowed = constants(list(value) if several else [value], name)

    def among(columns: Columns) -> NDArray[np.bool_]:
        return is_among(one_value(columns[name], name), allowed, name)

    return Cut(
        (name,), among, f"{name} in {value!r:.80}" if several else f"{name} == {value!r:.80}"
    )


def _number(value: Any, name: str) -> NDArray[Any]:
    found = constants([value], name)
    if found.dtype.kind not in "iuf":
        raise InputError(f"{name} is compared with {value!r:.80}, which is no number")
    return found


def _check(node: ast.expr, names: dict[str, None], depth: int) -> None:
    """Refuse whatever is not understood, and collect the names of columns."""
    if depth > _DEEPEST:
        raise InputError(f"where has more than {_DEEPEST} levels of brackets; write it shorter")
    match node:
        case ast.BoolOp():
            children: list[ast.expr] = node.values
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd() | ast.Invert()):
            children = [node.operand]
        case ast.BinOp() if type(node.op) in ARITHMETIC or type(node.op) in BITS:
            children = [node.left, node.right]
        case ast.Compare():
            children = _compared_parts(node)
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in FUNCTIONS:
            children = [argument]
        case ast.Subscript(value=ast.Name(), slice=ast.Constant(value=int())):
            children = [node.value]
        case ast.Name():
            names[node.id.upper()] = None
            return
        case ast.Constant(value=bool() | int() | float() | str()):
            constants([node.value], "a column")
            return
        case _:
            raise InputError(f"where may not hold {unparsed(node)}; allowed: {_ALLOWED}")
    for child in children:
        _check(child, names, depth + 1)


def _compared_parts(node: ast.Compare) -> list[ast.expr]:
    """Return the parts of a comparison that are no lists of constants; check those."""
    parts = [node.left]
    for op, right in zip(node.ops, node.comparators, strict=True):
        if isinstance(op, (ast.In, ast.NotIn)):
            listed(right)
        elif type(op) in COMPARE:
            parts.append(right)
        else:
            raise InputError(f"where may not hold {unparsed(node)}; allowed: {_ALLOWED}")
    return parts
