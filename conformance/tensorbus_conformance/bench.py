"""``tensorbus bench``: speed beside NumPy and, where installed, PyTorch and JAX.

Every library does the same work in one process on all usable cores.  Repeats are interleaved
(library after library, then again), and medians are compared, so that a machine whose speed
drifts does not favour one of them.  Between two libraries nothing runs for a while: idle threads of
OpenBLAS and OpenMP poll for some 30 ms after a call, on cores that the next library needs.  A
library's array is made once; results are dropped at once, as in a program that goes on.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorbus as tb
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from .console import make_console
from .report import write

__all__ = ["bench"]

Call = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """One line of the table: a call for each library, and what it costs at least.

    Attributes:
        name: What is measured.
        target: Greatest ratio to the fastest peer that is aimed at; None where none is.
        calls: By library; each returns after the work is done.
        moved: Bytes that have to be read and written once, 0 if that is not the limit.
        flops: Operations, 0 if that is not the limit.
    """

    name: str
    target: float | None
    calls: dict[str, Call]
    moved: int = 0
    flops: int = 0


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


class _Peers:
    """The libraries that are installed, each with its arrays and functions."""

    def __init__(self) -> None:
        self.torch: Any = None
        self.jax: Any = None
        try:
            import torch

            torch.set_num_threads(_cores())
            self.torch = torch
        except ImportError:
            pass
        try:
            os.environ.setdefault("JAX_PLATFORMS", "cpu")
            import jax

            self.jax = jax
        except ImportError:
            pass

    def jitted(self, function: Callable[..., Any], *arrays: Any) -> Call:
        """A compiled JAX call that waits for its result."""
        compiled = self.jax.jit(function)
        given = [self.jax.numpy.asarray(a) for a in arrays]
        return lambda: compiled(*given).block_until_ready()


def _erf(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """NumPy has no erf: Abramowitz and Stegun 7.1.26, as NumPy users write it."""
    t = 1 / (1 + np.float32(0.3275911) * np.abs(x))
    poly = np.float32(1.061405429) * t - np.float32(1.453152027)
    for c in (1.421413741, -0.284496736, 0.254829592):
        poly = poly * t + np.float32(c)
    return np.asarray(np.sign(x) * (1 - poly * t * np.exp(-x * x)))


def _softmax(x: np.ndarray[Any, Any]) -> Any:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _layer_norm(x: np.ndarray[Any, Any]) -> Any:
    m = x.mean(axis=-1, keepdims=True)
    d = x - m
    return d / np.sqrt((d * d).mean(axis=-1, keepdims=True) + np.float32(1e-5))


def _elementwise(peers: _Peers, n: int, rng: np.random.Generator) -> list[Case]:
    a, b, c = (rng.standard_normal(n).astype(np.float32) for _ in range(3))
    ta, tbb, tc = (tb.asarray(x) for x in (a, b, c))
    size = 4 * n
    full = n >= 10**7
    cases: list[Case] = []

    def add(
        name: str, target: float, moved: int, ours: Call, numpy: Call, torch: Any, jax: Any
    ) -> None:
        calls = {"tensorbus": ours, "numpy": numpy}
        if peers.torch is not None:
            calls["torch"] = torch()
        if peers.jax is not None:
            calls["jax"] = jax()
        cases.append(Case(f"{name} {n:.0e}", target if full else None, calls, moved))

    t = peers.torch
    if t is not None:
        pa, pb, pc = (t.from_numpy(x) for x in (a, b, c))
        f = t.nn.functional
    j = peers.jax
    jn: Any = j.numpy if j is not None else None
    half = np.float32(0.5)
    root = np.float32(2**-0.5)
    add(
        "add",
        1.0,
        3 * size,
        lambda: ta + tbb,
        lambda: a + b,
        lambda: lambda: pa + pb,
        lambda: peers.jitted(lambda x, y: x + y, a, b),
    )
    add(
        "mul-add",
        1.0,
        4 * size,
        lambda: ta * tbb + tc,
        lambda: a * b + c,
        lambda: lambda: pa * pb + pc,
        lambda: peers.jitted(lambda x, y, z: x * y + z, a, b, c),
    )
    add(
        "exp",
        1.0,
        2 * size,
        lambda: tb.exp(ta),
        lambda: np.exp(a),
        lambda: lambda: t.exp(pa),
        lambda: peers.jitted(jn.exp, a),
    )
    add(
        "tanh",
        1.3,
        2 * size,
        lambda: tb.tanh(ta),
        lambda: np.tanh(a),
        lambda: lambda: t.tanh(pa),
        lambda: peers.jitted(jn.tanh, a),
    )
    add(
        "gelu",
        1.0,
        2 * size,
        lambda: tb.nn.gelu(ta),
        lambda: half * a * (1 + _erf(a * root)),
        lambda: lambda: f.gelu(pa),
        lambda: peers.jitted(lambda x: j.nn.gelu(x, approximate=False), a),
    )
    add(
        "sum",
        1.0,
        size,
        lambda: tb.sum(ta),
        lambda: a.sum(),
        lambda: lambda: t.sum(pa),
        lambda: peers.jitted(jn.sum, a),
    )
    columns = 10 if n < 10**5 else 1000
    shape = (n // columns, columns)
    m, tm = a[: n // columns * columns].reshape(shape), tb.reshape(ta, shape)
    pm = pa.reshape(shape) if t is not None else None
    add(
        "sum rows",
        1.3,
        size,
        lambda: tb.sum(tm, axis=1),
        lambda: m.sum(axis=1),
        lambda: lambda: t.sum(pm, dim=1),
        lambda: peers.jitted(lambda x: x.sum(axis=1), m),
    )
    add(
        "sum columns",
        1.3,
        size,
        lambda: tb.sum(tm, axis=0),
        lambda: m.sum(axis=0),
        lambda: lambda: t.sum(pm, dim=0),
        lambda: peers.jitted(lambda x: x.sum(axis=0), m),
    )
    add(
        "softmax",
        1.3,
        2 * size,
        lambda: tb.nn.softmax(tm, axis=-1),
        lambda: _softmax(m),
        lambda: lambda: t.softmax(pm, dim=-1),
        lambda: peers.jitted(lambda x: j.nn.softmax(x, axis=-1), m),
    )
    add(
        "layer_norm",
        1.3,
        2 * size,
        lambda: tb.nn.layer_norm(tm, axis=-1),
        lambda: _layer_norm(m),
        lambda: lambda: f.layer_norm(pm, (columns,)),
        lambda: peers.jitted(lambda x: j.nn.standardize(x, axis=-1, epsilon=1e-5), m),
    )
    return cases


def _matmul(peers: _Peers, n: int, rng: np.random.Generator) -> Case:
    a, b = (rng.standard_normal((n, n)).astype(np.float32) for _ in range(2))
    ta, tbb = tb.asarray(a), tb.asarray(b)
    calls: dict[str, Call] = {"tensorbus": lambda: ta @ tbb, "numpy": lambda: a @ b}
    if peers.torch is not None:
        pa, pb = peers.torch.from_numpy(a), peers.torch.from_numpy(b)
        calls["torch"] = lambda: pa @ pb
    if peers.jax is not None:
        calls["jax"] = peers.jitted(lambda x, y: x @ y, a, b)
    return Case(f"matmul {n}", 1.0 if n == 2048 else None, calls, flops=2 * n**3)


def _mlp(peers: _Peers, rng: np.random.Generator) -> Case:
    """Forward and backward of 256-512-512-10 with relu on a batch of 128."""
    sizes, batch = (256, 512, 512, 10), 128
    x = rng.standard_normal((batch, sizes[0])).astype(np.float32)
    y = rng.integers(0, sizes[-1], batch)
    w = [
        (rng.standard_normal((o, i)) / np.sqrt(i)).astype(np.float32)
        for i, o in itertools.pairwise(sizes)
    ]
    tx, ty, tw = tb.asarray(x), tb.asarray(y), [tb.asarray(v) for v in w]
    for v in tw:
        v.requires_grad = True

    def ours() -> Any:
        h = tx
        for k, v in enumerate(tw):
            h = tb.nn.linear(h, v)
            h = tb.nn.relu(h) if k + 1 < len(tw) else h
        return tb.grad(tb.nn.cross_entropy(h, ty), tw)

    calls: dict[str, Call] = {"tensorbus": ours}
    if peers.torch is not None:
        t = peers.torch
        px, py = t.from_numpy(x), t.from_numpy(y)
        pw = [t.from_numpy(v).requires_grad_() for v in w]

        def theirs() -> Any:
            h = px
            for k, v in enumerate(pw):
                h = t.nn.functional.linear(h, v)
                h = t.relu(h) if k + 1 < len(pw) else h
            return t.autograd.grad(t.nn.functional.cross_entropy(h, py), pw)

        calls["torch"] = theirs
    if peers.jax is not None:
        j = peers.jax

        def loss(weights: Any) -> Any:
            h = j.numpy.asarray(x)
            for k, v in enumerate(weights):
                h = h @ v.T
                h = j.nn.relu(h) if k + 1 < len(weights) else h
            return -j.nn.log_softmax(h)[j.numpy.arange(batch), j.numpy.asarray(y)].mean()

        step = j.jit(j.grad(loss))
        jw = [j.numpy.asarray(v) for v in w]
        calls["jax"] = lambda: j.block_until_ready(step(jw))
    return Case("MLP forward+backward", None, calls)


def _small(peers: _Peers) -> Case:
    one = np.ones(1, np.float32)
    a, b = tb.ones((1,)), tb.ones((1,))
    calls: dict[str, Call] = {"tensorbus": lambda: a + b, "numpy": lambda: one + one}
    if peers.torch is not None:
        p = peers.torch.ones(1)
        calls["torch"] = lambda: p + p
    if peers.jax is not None:
        q = peers.jax.numpy.ones(1)
        calls["jax"] = lambda: (q + q).block_until_ready()
    return Case("add of one element", 2.5, calls)


# OpenBLAS's threads poll for 2^26 cycles unless told otherwise: 27 ms at 2.5 GHz.
_PAUSE_S = 0.05
_REPEAT_S = 10e-3


def _measure(case: Case, seconds: float) -> dict[str, float]:
    """Median seconds of one call by library, repeats interleaved."""
    loops: dict[str, int] = {}
    for name, call in case.calls.items():
        call()
        call()
        start = time.perf_counter()
        call()
        once = max(time.perf_counter() - start, 1e-7)
        loops[name] = max(1, int(_REPEAT_S / once))
    samples: dict[str, list[float]] = {name: [] for name in case.calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(samples["tensorbus"]) < 7:
        for name, call in case.calls.items():
            count = loops[name]
            time.sleep(_PAUSE_S)
            call()
            start = time.perf_counter()
            for _ in range(count):
                call()
            samples[name].append((time.perf_counter() - start) / count)
    return {name: statistics.median(v) for name, v in samples.items()}


def bench(json_file: Path | None, quick: bool) -> int:
    """Measure, print the table, write the figures; 0 unless the report cannot be written."""
    console = make_console()
    peers = _Peers()
    rng = np.random.default_rng(0)
    device = tb.get_device("cpu")
    rows: list[dict[str, Any]] = []
    seconds = 0.5 if quick else 2.0
    with tb.device(device), Progress(console=console, transient=True) as bar:
        builders: list[Callable[[], list[Case]]] = [lambda: [_small(peers)]]
        for n in (10**3, 10**5) if quick else (10**3, 10**5, 16 * 10**6):
            builders.append(lambda n=n: _elementwise(peers, n, rng))  # type: ignore[misc]
        for n in (64, 512) if quick else (64, 512, 2048):
            builders.append(lambda n=n: [_matmul(peers, n, rng)])  # type: ignore[misc]
        builders.append(lambda: [_mlp(peers, rng)])
        task = bar.add_task("measuring", total=len(builders))
        for build in builders:
            for case in build():
                bar.update(task, description=case.name)
                rows.append(_row(case, _measure(case, seconds)))
            bar.advance(task)
    _show(console, rows, str(device.info.description))
    if json_file is not None:
        data = {
            "schema": "tensorbus-bench/1",
            "device": device.info.description,
            "details": dict(device.info.details),
            "peers": _versions(peers),
            "cores": _cores(),
            "rows": rows,
        }
        try:
            write(json_file, json.dumps(data, indent=1) + "\n")
        except OSError as error:
            print(f"tensorbus: cannot write {json_file}: {error.strerror}", file=sys.stderr)
            return 1
        print(f"Figures: {json_file}")
    return 0


def _row(case: Case, medians: dict[str, float]) -> dict[str, Any]:
    ours = medians["tensorbus"]
    others = {k: v for k, v in medians.items() if k != "tensorbus"}
    reference = others
    if case.name == "add of one element" and "torch" in others:
        reference = {"torch": others["torch"]}
    best = min(reference, key=lambda k: reference[k]) if reference else None
    return {
        "case": case.name,
        "seconds": medians,
        "gigabytes_per_second": case.moved / ours / 1e9 if case.moved else None,
        "gigaflops": case.flops / ours / 1e9 if case.flops else None,
        "fastest_peer": best,
        "ratio": ours / reference[best] if best else None,
        "target": case.target,
    }


def _versions(peers: _Peers) -> dict[str, str]:
    found = {"numpy": np.__version__}
    if peers.torch is not None:
        found["torch"] = peers.torch.__version__
    if peers.jax is not None:
        found["jax"] = peers.jax.__version__
    return found


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for unit, size in (("s ", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def _show(console: Console, rows: list[dict[str, Any]], device: str) -> None:
    table = Table(box=None, pad_edge=False, title=None)
    names = ["tensorbus", "numpy", "torch", "jax"]
    table.add_column("float32")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("rate", justify="right")
    table.add_column("ratio to the fastest peer", justify="right")
    table.add_column("aim", justify="right")
    for row in rows:
        rate = ""
        if row["gigabytes_per_second"]:
            rate = f"{row['gigabytes_per_second']:.1f} GB/s"
        elif row["gigaflops"]:
            rate = f"{row['gigaflops']:.0f} GFLOP/s"
        ratio = "-"
        style = "default"
        if row["ratio"] is not None:
            ratio = f"{row['ratio']:.2f} ({row['fastest_peer']})"
            if row["target"] is not None:
                style = "green" if row["ratio"] <= row["target"] else "red"
        table.add_row(
            row["case"],
            *(_time(row["seconds"].get(n)) for n in names),
            rate,
            Text(ratio, style),
            "" if row["target"] is None else f"<= {row['target']}",
        )
    console.print(f"cpu: {device}; {_cores()} cores for every library")
    console.print(table)
