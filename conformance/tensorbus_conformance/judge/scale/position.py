"""The same element at every position, tail and length gives the same bits.

31 values stand in rows that are turned by one place each, so that every value comes by every lane
of a vector, through its body and its scalar tail, whatever the length; an element's bits may depend
on its value alone.
"""

from __future__ import annotations

import inspect
import zlib

import numpy as np
import tensorbus as tb
from tensorbus_backends import dtypes as dt

from ...oracle import REFERENCES
from ..cases import takes
from ..items import Outcome, oracle_name
from ..parts import Part, part
from ..session import Session
from .bench import Array, Bench, Mismatch

COUNT = 31
"""Values; odd, so that none keeps to one lane."""

LENGTHS = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 23, 31, 33, 63, 65, 127, 129, 8192 + 31)
FAMILIES = ("elementwise", "activation")
FEW = ("exp", "sin", "tanh", "pow", "divide", "sqrt")


def _ops(bench: Bench) -> list[tuple[str, int]]:
    """Elementwise functions of floating results, and how many tensors they take."""
    found = []
    for name, function in tb.FUNCTIONS.items():
        short = oracle_name(name)
        if function.family not in FAMILIES or short is None:
            continue
        # 16-bit floats are widened and share float32's body.
        if (bench.smoke or bench.dtype.bits == 16) and name not in FEW:
            continue
        count = REFERENCES[short].tensors[0]
        needed = [
            p for p in inspect.signature(function.call).parameters.values()
            if p.default is p.empty and p.kind is not p.KEYWORD_ONLY
        ]  # fmt: skip
        if takes(REFERENCES[short], bench.dtype) and len(needed) == count:
            found.append((name, count))
    return found


def _values(bench: Bench, name: str, slot: int) -> Array:
    """A few values in each of many binades, most of them where functions are not trivial."""
    rng = np.random.default_rng([bench.session.seed, zlib.crc32(name.encode()), slot])
    binade = np.concatenate([rng.integers(-4, 5, COUNT - 8), rng.integers(-14, 15, 8)])
    sign = rng.choice([1.0, 1.0, -1.0], COUNT)
    exact = sign * np.exp2(binade) * rng.uniform(1, 2, COUNT)
    return np.asarray(exact.astype(bench.numpy))


def _check(bench: Bench, name: str, count: int) -> None:
    function = tb.FUNCTIONS[name].call
    values = [_values(bench, name, k) for k in range(count)]
    if count == 3:
        values[0] = values[0] > 0
    known = None
    lengths = (5, 17, 129) if bench.smoke or bench.slow else LENGTHS
    for n in lengths:
        rows = 1 if n > 8192 else COUNT
        at = (np.arange(rows)[:, None] + np.arange(n)) % COUNT
        full = [v[at] for v in values]
        wide = [np.concatenate([f, f[:, :1]], 1) for f in full]
        calls = {"rows": [bench.put(w)[:, :n] for w in wide]}
        if n in (5, 33, 129, 8192 + 31):
            calls["contiguous"] = [bench.put(f.reshape(-1)) for f in full]
        if n == 33:
            calls["by twos"] = [bench.put(f, "general") for f in full]
            calls["backwards"] = [bench.put(f, "negative") for f in full]
            calls["transposed"] = [bench.put(f, "transposed") for f in full]
        if n == 129 and count == 2:
            pair = [full[0], np.repeat(full[1][:, :1], n, 1)]
            calls["a column"] = [bench.put(pair[0]), bench.put(full[1][:, :1].copy())]
            calls["in full"] = [bench.put(p) for p in pair]
        columns: list[Array] = []
        for layout, tensors in calls.items():
            got = bench.fetch(function(*tensors))
            raw = got.view(f"u{got.itemsize}").reshape(at.shape)
            if got.dtype.kind not in "biu":
                raw = np.where(np.isnan(got).reshape(at.shape), 1, raw)  # NaN is one value
            if layout in ("a column", "in full"):
                columns.append(raw)
                continue
            if known is None:
                known = np.zeros(COUNT, raw.dtype)
                known[at] = raw
                if at.size < COUNT:
                    raise RuntimeError("the first length does not hold every value")
            bench.decided += raw.size
            wrong = raw != known[at]
            if wrong.any():
                r, i = (int(k) for k in np.argwhere(wrong)[0])
                text = ", ".join(repr(v[at[r, i]]) for v in values)
                raise Mismatch(
                    f"{name}({text}) at {i} of {n}, {layout}: bits {int(raw[r, i]):#x}, elsewhere "
                    f"{int(known[at[r, i]]):#x}; {int(wrong.sum())} of {raw.size} differ"
                )
        if columns and (columns[0] != columns[1]).any():
            raise Mismatch(f"{name}: a repeated column gives other bits than its elements")


def values(session: Session) -> Outcome:
    bench, outcome = Bench(session), Outcome("values")
    try:
        with tb.reproducible():
            for name, count in _ops(bench):
                _check(bench, name, count)
    except Mismatch as error:
        outcome.state, outcome.message = "fail", str(error)[:400]
    outcome.decided = bench.decided
    return outcome


part(
    Part(
        "scale.position",
        {"values": values},
        (dt.float16, dt.bfloat16, dt.float32, dt.float64),
        (dt.float32,),
    )
)
