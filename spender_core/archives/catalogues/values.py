"""Values of the parts of a condition: for each row, from whole columns at a time."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spender_core.errors import InputError

Columns = Mapping[str, NDArray[Any]]
"""Columns of some rows of a catalogue, by name in capitals; text as bytes. Whole numbers are
masked where there are none."""

COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}
BITS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.LShift: np.left_shift,
    ast.RShift: np.right_shift,
}
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "abs": np.abs,
    "isfinite": np.isfinite,
    "log10": np.log10,
    "sqrt": np.sqrt,
}


def constants(values: Sequence[Any], name: str) -> NDArray[Any]:
    """Return constants of one kind: texts as bytes, truths, int64 or uint64, or float64."""
    plain = [value.item() if isinstance(value, np.generic) else value for value in values]
    try:
        if plain and all(isinstance(value, (str, bytes)) for value in plain):
            texts = [value.encode() if isinstance(value, str) else value for value in plain]
            return np.array([text.rstrip() for text in texts], dtype=bytes)
        if plain and all(isinstance(value, bool) for value in plain):
            return np.array(plain, dtype=bool)
        if plain and all(type(value) is int for value in plain):
            large = min(plain) >= 0 and max(plain) >= 1 << 63
            return np.array(plain, dtype=np.uint64 if large else np.int64)
        if plain and all(type(value) in (int, float) for value in plain):
            return np.array(plain, dtype=np.float64)
    except (OverflowError, UnicodeError):
        pass
    raise InputError(
        f"{name} is compared with {list(plain)!r:.80}; give numbers of 64 bits, or texts, not both"
    )


def unparsed(node: ast.expr) -> str:
    """Return the text of a part of a condition, for messages."""
    try:
        return f"{ast.unparse(node)!r:.80}"
    except RecursionError:
        return "so many levels"


def listed(node: ast.expr) -> NDArray[Any]:
    """Return the constants of the list behind `in`."""
    try:
        values = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        values = None
    if not isinstance(values, (tuple, list, set)):
        raise InputError(f"behind 'in' there must be a list of values, not {unparsed(node)}")
    return constants(list(values), "a column")


def evaluated(node: ast.expr, columns: Columns) -> Any:
    """Return the value of a checked part of a condition: for each row, or one for all."""
    match node:
        case ast.Name():
            return columns[node.id.upper()]
        case ast.Constant():
            return constants([node.value], "a column")[0]
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
            return _called(name, argument, columns)
        case ast.Compare():
            return _comparison(node, columns)
    raise InputError(f"where may not hold {ast.unparse(node)!r:.80}")


def one_value(values: Any, name: str) -> NDArray[Any]:
    """Return a column that has one value a row.

    Raises:
        InputError: It has several.
    """
    if np.ndim(values) > 1:
        raise InputError(f"{name} holds several values a row; choose one, as in NAME[0]")
    return np.asanyarray(values)


def _element(node: ast.Subscript, columns: Columns) -> NDArray[Any]:
    values, place = evaluated(node.value, columns), ast.literal_eval(node.slice)
    if np.ndim(values) != 2 or not 0 <= place < values.shape[1]:
        size = values.shape[1] if np.ndim(values) == 2 else 1
        raise InputError(f"{ast.unparse(node)}: this column holds {size} values a row")
    return np.asanyarray(values[:, place])


def _truth(node: ast.expr, columns: Columns) -> NDArray[np.bool_]:
    found = one_value(evaluated(node, columns), ast.unparse(node))
    if found.dtype != bool:
        raise InputError(
            f"{ast.unparse(node)!r:.80} is neither true nor false; compare it with something"
        )
    return found


def _real(node: ast.expr, columns: Columns) -> NDArray[Any]:
    found = one_value(evaluated(node, columns), ast.unparse(node))
    if found.dtype.kind not in "iufb":
        raise InputError(f"{ast.unparse(node)!r:.80} is no number")
    return found


def _whole(values: NDArray[Any], node: ast.expr) -> NDArray[Any]:
    """Return whole numbers and truths as int64, since arithmetic with shorter ones wraps."""
    if values.dtype.kind == "f":
        return values
    if values.dtype == np.uint64 and values.size and values.max() >= 1 << 63:
        raise _beyond(node)
    return values.astype(np.int64)


def _called(name: str, argument: ast.expr, columns: Columns) -> NDArray[Any]:
    found = _real(argument, columns)
    found = _whole(found, argument) if name == "abs" else found.astype(np.float64)
    result = np.asanyarray(FUNCTIONS[name](found))
    return np.asarray(np.ma.filled(result, False)) if result.dtype == bool else result


def _beyond(node: ast.expr) -> InputError:
    return InputError(
        f"{unparsed(node)} is beyond 64 bits in some rows; multiply by 1.0 to compute with real "
        "numbers"
    )


def _signed(node: ast.UnaryOp, columns: Columns) -> NDArray[Any]:
    found = _real(node.operand, columns)
    if isinstance(node.op, ast.Invert):
        if found.dtype.kind == "f":
            raise InputError(f"{unparsed(node)}: only whole numbers and truths have bits")
        return np.asanyarray(~(found if found.dtype in (bool, np.uint64) else _whole(found, node)))
    found = _whole(found, node)
    return np.asanyarray(-found if isinstance(node.op, ast.USub) else found)


def _combined(node: ast.BinOp, columns: Columns) -> NDArray[Any]:
    left, right = _real(node.left, columns), _real(node.right, columns)
    if type(node.op) in BITS:
        return _bits(node, left, right)
    operation = ARITHMETIC[type(node.op)]
    if "f" in (left.dtype.kind, right.dtype.kind):
        left, right = left.astype(np.float64), right.astype(np.float64)
        return np.asanyarray(operation(left, right))
    left, right = _whole(left, node), _whole(right, node)
    if isinstance(node.op, (ast.Add, ast.Sub, ast.Mult)):
        size = np.abs(operation(left.astype(np.float64), right.astype(np.float64)))
        if np.any(size >= 2.0**63):
            raise _beyond(node)
    found: NDArray[Any] = np.asanyarray(operation(left, right))
    if isinstance(node.op, ast.Mod) and not np.all(right):
        found = np.ma.masked_array(found, np.broadcast_to(right == 0, found.shape))
    return found


def _bits(node: ast.BinOp, left: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    if "f" in (left.dtype.kind, right.dtype.kind):
        raise InputError(f"{unparsed(node)}: only whole numbers and truths have bits")
    if not left.dtype == right.dtype == bool:
        kind = np.uint64 if np.uint64 in (left.dtype, right.dtype) else np.int64
        left, right = left.astype(kind), right.astype(kind)
    return np.asanyarray(BITS[type(node.op)](left, right))


def _comparison(node: ast.Compare, columns: Columns) -> NDArray[np.bool_]:
    left = one_value(evaluated(node.left, columns), ast.unparse(node.left))
    name, result = ast.unparse(node), np.array([True])
    for op, other in zip(node.ops, node.comparators, strict=True):
        if isinstance(op, (ast.In, ast.NotIn)):
            found = is_among(left, listed(other), name)
            result = result & (found if isinstance(op, ast.In) else ~found)
            continue
        right = one_value(evaluated(other, columns), ast.unparse(other))
        result = result & compared(COMPARE[type(op)], left, right, name)
        left = right
    return np.asarray(result)


def _same_kind(left: NDArray[Any], right: NDArray[Any], name: str) -> None:
    if (left.dtype.kind in "SU") != (right.dtype.kind in "SU"):
        raise InputError(f"{name!r:.80} compares a text with a number")


def compared(
    compare: Callable[[Any, Any], Any], left: NDArray[Any], right: NDArray[Any], name: str
) -> NDArray[np.bool_]:
    """Compare numbers or texts; a constant has no axis, and is rounded as the column is.

    Raises:
        InputError: One is a number, the other a text.
    """
    _same_kind(left, right, name)
    if left.dtype.kind == right.dtype.kind == "f":
        left = left.astype(right.dtype) if left.ndim == 0 else left
        right = right.astype(left.dtype) if right.ndim == 0 else right
    # what a row lacks differs from everything
    return np.asarray(np.ma.filled(compare(left, right), compare is operator.ne), dtype=bool)


def is_among(values: NDArray[Any], allowed: NDArray[Any], name: str) -> NDArray[np.bool_]:
    """Tell which values are among those of a list; what a row lacks is not.

    Raises:
        InputError: One is a number, the other a text.
    """
    _same_kind(values, allowed, name)
    if values.dtype.kind in "iu" and allowed.dtype.kind in "iu":
        kind = np.iinfo(values.dtype)
        allowed = allowed[(allowed >= kind.min) & (allowed <= kind.max)].astype(values.dtype)
    elif values.dtype.kind == allowed.dtype.kind == "f":
        allowed = allowed.astype(values.dtype)
    found = np.ma.getdata(values) == allowed if len(allowed) == 1 else np.isin(values, allowed)
    return np.asarray(found & ~np.ma.getmask(values), dtype=bool)
