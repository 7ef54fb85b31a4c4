"""Whatever number or sequence an argument is given: a result or a plain error, and soon.

The calls are made in a process of their own, whose memory is limited: ``python`` runs this file.
"""

from __future__ import annotations

import inspect
import math
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorbus as tb
from tensorbus._shown import shown

ROOM = 1 << 30
MOST_S = 10.0
FINE = (TypeError, ValueError, IndexError, OverflowError, MemoryError, BufferError, tb.BackendError)
"""Of all errors also RuntimeError, which differentiation raises where there is no history."""


class Whole:
    """Stands for an int."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


def _deep() -> list[Any]:
    deep: list[Any] = [0]
    for _ in range(50_000):
        deep = [deep]
    return deep


def _vast() -> list[Any]:
    """2^61 elements, in 60 lists."""
    vast: list[Any] = [0, 0]
    for _ in range(60):
        vast = [vast, vast]
    return vast


def _own() -> list[Any]:
    own: list[Any] = []
    own += [own, own]
    return own


DEEP, VAST, OWN, TAIL = _deep(), _vast(), _own(), [1]
TAIL.append(TAIL)  # type: ignore[arg-type]
V = np.arange(1.0, 4.0, dtype=np.float32)

VALUES: dict[str, Any] = {
    "0": 0, "-1": -1, "2^31": 2**31, "-2^31-1": -(2**31) - 1, "2^40": 2**40, "2^63-1": 2**63 - 1,
    "2^63": 2**63, "-2^63": -(2**63), "-2^63-1": -(2**63) - 1, "2^64-1": 2**64 - 1, "2^64": 2**64,
    "10^400": 10**400, "-10^400": -(10**400), "10^5000": 10**5000,
    "1e308": 1e308, "-1e308": -1e308, "5e-324": 5e-324, "nan": float("nan"), "inf": float("inf"),
    "-inf": float("-inf"), "1.5": 1.5, "True": True, "None": None, "'7'": "7", "1j": 1j,
    "()": (), "[[]]": [[]], "(2^31,)": (2**31,), "(2^63,)": (2**63,), "(-2^63-1,)": (-(2**63) - 1,),
    "(2^31, 2^31)": (2**31, 2**31), "(0, 2^62)": (0, 2**62), "(2^32, 2^32, 0)": (2**32, 2**32, 0),
    "70 ones": (1,) * 70, "70 twos": (2,) * 70, "10^5 ones": (1,) * 100_000,
    "(10^400,)": (10**400,), "(nan,)": (float("nan"),), "(0, 0)": (0, 0), "range": range(10**9),
    "deep": DEEP, "own": OWN, "tail": TAIL, "vast": VAST, "[0, vast]": [0, VAST],
    "Whole(2^63)": Whole(2**63), "object": object(), "np.uint64": np.uint64(2**64 - 1),
    "np.float64": np.float64(1e308), "array": np.array([1, 2]), "{}": {}, "b''": b"ab",
    "((2^63,), (0,))": ((2**63,), (0,)),
}  # fmt: skip

# Words, dtypes and devices are checked by one rule for all functions.
ALIKE = {"dtype", "device", "copy", "keepdims", "descending", "stable", "reduction", "indexing"}


def calls() -> Iterator[tuple[str, str, Callable[[Any], Any]]]:
    """(function, argument, call with a value of it), all other arguments being right."""
    v = tb.asarray(V)
    x, i = tb.asarray([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), tb.asarray([0, 1])
    m, c = tb.asarray([[0, 1, 0], [1, 0, 1]]), tb.asarray([[True, False, True]] * 2)
    base: dict[str, tuple[Any, ...]] = {
        "arange": (1, 5), "full": ((2,), 1), "full_like": (x, 1), "linspace": (0, 1, 5),
        "eye": (3, 4), "broadcast_to": (v, (2, 3)), "concat": ([x, x],), "stack": ([x, x],),
        "gather": (x, m), "scatter": (x, m, x), "index_add": (x, i, x), "moveaxis": (x, 0, 1),
        "permute_dims": (x, (1, 0)), "repeat": (x, 2), "reshape": (x, (3, 2)), "roll": (x, 1),
        "squeeze": (x[None], 0), "take": (v, i), "take_along_axis": (x, m), "tile": (x, (2, 1)),
        "searchsorted": (v, v), "where": (c, x, x), "astype": (x, tb.int32), "asarray": ([1.0],),
        "from_dlpack": (np.ones(3),), "matmul": (x, x.T), "meshgrid": (v, v), "zeros": ((2,),),
        "ones": ((2,),), "empty": ((2,),), "cumulative_sum": (v,), "cumulative_prod": (v,),
        "nn.cross_entropy": (x, i), "nn.embedding": (i, x), "random.bernoulli": (0.5, (3,)),
        "random.integers": (0, 5, (3,)), "random.normal": ((3,),), "random.uniform": ((3,),),
        "random.permutation": (5,), **{f"bitwise_{n}": (i, i) for n in ("and", "or", "xor")},
        **{f"bitwise_{n}_shift": (i, i) for n in ("left", "right")}, "bitwise_invert": (i,),
        **{f"logical_{n}": (c, c) for n in ("and", "or", "xor")}, "logical_not": (c,),
    }  # fmt: skip
    options = {"gather": {"axis": 0}, "scatter": {"axis": 0}, "index_add": {"axis": 0},
               "nn.dropout": {"seed": 1}, "roll": {"axis": 0}}  # fmt: skip
    for name, function in sorted(tb.FUNCTIONS.items()):
        parameters = list(inspect.signature(function.call).parameters.values())
        due = sum(p.default is p.empty and p.kind is not p.KEYWORD_ONLY for p in parameters)
        args = list(base.get(name, (x,) * due))
        kept = {"seed": 1} if name.startswith("random.") else options.get(name, {})
        function.call(*args, **kept)
        dtypes: list[Any] = [None]
        if name in ("arange", "linspace", "full", "eye", "random.integers"):
            dtypes += [tb.int8, tb.uint32, tb.uint64, tb.float16]
        for dtype in dtypes:
            given = kept if dtype is None else {**kept, "dtype": dtype}
            for n, p in enumerate(parameters):
                if p.name in ALIKE and name not in ("sum", "asarray", "meshgrid", "sort"):
                    continue
                where = f"{p.name}, {dtype}" if dtype is not None else p.name
                if p.kind is p.KEYWORD_ONLY:
                    yield (
                        name,
                        where,
                        lambda value, f=function.call, a=args, p=p, o=given: f(
                            *a, **{**o, p.name: value}
                        ),
                    )
                elif n <= len(args):
                    yield (
                        name,
                        where,
                        lambda value, f=function.call, a=args, n=n, o=given: f(
                            *a[:n], value, *a[n + 1 :], **o
                        ),
                    )
    whole = tb.asarray([[1, 2, 3], [4, 5, 6]])
    yield "x[k]", "k", lambda k: x[k]
    yield "x[:k]", "k", lambda k: x[:k]
    yield "x[::k]", "k", lambda k: x[::k]
    yield "x[0, k]", "k", lambda k: x[0, k]
    yield "x[k] = 1", "k", lambda k: tb.asarray(V).__setitem__(k, 1.0)
    yield "x[0] = k", "k", lambda k: tb.asarray(V).__setitem__(0, k)
    yield "i[0] = k", "k", lambda k: tb.asarray([1, 2]).__setitem__(0, k)
    yield "x + k", "k", lambda k: x + k
    yield "i ** k", "k", lambda k: whole**k
    yield "i << k", "k", lambda k: whole << k
    yield "x == k", "k", lambda k: x == k
    yield "k in x", "k", lambda k: k in x
    yield "x.reshape", "k", lambda k: x.reshape(k)
    yield "x.to_device", "k", x.to_device
    yield "random.key", "k", tb.random.key
    yield "split", "k", tb.random.key(1).split
    yield "fold_in", "k", tb.random.key(1).fold_in
    yield "get_device", "k", tb.get_device
    yield "fallback_policy", "k", tb.fallback_policy
    yield "backward", "k", tb.backward
    yield "x.backward", "k", lambda k: tb.sum(x).backward(k)
    yield "grad", "outputs", lambda k: tb.grad(k, x)
    yield "grad", "inputs", lambda k: tb.grad(x, k)
    yield "jvp", "tangents", lambda k: tb.jvp(tb.exp, [x], k)


class _TooLong(BaseException):
    pass


def _problem(call: Callable[[Any], Any], value: Any) -> str:
    """What is wrong with a call, if anything is."""
    signal.setitimer(signal.ITIMER_REAL, MOST_S, 1.0)
    try:
        call(value)
    except FINE as error:
        text = str(error)
        if isinstance(error, KeyError) or not text or len(text) > 600:
            return f"{type(error).__name__} with {len(text)} characters"
    except RuntimeError as error:
        if isinstance(error, RecursionError | NotImplementedError):
            return type(error).__name__
    except _TooLong:
        return f"takes more than {MOST_S} s"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return ""


def main() -> None:
    """Make all calls; print what is wrong, and how many there were."""
    import resource

    def stop(*_: object) -> None:
        raise _TooLong

    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, stop)
    made, count, start = list(calls()), 0, time.monotonic()
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    for name, argument, call in made:
        for label, value in VALUES.items():
            count += 1
            if problem := _problem(call, value):
                print(f"{name}({argument}={label}): {problem}", flush=True)
    print(count, "calls", file=sys.stderr)
    print(f"{time.monotonic() - start:.1f} s", file=sys.stderr)


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of memory is not kept elsewhere")
def test_every_argument_of_every_function() -> None:
    done = subprocess.run(
        [sys.executable, __file__], capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert int(done.stderr.split()[-4]) > 10_000, done.stderr


def test_diagonals_beyond_the_matrix() -> None:
    x = tb.ones((2, 3))
    for k in (3, 2**31, 2**63, 2**200):
        assert tb.tril(x, k=k).tolist() == [[1.0] * 3] * 2
        assert tb.triu(x, k=k).tolist() == [[0.0] * 3] * 2
        assert tb.tril(x, k=-k).tolist() == [[0.0] * 3] * 2
        assert tb.triu(x, k=-k).tolist() == [[1.0] * 3] * 2
        assert tb.eye(2, 3, k=k).tolist() == tb.eye(2, 3, k=-k).tolist() == [[0.0] * 3] * 2
    assert tb.eye(2, 3, k=2).tolist() == [[0, 0, 1], [0, 0, 0]]
    assert tb.eye(2, 3, k=-1).tolist() == [[0, 0, 0], [1, 0, 0]]


def test_integer_sequences_from_floats() -> None:
    with pytest.raises(ValueError, match=r"arange: .*more elements"):
        tb.arange(-1.5, 1e308, dtype=tb.uint32)
    with pytest.raises(ValueError, match=r"arange: .*more elements"):
        tb.arange(-1e308, 1e308)
    with pytest.raises(OverflowError, match=r"arange: .*does not fit uint32"):
        tb.arange(-1.5, 1e9, dtype=tb.uint32)
    many = tb.linspace(0.5, 1, 2**22, dtype=tb.int8).numpy()
    assert many[-1] == 1
    assert not many[:-1].any()
    with pytest.raises(ValueError, match="int8 has no infinity"):
        tb.linspace(0, float("inf"), 3, dtype=tb.int8)


@pytest.mark.parametrize("dtype", [tb.int64, tb.uint64, tb.int8])
def test_integer_sequences_are_python_arithmetic(dtype: tb.DType) -> None:
    rng = np.random.default_rng(9)
    top = min(dtype.max, 2**62)
    ends = [
        0.0,
        0.75,
        17,
        2**53 + 1,
        top / 3,
        top // 7,
        *(rng.uniform(0, min(top, 99), 4).tolist()),
    ]
    for a in ends:
        for b in ends:
            for num in (1, 2, 7, 50):
                due = [int(a + k * (b - a) / max(num - 1, 1)) for k in range(num)]
                if all(dtype.min <= v <= dtype.max for v in due):
                    assert tb.linspace(a, b, num, dtype=dtype).tolist() == due
            step = (b - a) / 9
            if step and max(a, b) <= dtype.max:
                due = [int(a + k * step) for k in range(math.ceil((b - a) / step))]
                assert tb.arange(a, b, step, dtype=dtype).tolist() == due


def test_lists_that_hold_themselves_or_tensors_often() -> None:
    shared = [tb.asarray([1.0, 2.0]), [3.0, 4.0]]
    assert tb.asarray([shared, shared]).tolist() == [[[1, 2], [3, 4]]] * 2
    for value in (DEEP, OWN, [tb.ones((2,)), DEEP], [tb.ones((2,)), OWN]):
        with pytest.raises(ValueError, match="more than 64 deep"):
            tb.asarray(value)
    whole = np.arange(6, dtype=np.int64).reshape(2, 3)
    assert tb.asarray(memoryview(whole)).tolist() == whole.tolist()
    with pytest.raises(ValueError, match="too many elements"):
        tb.asarray(VAST)
    with pytest.raises(ValueError, match="asarray"):
        tb.asarray([0, VAST])


def test_messages_stay_short() -> None:
    for value in VALUES.values():
        assert 0 < len(shown(value)) <= 60


if __name__ == "__main__":
    main()
