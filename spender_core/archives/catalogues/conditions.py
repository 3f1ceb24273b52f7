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

from spender_core.errors import InputError

Columns = Mapping[str, NDArray[Any]]
"""Columns of some rows of a catalogue, by name in capitals; text as bytes."""

LONGEST = 10_000
"""Characters of a condition."""

_DEEPEST = 50
_CLASS = re.compile(r"""('[^']*'|"[^"]*")|\bclass\b""")
"""The column CLASS in lower case, outside of texts: a word that Python keeps for itself."""

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}
_BITS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.LShift: np.left_shift,
    ast.RShift: np.right_shift,
}
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "abs": np.abs,
    "isfinite": np.isfinite,
    "log10": np.log10,
    "sqrt": np.sqrt,
}
_ALLOWED = (
    "comparisons (< <= > >= == != in), and, or, not, arithmetic (+ - * / %), bits (& | ^ ~ << >>), "
    "numbers, texts in quotes, names of columns, NAME[0] of a column with several values, "
    f"{', '.join(_FUNCTIONS)}"
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

    Comparisons with NaN are false, `!=` apart. Texts are compared without trailing blanks.

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
        raise InputError(f"cannot understand where={text!r:.200}: {error}") from None
    names: dict[str, None] = {}
    _check(tree, names, 0)
    if not names:
        raise InputError(f"where={text!r:.80} names no column, so that it tells no rows apart")

    def keep(columns: Columns) -> NDArray[np.bool_]:
        rows = len(next(iter(columns.values())))
        with np.errstate(all="ignore"):
            found = _value(tree, columns)
        found = np.broadcast_to(_one_value(found, ast.unparse(tree)), (rows,))
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
        lowest, highest = (None if end is None else _number(end, name) for end in value)

        def inside(columns: Columns) -> NDArray[np.bool_]:
            values = _one_value(columns[name], name)
            keep = np.ones(len(values), dtype=bool)
            for end, compare in ((lowest, operator.ge), (highest, operator.le)):
                keep = keep if end is None else keep & _compared(compare, values, end, name)
            return keep

        return Cut((name,), inside, f"{name} in {value}")
    several = isinstance(value, (list, set, frozenset, np.ndarray))
    allowed = _constants(list(value) if several else [value], name)

    def among(columns: Columns) -> NDArray[np.bool_]:
        return _among(_one_value(columns[name], name), allowed, name)

    return Cut(
        (name,), among, f"{name} in {value!r:.80}" if several else f"{name} == {value!r:.80}"
    )


def _number(value: Any, name: str) -> NDArray[Any]:
    found = _constants([value], name)
    if found.dtype.kind not in "if":
        raise InputError(f"{name} is compared with {value!r:.80}, which is no number")
    return found


def _constants(values: Sequence[Any], name: str) -> NDArray[Any]:
    """Return constants of one kind: texts as bytes, truths, int64 or float64."""
    plain = [value.item() if isinstance(value, np.generic) else value for value in values]
    try:
        if plain and all(isinstance(value, (str, bytes)) for value in plain):
            texts = [value.encode() if isinstance(value, str) else value for value in plain]
            return np.array([text.rstrip() for text in texts], dtype=bytes)
        if plain and all(isinstance(value, bool) for value in plain):
            return np.array(plain, dtype=bool)
        if plain and all(type(value) is int for value in plain):
            return np.array(plain, dtype=np.int64)
        if plain and all(type(value) in (int, float) for value in plain):
            return np.array(plain, dtype=np.float64)
    except (OverflowError, UnicodeError):
        pass
    raise InputError(
        f"{name} is compared with {list(plain)!r:.80}; give numbers of 64 bits, or texts, not both"
    )


def _check(node: ast.expr, names: dict[str, None], depth: int) -> None:
    """Refuse whatever is not understood, and collect the names of columns."""
    if depth > _DEEPEST:
        raise InputError(f"where has more than {_DEEPEST} levels of brackets; write it shorter")
    match node:
        case ast.BoolOp():
            children: list[ast.expr] = node.values
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd() | ast.Invert()):
            children = [node.operand]
        case ast.BinOp() if type(node.op) in _ARITHMETIC or type(node.op) in _BITS:
            children = [node.left, node.right]
        case ast.Compare():
            children = _compared_parts(node)
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS:
            children = [argument]
        case ast.Subscript(value=ast.Name(), slice=ast.Constant(value=int())):
            children = [node.value]
        case ast.Name():
            names[node.id.upper()] = None
            return
        case ast.Constant(value=bool() | int() | float() | str()):
            _constants([node.value], "a column")
            return
        case _:
            raise InputError(f"where may not hold {ast.unparse(node)!r:.80}; allowed: {_ALLOWED}")
    for child in children:
        _check(child, names, depth + 1)


def _compared_parts(node: ast.Compare) -> list[ast.expr]:
    """Return the parts of a comparison that are no lists of constants; check those."""
    parts = [node.left]
    for op, right in zip(node.ops, node.comparators, strict=True):
        if isinstance(op, (ast.In, ast.NotIn)):
            _listed(right)
        elif type(op) in _COMPARE:
            parts.append(right)
        else:
            raise InputError(f"where may not hold {ast.unparse(node)!r:.80}; allowed: {_ALLOWED}")
    return parts


def _listed(node: ast.expr) -> NDArray[Any]:
    """Return the constants of the list behind `in`."""
    try:
        values = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        values = None
    if not isinstance(values, (tuple, list, set)):
        raise InputError(
            f"behind 'in' there must be a list of values, not {ast.unparse(node)!r:.80}"
        )
    return _constants(list(values), "a column")


def _value(node: ast.expr, columns: Columns) -> Any:
    """Return the value of a checked part of a condition: for each row, or one for all."""
    match node:
        case ast.Name():
            return columns[node.id.upper()]
        case ast.Constant():
            return _constants([node.value], "a column")
        case ast.Subscript():
            return _element(node, columns)
        case ast.BoolOp():
            truths = [_truth(part, columns) for part in node.values]
            return (np.logical_and if isinstance(node.op, ast.And) else np.logical_or).reduce(
                np.broadcast_arrays(*truths)
            )
        case ast.UnaryOp(op=ast.Not()):
            return ~_truth(node.operand, columns)
        case ast.UnaryOp():
            return _signed(node, columns)
        case ast.BinOp():
            return _combined(node, columns)
        case ast.Call(func=ast.Name(id=name), args=[argument]):
            return _FUNCTIONS[name](_real(argument, columns))
        case ast.Compare():
            return _comparison(node, columns)
    raise InputError(f"where may not hold {ast.unparse(node)!r:.80}")


def _one_value(values: Any, name: str) -> NDArray[Any]:
    if np.ndim(values) > 1:
        raise InputError(f"{name} holds several values a row; choose one, as in NAME[0]")
    return np.asarray(values)


def _element(node: ast.Subscript, columns: Columns) -> NDArray[Any]:
    values, place = _value(node.value, columns), ast.literal_eval(node.slice)
    if np.ndim(values) != 2 or not 0 <= place < values.shape[1]:
        size = values.shape[1] if np.ndim(values) == 2 else 1
        raise InputError(f"{ast.unparse(node)}: this column holds {size} values a row")
    return np.asarray(values[:, place])


def _truth(node: ast.expr, columns: Columns) -> NDArray[np.bool_]:
    found = _one_value(_value(node, columns), ast.unparse(node))
    if found.dtype != bool:
        raise InputError(
            f"{ast.unparse(node)!r:.80} is neither true nor false; compare it with something"
        )
    return found


def _real(node: ast.expr, columns: Columns) -> NDArray[Any]:
    found = _one_value(_value(node, columns), ast.unparse(node))
    if found.dtype.kind not in "iufb":
        raise InputError(f"{ast.unparse(node)!r:.80} is no number")
    return found


def _signed(node: ast.UnaryOp, columns: Columns) -> NDArray[Any]:
    found = _real(node.operand, columns)
    if isinstance(node.op, ast.Invert):
        if found.dtype.kind == "f":
            raise InputError(f"{ast.unparse(node)!r:.80}: only whole numbers and truths have bits")
        return np.asarray(~found)
    found = found.astype(np.int64) if found.dtype.kind == "b" else found
    return np.asarray(-found if isinstance(node.op, ast.USub) else found)


def _combined(node: ast.BinOp, columns: Columns) -> NDArray[Any]:
    left, right = _real(node.left, columns), _real(node.right, columns)
    if type(node.op) in _BITS:
        both = np.result_type(left, right)
        if both.kind == "f" and {left.dtype.kind, right.dtype.kind} <= set("iub"):
            left, right = left.astype(np.int64), right.astype(np.int64)  # uint64 with int64
        elif both.kind == "f":
            raise InputError(f"{ast.unparse(node)!r:.80}: only whole numbers and truths have bits")
        return np.asarray(_BITS[type(node.op)](left, right))
    left, right = (side.astype(np.int64) if side.dtype == bool else side for side in (left, right))
    return np.asarray(_ARITHMETIC[type(node.op)](left, right))


def _comparison(node: ast.Compare, columns: Columns) -> NDArray[np.bool_]:
    left, result = _one_value(_value(node.left, columns), ast.unparse(node.left)), np.array([True])
    name = ast.unparse(node)
    for op, other in zip(node.ops, node.comparators, strict=True):
        if isinstance(op, (ast.In, ast.NotIn)):
            found = _among(left, _listed(other), name)
            result = result & (found if isinstance(op, ast.In) else ~found)
            continue
        right = _one_value(_value(other, columns), ast.unparse(other))
        result = result & _compared(_COMPARE[type(op)], left, right, name)
        left = right
    return np.asarray(result)


def _same_kind(left: NDArray[Any], right: NDArray[Any], name: str) -> None:
    if (left.dtype.kind in "SU") != (right.dtype.kind in "SU"):
        raise InputError(f"{name!r:.80} compares a text with a number")


def _compared(
    compare: Callable[[Any, Any], Any], left: NDArray[Any], right: NDArray[Any], name: str
) -> NDArray[np.bool_]:
    _same_kind(left, right, name)
    return np.asarray(compare(left, right), dtype=bool)


def _among(values: NDArray[Any], allowed: NDArray[Any], name: str) -> NDArray[np.bool_]:
    _same_kind(values, allowed, name)
    if len(allowed) == 1:
        return np.asarray(values == allowed, dtype=bool)
    return np.isin(values, allowed)
