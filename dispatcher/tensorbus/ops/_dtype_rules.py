"""Dtype rules of elementwise ops: what operands are converted to, and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tensorbus_backends import dtypes as dt
from tensorbus_backends.dtypes import DType

from .._promotion import DEFAULT_FLOAT, promote

__all__ = [
    "DtypeRule",
    "bits",
    "boolean",
    "comparable",
    "floating",
    "floating_default",
    "floating_predicate",
    "integral",
    "numeric",
    "ordered",
    "predicate",
    "selection",
]

DtypeRule = Callable[[str, Sequence[DType]], tuple[Sequence[DType], DType]]
"""From the op's name and its operands' dtypes to (dtypes to convert to, result dtype)."""


def _promoted(name: str, dtypes: Sequence[DType]) -> DType:
    common = dtypes[0]
    for d in dtypes[1:]:
        try:
            common = promote(common, d)
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from None
    return common


def _rule(accepts: Callable[[DType], bool], what: str, result: DType | None = None) -> DtypeRule:
    """All operands become the common dtype, which has to be of a kind."""

    def rule(name: str, dtypes: Sequence[DType]) -> tuple[Sequence[DType], DType]:
        common = _promoted(name, dtypes)
        if not accepts(common):
            raise TypeError(f"{name} needs {what} operands, not {common.name}; convert with astype")
        return [common] * len(dtypes), result or common

    return rule


numeric = _rule(lambda d: d.kind != "b", "numeric")
floating = _rule(lambda d: d.is_float, "floating")
integral = _rule(lambda d: d.is_integer, "integer")
bits = _rule(lambda d: not d.is_float, "integer or bool")
boolean = _rule(lambda d: d.kind == "b", "bool")
comparable = _rule(lambda d: True, "real", dt.bool_)
ordered = _rule(lambda d: d.kind != "b", "numeric", dt.bool_)
predicate = ordered
floating_predicate = _rule(lambda d: d.is_float, "floating", dt.bool_)


def floating_default(name: str, dtypes: Sequence[DType]) -> tuple[Sequence[DType], DType]:
    """Numeric operands computed in floating point: integers become the default float."""
    wanted, common = numeric(name, dtypes)
    return (wanted, common) if common.is_float else ([DEFAULT_FLOAT] * len(dtypes), DEFAULT_FLOAT)


def selection(name: str, dtypes: Sequence[DType]) -> tuple[Sequence[DType], DType]:
    """A bool condition, then operands of any common dtype."""
    if dtypes[0].kind != "b":
        raise TypeError(f"{name} needs a bool condition, not {dtypes[0].name}; compare with != 0")
    common = _promoted(name, dtypes[1:])
    return [dt.bool_, *[common] * (len(dtypes) - 1)], common
