"""What is concluded when a device is opened: `run_check` over arithmetic that is known.

A device whose launches compute in Python is right in everything but one thing, and the check has
to name that thing and no other.  Its exact results are the oracle's.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from tensorbus_backends import check
from tensorbus_backends.contract import Capabilities, Device

from ...oracle import primitives as exact
from ..items import Outcome
from ..session import Session
from .base import Checks, duty

Array = NDArray[Any]
Fault = Callable[[Array, Array], None]
"""Spoils results [7, n] of operands [4, n] in place."""

_ROWS = ("add", "mul", "div", "sqrt", "fma", "mul_add", "subnormal")
_NAMES = {32: "float32", 64: "float64"}


@functools.lru_cache(maxsize=16)
def _results(raw: bytes, bits: int, tiny: str | None) -> Array:
    """The seven results of IEEE 754, or of a device that flushes float32 subnormals."""
    kind, name = f"u{bits // 8}", _NAMES[bits]
    a, b, c, s = np.frombuffer(raw, kind).reshape(4, -1).tolist()
    half = exact.encode(0, 1, -1, exact.FORMATS[name])

    def row(op: str, *columns: Sequence[int]) -> list[int]:
        return exact.results(exact.element(op, name, tiny=tiny), columns)

    rows = [
        row("add", a, b), row("mul", a, c), row("div", a, b), row("sqrt", a), row("fma", a, b, c),
        row("add", row("mul", a, b), c), row("mul", s, [half] * len(s)),
    ]  # fmt: skip
    return np.array(rows, kind)


class _Memory:
    def __init__(self, nbytes: int) -> None:
        self.raw = bytearray(nbytes)


class _Arithmetic:
    """As much of a device as `run_check` uses; `fault` spoils the results of one width."""

    def __init__(self, fp64: bool, width: int, fault: Fault, tiny: str | None = None) -> None:
        self.capabilities = Capabilities(dtypes=frozenset({"float32"}), fp64=fp64)
        self.width, self.fault, self.tiny = width, fault, tiny
        self.operands: dict[int, Array] = {}

    def compile(self, kernels: Sequence[Any]) -> list[Any]:
        return list(kernels)

    def allocate(self, nbytes: int) -> _Memory:
        return _Memory(nbytes)

    def copy_in(self, target: _Memory, offset: int, source: memoryview) -> None:
        target.raw[offset : offset + source.nbytes] = source

    def copy_out(self, source: _Memory, offset: int, target: memoryview) -> None:
        target[:] = source.raw[offset : offset + target.nbytes]

    def launch(self, kernel: Any, groups: int, buffers: Sequence[_Memory], meta: bytes) -> None:
        n = struct.unpack("=2q", meta)[0]
        assert len(buffers) == kernel.buffers
        assert 64 * groups == n
        for k, bits in enumerate((32, 64)[: len(buffers) // 2]):
            raw = bytes(buffers[2 * k].raw)
            self.operands[bits] = x = np.frombuffer(raw, f"u{bits // 8}").reshape(4, n)
            out = _results(raw, bits, self.tiny if bits == 32 else None).copy()
            if bits == self.width:
                self.fault(x, out)
            buffers[2 * k + 1].raw[:] = out.tobytes()


def _verdict(device: _Arithmetic) -> Mapping[str, bool]:
    return check.run_check(cast(Device, device))


def _nothing(x: Array, out: Array) -> None:
    """No fault."""


def _ulp(row: int, place: int) -> Fault:
    """One finite result, the first from a place on, (in percent) on, has another last bit."""

    def spoil(x: Array, out: Array) -> None:
        f = exact.FORMATS[_NAMES[8 * out.itemsize]]
        n = out.shape[1]
        near = ((place * n // 100 + k) % n for k in range(n))
        k = next(k for k in near if exact.decode(int(out[row, k]), f)[1] > 1)
        out[row, k] ^= 1

    return spoil


def _payloads(x: Array, out: Array) -> None:
    """Every NaN has another sign and payload: still exact."""
    f = exact.FORMATS[_NAMES[8 * out.itemsize]]
    quiet = exact.nan(f)
    nan = (out & out.dtype.type((1 << (f.bits - 1)) - 1)) > exact.infinity(0, f)
    out[nan] = out.dtype.type(quiet | 1 << (f.bits - 1) | 5)


def _lost_nan(x: Array, out: Array) -> None:
    f = exact.FORMATS[_NAMES[8 * out.itemsize]]
    nan = (out[0] & out.dtype.type((1 << (f.bits - 1)) - 1)) > exact.infinity(0, f)
    out[0, nan] = 0


def _zeros(x: Array, out: Array) -> None:
    """Products lose the sign of a zero."""
    out[1, (out[1] << 1) == 0] = 0


def _contracted(x: Array, out: Array) -> None:
    out[5] = out[4]


def _unfused(x: Array, out: Array) -> None:
    out[4] = out[5]


def _reciprocal(x: Array, out: Array) -> None:
    """Quotients as products with a rounded reciprocal."""
    kind = f"f{out.itemsize}"
    a, b = x[0].view(kind), x[1].view(kind)
    with np.errstate(all="ignore"):
        out[2] = (a * (out.view(kind).dtype.type(1) / b)).view(out.dtype)


def verdicts(session: Session) -> Outcome:
    """`run_check` names the operation that is wrong in a width, and no other."""
    checks = Checks("verdicts")
    every = {w: [f"{r} f{w}" for r in _ROWS] for w in (32, 64)}

    def due(device: _Arithmetic, wrong: set[str], what: str) -> None:
        names = every[32] + (every[64] if device.capabilities.fp64 else [])
        got = _verdict(device)
        checks.that(
            dict(got) == {n: n not in wrong for n in names},
            f"{what}: the check says {sorted(n for n, ok in got.items() if not ok)}, "
            f"wrong is {sorted(wrong)}",
        )

    smoke = session.level == "smoke"
    if not smoke:
        due(_Arithmetic(True, 0, _nothing), set(), "exact arithmetic")
    due(_Arithmetic(False, 0, _nothing), set(), "exact arithmetic without float64")
    places = (75,) if smoke else (0, 42, 75, 99)
    for w in (32,) if smoke else (32, 64):
        for k, row in enumerate(_ROWS[:-1]):
            for place in places:
                wrong = {f"{row} f{w}"}
                due(_Arithmetic(not smoke, w, _ulp(k, place)), wrong, f"{row} f{w} off by an ulp")
        got = _verdict(_Arithmetic(not smoke, w, _ulp(6, 50)))
        checks.that(not got[f"subnormal f{w}"], f"a wrong subnormal of {w} bits passes")
        for name, fault, wrong in (
            ("NaNs with other bits", _payloads, set[str]()),
            ("a NaN that is lost", _lost_nan, {f"add f{w}"}),
            ("a sign of zero that is lost", _zeros, {f"mul f{w}"}),
            ("contraction", _contracted, {f"mul_add f{w}"}),
            ("fma in two steps", _unfused, {f"fma f{w}"}),
            ("division by reciprocals", _reciprocal, {f"div f{w}"}),
        ):
            due(_Arithmetic(not smoke, w, fault), wrong, f"{name}, {w} bits")
    for tiny in ("after",) if smoke else ("after", "before", "stored"):
        flushing = _Arithmetic(not smoke, 0, _nothing, tiny)
        due(flushing, {"subnormal f32"}, f"flushing, tiny {tiny}")
        wrong = {"subnormal f32", "div f32"}
        due(_Arithmetic(not smoke, 32, _reciprocal, tiny), wrong, "flushing and reciprocals")
    return checks.outcome


def operands(session: Session) -> Outcome:
    """What the check computes with: special values, every exponent, cancellation, subnormals."""
    checks = Checks("operands")
    device = _Arithmetic(session.level != "smoke", 0, _nothing)
    _verdict(device)
    for bits, x in device.operands.items():
        f = exact.FORMATS[_NAMES[bits]]
        magnitude = x & x.dtype.type((1 << (bits - 1)) - 1)
        exponent = magnitude >> x.dtype.type(f.precision - 1)
        known = [0, 1 << (bits - 1), exact.infinity(0, f), exact.infinity(1, f)]
        for k in (1, 2):
            checks.that(set(known) <= set(x[k].tolist()), f"row {k} lacks a zero or an infinity")
        one = exact.encode(0, 1, 0, f)
        checks.that(all(one in r for r in x[:3].tolist()), "a row lacks the number one")
        checks.that(bool((magnitude[:3] > exact.infinity(0, f)).any(axis=1).all()), "no NaN")
        few = min(200, 3 * f.emax // 2)
        for k in range(3):
            checks.that(
                len(set(exponent[k].tolist())) >= few, f"few exponents of {bits} bits in row {k}"
            )
            normal = (exponent[k] > 0) & (exponent[k] <= 2 * f.emax)
            checks.that(int(normal.sum()) > 0.7 * x.shape[1], f"row {k} has few normal numbers")
        negative = int((x[0] >> x.dtype.type(bits - 1)).sum())
        checks.that(negative <= 2, "numbers whose root is taken are negative")  # -0 and -inf
        signs = (x[1:3] >> x.dtype.type(bits - 1)).mean(axis=1)
        checks.that(bool(((signs > 0.3) & (signs < 0.7)).all()), "signs are not of both kinds")
        product = exact.results(exact.element("mul", _NAMES[bits]), x[:2].tolist())
        cancels = (np.array(product, x.dtype) ^ x.dtype.type(1 << (bits - 1))) == x[2]
        checks.that(
            0.3 < float(cancels.mean()) < 0.6,
            "the third row cancels the product too seldom or often",
        )
        tiny = (exponent[3] == 0) & (magnitude[3] > 0)
        checks.that(bool(tiny.all()), "the last row is not of subnormal numbers")
        odd = len(set((x[3] & x.dtype.type(1)).tolist())) == 2
        checks.that(odd and len(set(x[3].tolist())) > 1000, "the last row repeats itself")
        top = int(magnitude[3].max()).bit_length()
        checks.that(top == f.precision - 1, "the last row lacks the largest subnormals")
    return checks.outcome


def settling(session: Session) -> Outcome:
    """Capabilities follow the verdict; the device's own claim nothing that its check denies."""
    checks, device = Checks("settling"), session.guard.real
    names = [f"{r} f{w}" for r in _ROWS for w in (32, 64)]
    base = Capabilities(dtypes=frozenset({"float32"}), fma=True, max_group=77, local_memory=5)
    for wrong, changes in (
        ((), {}),
        (("div f32",), {"division": "2.5", "ieee": False}),
        (("div f64",), {"division": "2.5", "ieee": False}),
        (("sqrt f32",), {"square_root": "3", "ieee": False}),
        (("sqrt f64",), {"square_root": "3", "ieee": False}),
        (("subnormal f32",), {"subnormals": "flush"}),
        *(((n,), {"ieee": False}) for n in names if n.startswith(("add", "mul", "fma"))),
        (("add f32", "div f32", "subnormal f32"),
         {"division": "2.5", "ieee": False, "subnormals": "flush"}),
    ):  # fmt: skip
        verdict = {n: n not in wrong for n in names}
        for declared in (base, replace(base, subnormals="flush", division="9", ieee=False)):
            due = {"subnormals": "preserve", "division": "correct", "square_root": "correct",
                   "ieee": True, **cast("dict[str, Any]", changes)}  # fmt: skip
            got = check.settled(declared, verdict, "2.5", "3")
            full = {f.name: getattr(declared, f.name) for f in fields(got)} | due
            differ = [name for name, value in full.items() if getattr(got, name) != value]
            checks.that(not differ, f"with {', '.join(wrong) or 'all'}: {', '.join(differ)} differ")
    if device.dialect is not None:
        c = device.capabilities
        verdict = dict(check.run_check(device))
        widths = (32, 64) if c.fp64 else (32,)
        checks.that(
            set(verdict) == {f"{r} f{w}" for r in _ROWS for w in widths}, "the check judges others"
        )
        found = check.settled(c, verdict, "unknown", "unknown")
        for name in ("division", "square_root", "ieee"):
            claims, shown = getattr(c, name), getattr(found, name)
            checks.that(
                shown in ("correct", True) or claims not in ("correct", True),
                f"{name} is {claims!r}, but the device's check denies it",
            )
        checks.that(found.subnormals == c.subnormals, f"subnormals: {c.subnormals!r} is not so")
    return checks.outcome


duty("arithmetic", verdicts, operands, settling)
