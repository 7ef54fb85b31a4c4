"""The kernel that a device must run right before it counts as available, and what it proves.

It does each basic operation on a few thousand operands, subnormal and special ones among them, and
compares with the IEEE 754 results of the host.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import clike, dtypes as dt, flushing, interp
from .contract import Capabilities, Device
from .dialect import Dialect

__all__ = ["OPERATIONS", "Check", "run_check", "settled"]

OPERATIONS = ("add", "mul", "div", "sqrt", "fma", "mul_add", "subnormal")
_SIZE = 2048
# No other line has the product of a and b: a compiler that needs it anyway does not contract.
_LINES = """\
{y}[o] = {a} + {b}; {y}[n + o] = {a} * {c}; {y}[2 * n + o] = {a} / {b};
{y}[3 * n + o] = sqrt_{t}({a}); {y}[4 * n + o] = fma_{t}({a}, {b}, {c});
{y}[5 * n + o] = {a} * {b} + {c}; {y}[6 * n + o] = {s} * {half};"""


@dataclass(frozen=True)
class Check:
    """The kernel; buffers: float32 operands [4 n], results [7 n], then the same in float64."""

    fp64: bool

    @property
    def name(self) -> str:
        return "tb_check_64" if self.fp64 else "tb_check_32"

    @property
    def buffers(self) -> int:
        return 4 if self.fp64 else 2

    @property
    def words(self) -> int:
        return 2

    def source(self, dialect: Dialect) -> str:
        arguments = [clike.Argument("x", dt.float32), clike.Argument("y", dt.float32, True)]
        lines = [_part("f32", "x", "y")]
        if self.fp64:
            arguments += [clike.Argument("u", dt.float64), clike.Argument("v", dt.float64, True)]
            lines.append(_part("f64", "u", "v"))
        body = "\n".join(
            [
                "const i64 n = M(0), start = g * 64;",
                "LANES(l, 64) {",
                "const i64 o = start + l;",
                *lines,
                "}",
            ]
        )
        return clike.assemble(dialect, self.name, arguments, 2, body, offsets=[1] * len(arguments))

    def local_bytes(self, dialect: Dialect) -> int:
        return 0

    def interpret(self, arrays: Sequence[Any], meta: Any, groups: int) -> None:
        raise NotImplementedError("this kernel only checks a device")


def _part(t: str, x: str, y: str) -> str:
    operands = [f"{x}[{k} * n + o]" for k in range(4)]
    half = "0.5f" if t == "f32" else "0.5"
    a, b, c, s = operands
    return _LINES.format(t=t, y=y, a=a, b=b, c=c, s=s, half=half)


def _operands(dtype: Any, bits: int, mantissa: int) -> NDArray[Any]:
    """Four rows: two of ordinary size, one that often cancels, one of subnormals."""
    rng = np.random.default_rng(7)
    scale = np.asarray(2.0, dtype) ** rng.integers(-20, 20, (3, _SIZE))
    wide = (rng.uniform(1, 2, (3, _SIZE)) * rng.choice([-1, 1], (3, _SIZE)) * scale).astype(dtype)
    with np.errstate(all="ignore"):
        wide[2, ::2] = -(np.abs(wide[0]) * wide[1])[::2]
    special = np.asarray([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0], dtype)
    # A quarter of all operands are random bit patterns: every exponent, infinities and NaNs.
    patterns = rng.integers(0, 256, (3, _SIZE // 4, bits // 8), np.uint8).view(dtype)[..., 0]
    wide[:, -patterns.shape[1] :] = patterns
    wide[0] = np.abs(wide[0])
    wide[:, :6] = special
    wide[1, :6] = special[[2, 1, 3, 5, 0, 4]]
    tiny = rng.integers(1, 1 << (mantissa - 1), _SIZE, np.int64).astype(f"u{bits // 8}")
    return np.concatenate([wide, tiny.view(dtype)[None]])


def _expected(x: NDArray[Any]) -> NDArray[Any]:
    """IEEE 754 results, or a flushing device's under `flushing.flushing` (float32 only)."""
    a, b, c, s = x
    exact = interp.fma64 if x.dtype == np.float64 else interp.fma32

    def do(name: str, plain: Callable[..., Any], *operands: Any) -> Any:
        return flushing.wrapped(name, plain)(*operands)

    rows = [
        do("add", np.add, a, b),
        do("mul", np.multiply, a, c),
        do("div", np.divide, a, b),
        do("sqrt", np.sqrt, a),
        exact(a, b, c),
        do("add", np.add, do("mul", np.multiply, a, b), c),
        do("mul", np.multiply, s, x.dtype.type(0.5)),
    ]
    return np.stack(rows)


def _same(got: NDArray[Any], want: NDArray[Any]) -> NDArray[Any]:
    """For each row, whether every element is the same but for the bits of NaNs."""
    bits = f"u{got.dtype.itemsize}"
    equal = (got.view(bits) == want.view(bits)) | (np.isnan(got) & np.isnan(want))
    return np.asarray(equal.all(axis=1))


def _verdict(x: NDArray[Any], got: NDArray[Any]) -> list[bool]:
    """Whether each operation is exact; where subnormals are flushed, but for the flushing."""
    with np.errstate(all="ignore"):
        right = _same(got, _expected(x))
        if x.dtype == np.float32 and not right[-1]:
            for tiny in flushing.TININESS:
                with flushing.flushing(tiny):
                    right[:-1] |= _same(got, _expected(x))[:-1]
    return [bool(ok) for ok in right]


def run_check(device: Device) -> Mapping[str, bool]:
    """For each of `OPERATIONS` in each float dtype (``"div f32"``), whether it is exact.

    On a device that flushes subnormals ``"subnormal f32"`` is not, and the others are if they are
    exact but for that.

    Raises:
        BackendError: The device cannot compile or run the kernel.
    """
    kernel = Check(device.capabilities.fp64)
    (compiled,) = device.compile([kernel])
    formats = [(np.float32, 32, 24)] + ([(np.float64, 64, 53)] if kernel.fp64 else [])
    operands = [_operands(*f) for f in formats]
    buffers = []
    for x in operands:
        source = device.allocate(x.nbytes)
        device.copy_in(source, 0, np.ascontiguousarray(x).data.cast("B"))
        buffers += [source, device.allocate(x.nbytes // 4 * len(OPERATIONS))]
    meta = np.asarray([_SIZE, 0], np.int64).tobytes()
    device.launch(compiled, _SIZE // 64, buffers, meta)
    verdict: dict[str, bool] = {}
    for k, x in enumerate(operands):
        got = np.empty((len(OPERATIONS), _SIZE), x.dtype)
        device.copy_out(buffers[2 * k + 1], 0, got.data.cast("B"))
        names = [f"{name} f{8 * x.dtype.itemsize}" for name in OPERATIONS]
        verdict.update(zip(names, _verdict(x, got), strict=True))
    return verdict


def settled(
    declared: Capabilities, verdict: Mapping[str, bool], division: str, square_root: str
) -> Capabilities:
    """Capabilities with what `run_check` found out.

    Args:
        declared: What the driver says.
        verdict: From `run_check`.
        division: Greatest error of ``/`` in ulps that the language allows, if it is not exact.
        square_root: The same for ``sqrt``.
    """

    def exact(operation: str) -> bool:
        return all(ok for name, ok in verdict.items() if name.startswith(operation + " "))

    return replace(
        declared,
        subnormals="preserve" if verdict.get("subnormal f32", False) else "flush",
        division="correct" if exact("div") else division,
        square_root="correct" if exact("sqrt") else square_root,
        ieee=all(ok for name, ok in verdict.items() if not name.startswith("subnormal ")),
    )
