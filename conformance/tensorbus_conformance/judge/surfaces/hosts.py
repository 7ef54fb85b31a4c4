"""Out to Python and NumPy and back: numbers, lists, arrays, text, copies, pickles."""

from __future__ import annotations

import array as arrays
import copy
import pickle
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import Feature
from tensorbus_backends.dtypes import DType

from ..data import specials
from ..layouts import LAYOUTS, host, place
from .checks import Checks, bits_of, distinct, surface

__all__ = ["hosts"]

Array = NDArray[Any]


@surface("host", dt.ALL, (dt.float32,))
def hosts(c: Checks) -> None:
    """Every way out gives the elements, every way in takes them, neither shares by accident."""
    for shape in ((), (1,), (3, 5), (2, 1, 3), (0,), (4, 0, 2), (1100,)):
        for layout in LAYOUTS if len(shape) == 2 else ("contiguous", "general", "negative"):
            used = layout if shape else "contiguous"
            x, seen = place(c.device, distinct(shape, c.dtype, 5), used)
            _out(c, f"{used} {list(shape)}", x, seen)
    edge = specials(c.dtype)
    _out(c, "special values", c.put(edge, "general"), edge)
    _numbers(c, edge)
    _refused(c)
    _text(c)
    _copies(c)
    _numpy_in(c)
    _python_in(c)
    _tensor_in(c)


def _plain(array: Array) -> Array:
    """bfloat16 as float32, which NumPy knows as numbers."""
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _out(c: Checks, label: str, x: tb.Tensor, seen: Array) -> None:
    got = x.numpy()
    c.same(f"numpy(), {label}", got, seen)
    if got.size:
        before = host(x)
        got[...] = got.reshape(-1)[::-1][0]
        c.same(f"x after its numpy() changed, {label}", x, before)
        c.true(f"numpy(), {label}", got.flags.writeable)
    c.true(f"tolist(), {label}", repr(x.tolist()) == repr(_plain(seen).tolist()), "other elements")
    if seen.ndim:
        c.true(f"len, {label}", len(x) == len(seen))
        rows = list(x)
        c.true(f"iteration, {label}", len(rows) == len(seen))
        for k in {k for k in (0, 1, 2, -1, -2) if -len(seen) <= k < len(seen)}:
            c.same(f"row {k} of iteration, {label}", rows[k], seen[k])
    _array(c, label, x, seen)


def _array(c: Checks, label: str, x: tb.Tensor, seen: Array) -> None:
    """``numpy.asarray(x)`` shares host-accessible memory, and is refused elsewhere."""
    if not c.device.has(Feature.ADDRESS):
        c.raises(f"numpy.asarray, {label}", TypeError, lambda: np.asarray(x))
        return
    shared = np.asarray(x)
    c.same(f"numpy.asarray, {label}", shared, seen)
    c.true(f"memory of numpy.asarray, {label}", _covered(shared), "is less than the view shows")
    c.same(f"__array__(copy=True), {label}", x.__array__(copy=True), seen)
    if c.dtype is not dt.bfloat16:
        with np.errstate(all="ignore"):
            c.same(
                f"__array__(float64), {label}", np.asarray(x, np.float64), seen.astype(np.float64)
            )
        c.same(f"__array__(own dtype), {label}", x.__array__(seen.dtype, copy=False), seen)
        if seen.dtype != np.float64:
            c.raises(f"no copy, {label}", ValueError, lambda: x.__array__(np.float64, copy=False))
    if seen.size and 0 not in shared.strides and label.split()[0] != "overlapping":
        copied = np.array(x, copy=True)
        corner = (0,) * seen.ndim
        shared[corner] = seen[(-1,) * seen.ndim]
        c.same(f"x after numpy.asarray(x) changed, {label}", host(x)[corner], shared[corner])
        c.same(f"copy after x changed, {label}", copied, seen)
    due = np.array(seen)
    kept = np.asarray(c.put(due))
    for _ in range(4):  # the block would come back from the pool if nobody held it
        c.put(np.zeros_like(due))
    c.same(f"numpy.asarray of a dropped tensor, {label}", kept, due)


def _covered(view: Array) -> bool:
    """Whether the array that a view was made of holds all of its elements."""
    owner: Any = view
    root = view
    while getattr(owner, "base", None) is not None:
        owner = owner.base
        root = owner if isinstance(owner, np.ndarray) else root
    low, high = np.lib.array_utils.byte_bounds(view)
    first, end = np.lib.array_utils.byte_bounds(root)
    return not view.size or first <= low <= high <= end


def _numbers(c: Checks, edge: Array) -> None:
    """One element as a Python number, out of views at every offset."""
    x = c.put(edge, "offset")
    for k in range(len(edge)):
        due = _plain(edge)[k].item()
        one = x[k]
        for name, got in (("item()", one.item()), ("item() of a row", x[k : k + 1].item())):
            c.true(f"{name} at {k}", repr(got) == repr(due), f"{got!r}, expected {due!r}")
        c.true(f"bool() at {k}", bool(one) is bool(due))
        same_float = repr(float(one)) == repr(float(due))
        c.true(f"float() at {k}", same_float, f"{float(one)!r}, expected {float(due)!r}")
        if np.isfinite(due):
            c.true(f"int() at {k}", int(one) == int(due))
        else:
            c.raises(f"int() at {k}", (OverflowError, ValueError), lambda one=one: int(one))
        if c.dtype.is_integer:
            c.true(f"index at {k}", one.__index__() == due)
        else:
            c.raises(f"index at {k}", TypeError, lambda one=one: one.__index__())
    reversed_view = x[::-1]
    c.true(
        "item() of a reversed view", repr(reversed_view[0].item()) == repr(_plain(edge)[-1].item())
    )
    deep = c.put(edge[:1].reshape(1, 1, 1))
    c.true("item() of shape (1, 1, 1)", repr(deep.item()) == repr(_plain(edge)[0].item()))
    c.true("float() of shape (1, 1, 1)", repr(float(deep)) == repr(float(_plain(edge)[0])))


def _refused(c: Checks) -> None:
    many, none, zero = (c.put(distinct(s, c.dtype)) for s in ((3,), (0,), ()))
    for x, name in ((many, "three elements"), (none, "no element")):
        for what in (bool, int, float, lambda x: x.item()):
            c.raises(f"{what} of {name}", ValueError, lambda what=what, x=x: what(x))
        c.raises(f"index of {name}", TypeError, lambda x=x: x.__index__())
    c.raises("len of a number", TypeError, lambda: len(zero))
    c.raises("iteration of a number", TypeError, lambda: iter(zero).__next__())
    c.raises("an attribute", AttributeError, lambda: many.nothing)
    c.raises("a new attribute", AttributeError, lambda: setattr(many, "nothing", 1))
    if c.dtype.is_float:
        many.requires_grad = True
        c.same("numpy() of a leaf", many.numpy(), distinct((3,), c.dtype))
        kind = RuntimeError
        c.raises("numpy.asarray of a leaf", kind, lambda: np.asarray(many))
        c.raises("pickle of a result", kind, lambda: pickle.dumps(many * 1))
        c.raises("deepcopy of a result", kind, lambda: copy.deepcopy(many * 1))


def _text(c: Checks) -> None:
    """What `repr` says: NumPy's text of the same elements, dtype, device; corners of large ones."""
    array = distinct((2, 3), c.dtype, 7)
    x = c.put(array, "negative")
    body = np.array2string(_plain(array), separator=", ", prefix="tensor(")
    due = f"tensor({body}, dtype={c.dtype.name}, device={c.device.name!r})"
    for got in (repr(x), str(x), f"{x}"):
        c.true("repr", got == due, f"{got!r}, expected {due!r}")
    for shape in ((1001,), (40, 50), (3, 400), (11, 11, 11), (2, 3, 200)):
        large = distinct(shape, c.dtype, 3)
        body = np.array2string(
            _plain(large), separator=", ", prefix="tensor(", threshold=1000, edgeitems=3
        )
        # Where all elements that are shown have one width NumPy's text is ours.
        got = repr(c.put(large))
        shown = got[len("tensor(") : got.index(f", shape={shape}")]
        plain, ours = ("".join(t.split()) for t in (body, shown))
        c.true(f"repr of {shape}", plain == ours, f"{shown!r:.80}")
    empty = repr(c.put(distinct((0, 3), c.dtype)))
    c.true("repr of nothing", "shape=(0, 3)" in empty and f"dtype={c.dtype.name}" in empty)
    if c.dtype.is_float:
        x.requires_grad = True
        c.true("repr of a leaf", repr(x).endswith("requires_grad=True)"))


def _copies(c: Checks) -> None:
    array = distinct((3, 4), c.dtype, 9)
    for layout in ("contiguous", "general", "transposed"):
        x = c.put(array, layout)
        deep, shallow = copy.deepcopy(x), copy.copy(x)
        twice = copy.deepcopy([x, x])
        again = pickle.loads(pickle.dumps(x)) if tb.get_device(c.device.name) is c.device else None
        x[0] = c.put(distinct((), c.dtype, 77))
        changed = host(x)
        c.same(f"deepcopy, {layout}", deep, array)
        c.same(f"copy, {layout}", shallow, changed)
        c.true(f"copy, {layout}", shallow._buffer is x._buffer and shallow is not x)
        c.true(f"deepcopy of a list, {layout}", twice[0] is twice[1])
        if again is not None:
            c.same(f"pickle, {layout}", again, array)
            c.true(f"pickle, {layout}", again.device is c.device and again.dtype is c.dtype)
    if c.dtype.is_float:
        leaf = c.put(array)
        leaf.requires_grad = True
        tb.sum(leaf * 1).backward()
        other = copy.deepcopy(leaf)
        c.true("deepcopy of a leaf", other.requires_grad and other.is_leaf)
        assert leaf.grad is not None
        assert other.grad is not None
        c.same("grad of a deepcopy", other.grad, host(leaf.grad))
        c.true("grad of a deepcopy", other.grad._buffer is not leaf.grad._buffer)
        if tb.get_device(c.device.name) is c.device:
            c.true("pickle of a leaf", pickle.loads(pickle.dumps(leaf)).requires_grad)


def _numpy_in(c: Checks) -> None:
    """NumPy arrays of every layout and byte order are copied; of every dtype, converted."""
    base = distinct((4, 6), c.dtype, 2)
    forms = {
        "C": base, "Fortran": np.asfortranarray(base), "negative": base[::-1, ::-2],
        "steps": base[1::2, ::3], "broadcast": np.broadcast_to(base[0], (3, 6)),
        "transposed": base.T, "empty": base[:0], "0-d": base[1, 2, ...],
        "view of the end": base[2:, 3:],
    }  # fmt: skip
    if c.dtype.bits > 8 and c.dtype is not dt.bfloat16:
        forms["big-endian"] = base.astype(base.dtype.newbyteorder(">"))
        forms["little-endian"] = base.astype(base.dtype.newbyteorder("<"))
    readonly = base.copy()
    readonly.flags.writeable = False
    forms["readonly"] = readonly
    raw = np.zeros(base.nbytes + 1, np.uint8)[1:].view(base.dtype)
    raw[:] = base.reshape(-1)
    forms["unaligned"] = raw
    for name, given in forms.items():
        due = np.array(given).astype(c.dtype.numpy)
        for options in ({}, {"dtype": c.dtype}, {"copy": True}, {"copy": None}):
            x = tb.asarray(given, device=c.device, **options)
            c.same(f"asarray of a {name} array, {options}", x, due)
            c.true(f"asarray of a {name} array", x.device is c.device and x._spec.contiguous)
        c.raises(
            f"asarray(copy=False) of a {name} array", ValueError,
            lambda given=given: tb.asarray(given, device=c.device, copy=False),
        )  # fmt: skip
    given = base.copy()
    x = tb.asarray(given, device=c.device)
    given[...] = given[0, 0]
    c.same("asarray after the array changed", x, base)
    for other in dt.ALL:
        if c.has(other):
            source = (np.arange(12) % 2 + (other is not dt.bool_)).astype(other.numpy)
            got = tb.asarray(source, dtype=c.dtype, device=c.device)
            c.same(f"asarray of {other.name} as {c.dtype.name}", got, source.astype(c.dtype.numpy))
    bad: tuple[Any, ...] = (
        np.zeros(2, complex), np.asarray(["a"]), np.asarray([None]), np.zeros(2, "M8[s]"),
        np.zeros(2, [("a", "i4")]), np.zeros(2, np.longdouble),
    )  # fmt: skip
    for array in bad:
        c.raises(f"asarray of {array.dtype}", TypeError, lambda array=array: tb.asarray(array))


def _python_in(c: Checks) -> None:
    base = distinct((2, 3), c.dtype, 4)
    nested = _plain(base).tolist()
    for name, given in (("lists", nested), ("tuples", tuple(map(tuple, nested)))):
        got = tb.asarray(given, dtype=c.dtype, device=c.device)
        c.same(f"asarray of {name}", got, base)
    rows = [c.put(base[0], "negative"), c.put(base[1])]
    c.same("asarray of tensors", tb.asarray(rows, dtype=c.dtype, device=c.device), base)
    mixed = [c.put(base[0, 0]), nested[0][1]]
    c.same(
        "asarray of tensors and numbers",
        tb.asarray(mixed, dtype=c.dtype, device=c.device),
        base[0, :2],
    )
    for value in (nested[1][2], np.asarray(nested[1][2]).astype(c.dtype.numpy)):
        got = tb.asarray(value, dtype=c.dtype, device=c.device)
        c.same("asarray of a number", got, base[1, 2])
    c.same("asarray of []", tb.asarray([], dtype=c.dtype, device=c.device), base[0, :0])
    c.same("asarray of [[], []]", tb.asarray([[], []], dtype=c.dtype, device=c.device), base[:, :0])
    code = {"float32": "f", "float64": "d", "int32": "i", "int64": "q", "uint8": "B", "int16": "h"}
    if c.dtype.name in code:
        packed = arrays.array(code[c.dtype.name], nested[0])
        c.same(
            "asarray of array.array", tb.asarray(packed, dtype=c.dtype, device=c.device), base[0]
        )
        view = memoryview(packed)[::-1]
        c.same(
            "asarray of a memoryview",
            tb.asarray(view, dtype=c.dtype, device=c.device),
            base[0][::-1],
        )
    for value, due in ((True, dt.bool_), (3, dt.int64), (1.5, dt.float32), ([1, 2.5], dt.float32)):
        if c.has(due):
            got = tb.asarray(value, device=c.device)
            c.same(f"asarray({value!r})", got, np.asarray(value).astype(due.numpy))
    _unnamed(c, base)
    for bad in ("a", None, object(), [None], ["a"], 1j, [[1], [1j]], {1}, {1: 2}):
        c.raises(
            f"asarray({bad!r:.20})", TypeError, lambda bad=bad: tb.asarray(bad, device=c.device)
        )
    for ragged in ([[1], [1, 2]], [1, [2]]):
        c.raises("ragged", ValueError, lambda ragged=ragged: tb.asarray(ragged, device=c.device))
    for bad_dtype in ("float32", float, np.float32, 3):
        c.raises(f"dtype {bad_dtype!r}", TypeError, lambda d=bad_dtype: tb.asarray(1, dtype=d))
    c.raises(
        "copy=False of a list", ValueError, lambda: tb.asarray([1], device=c.device, copy=False)
    )
    if c.dtype.is_integer:
        for value in (c.dtype.max + 1, c.dtype.min - 1):
            c.raises(
                f"asarray({value}) as {c.dtype.name}", OverflowError,
                lambda value=value: tb.asarray([value], dtype=c.dtype, device=c.device),
            )  # fmt: skip
        ends = tb.asarray([c.dtype.min, c.dtype.max], dtype=c.dtype, device=c.device)
        c.same("asarray of the ends", ends, np.asarray([c.dtype.min, c.dtype.max], c.dtype.numpy))
    c.raises("asarray(10**40)", (OverflowError, TypeError), lambda: tb.asarray(10**40))


class _Exporter:
    """An object that NumPy can read."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return self.array


def _unnamed(c: Checks, base: Array) -> None:
    """Without a dtype numbers become bool, int64 or float32, whatever holds them."""
    kind = "b" if c.dtype is dt.bool_ else "f" if c.dtype.is_float else c.dtype.kind
    default = {"b": dt.bool_, "i": dt.int64, "f": dt.float32}.get(kind)
    if default is None or not c.has(default):
        return
    rows = _plain(base)
    forms: dict[str, Any] = {
        "a list of scalars": list(rows[0]),
        "lists of scalars": [list(r) for r in rows],
        "a list of arrays": list(rows),
        "a list of tensors": [c.put(r) for r in base],
        "numbers and tensors": [[rows[0, 0], *(c.put(v) for v in base[0, 1:])]],
        "an exporter": _Exporter(rows),
        "a memoryview": np.ascontiguousarray(rows).data,
    }
    for name, given in forms.items():
        due = rows[0] if name == "a list of scalars" else rows[:1] if "numbers" in name else rows
        got = tb.asarray(given, device=c.device)
        c.same(f"asarray of {name} of {c.dtype.name}", got, due.astype(default.numpy))
        if c.dtype.is_float:
            wanted = tb.asarray(given, dtype=dt.int32, device=c.device)
            c.same(f"asarray of {name} as int32", wanted, due.astype(np.int32))
    exporter = _Exporter(np.zeros(0, object))
    c.raises("asarray of no objects", TypeError, lambda: tb.asarray(exporter, device=c.device))
    mixed: list[tuple[Any, DType]] = [
        ([True, 2], dt.int64), ([True, 2.5], dt.float32), ([2, 2.5], dt.float32),
        ([True, False], dt.bool_), ([[1], [True]], dt.int64), (range(4), dt.int64),
        ((1.5, True), dt.float32), ([], dt.float32), ([[], []], dt.float32),
        ([1e300, -1e300], dt.float32), (-(2**63), dt.int64), ([2**63 - 1], dt.int64),
    ]  # fmt: skip
    for value, dtype in mixed:
        got = tb.asarray(value, device=c.device)
        with np.errstate(over="ignore"):
            c.same(f"asarray({value!r})", got, np.asarray(value).astype(dtype.numpy))


def _tensor_in(c: Checks) -> None:
    array = distinct((3, 4), c.dtype, 6)
    x = c.put(array, "general")
    c.true("asarray of a tensor", tb.asarray(x) is x and tb.asarray(x, copy=False) is x)
    c.true("asarray with its dtype", tb.asarray(x, dtype=c.dtype, device=c.device) is x)
    made = tb.asarray(x, copy=True)
    c.same("asarray(copy=True) of a tensor", made, array)
    c.true("asarray(copy=True) of a tensor", made._buffer is not x._buffer)
    for other in (dt.float32, dt.int32):
        if other is not c.dtype:
            c.raises(
                "copy=False to another dtype",
                ValueError,
                lambda other=other: tb.asarray(x, dtype=other, copy=False),
            )
            c.same(
                f"asarray to {other.name}", tb.asarray(x, dtype=other), array.astype(other.numpy)
            )
    same = x.astype(c.dtype, copy=False)
    c.true("astype(copy=False)", same is x)
    other_memory = x.astype(c.dtype)
    c.same("astype", other_memory, array)
    c.true("astype", other_memory._buffer is not x._buffer)
    c.true("bits", bits_of(host(x.reshape(12))) == bits_of(array))
    c.same("reshape(sizes)", x.reshape(2, -1), array.reshape(2, -1))
    c.same("reshape(shape)", x.reshape((4, 3)), array.reshape(4, 3))
