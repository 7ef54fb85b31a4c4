"""Parts of `scale`: clean devices pass; faults that only large or many-dimensional data show fail.

Each fault is one that no sample of at most 4,099 elements, 37 columns and 4 dimensions can see.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np
import pytest
import tensorbus as tb
from tensorbus_backends.contract import Device
from tensorbus_backends.dtypes import by_name
from tensorbus_conformance.faults.base import FaultyDevice, Planted
from tensorbus_conformance.judge import parts
from tensorbus_conformance.judge.items import Item, Outcome
from tensorbus_conformance.judge.properties import judge
from tensorbus_conformance.judge.scale import strides
from tensorbus_conformance.judge.session import Session, fenced

from . import healthy

parts.load()
SCALE = [name for name in parts.PARTS if name.startswith("scale.")]

needs_cpu = pytest.mark.skipif(
    not any(d.name == "cpu" and d.available for d in tb._devices.registry.devices(plugin="cpu")),
    reason="the faults change C kernels",
)


def judged(
    name: str, dtype: str, level: str, device: str = "cpu", text: Callable[[str], str] | None = None
) -> Outcome:
    """The verdict on a part, with all kernels' text changed."""
    planted = Planted()

    def wrap(real: Device) -> Device:
        return real if text is None else FaultyDevice(real, planted, change=text)

    backend = tb.get_device(device).backend
    session = Session(Item(name, device, dtype, "portable"), fenced(backend, wrap), level, 3)
    outcome = judge(session, "values")
    assert text is None or planted.hits, "the fault changed nothing"
    return outcome


def swap(old: str, new: str) -> Callable[[str], str]:
    """A change of text."""
    return lambda text: text.replace(old, new)


def skip(dims: int, shape: int) -> Callable[[str], str]:
    """A walk over the dimensions that stays where it is in the fifth from the inside and beyond."""
    place = f"rest - q * M({shape} + d);"
    return swap(f"at = {place}", f"at = M({dims}) - d >= 5 ? 0 : {place}")


FAULTS: dict[str, tuple[str, str, str, Callable[[str], str]]] = {
    "an index in 16 bits": (
        "scale.map_rows", "int32", "smoke",
        swap("const i64 first = (g - row * blocks) * 4096;",
             "const i64 first = ((g - row * blocks) * 4096) & 65535;")),
    "an index in float32": (
        "scale.map_rows", "uint8", "standard",
        swap("[o_y0 + l] =", "[(i64)(float)(o_y0 + l)] =")),
    "an index of a flat map in 16 bits": (
        "scale.map_flat", "float16", "smoke",
        swap("i64 element = first + l", "i64 element = (first + l) & 65535")),
    "the index node in 16 bits": (
        "scale.map_words", "uint8", "smoke",
        swap("const i64 index = row * M(0) + first + l;",
             "const i64 index = (row * M(0) + first + l) & 65535;")),
    "a row number in 16 bits": (
        "scale.reduce_row", "float64", "standard",
        swap("i64 rest = row;", "i64 rest = row & 65535;")),
    "no chunk above 128": (
        "scale.reduce_vector", "int32", "standard",
        swap("const i64 start = (g - row * chunks) * 8192;",
             "const i64 start = ((g - row * chunks) & 127) * 8192;")),
    "the second block of columns": (
        "scale.reduce_column", "float16", "smoke",
        swap("column = block * 256;", "column = block > 0 ? 0 : block * 256;")),
    "a position without its chunk": (
        "scale.reduce_position", "int32", "smoke",
        swap("const i64 index = start + (at + l);", "const i64 index = (at + l);")),
    "a column's position without its chunk": (
        "scale.reduce_position", "int32", "smoke",
        swap("const i64 index = start + i;", "const i64 index = i;")),
    "a dimension skipped from the fifth on": (
        "scale.map_ranks", "int32", "smoke",
        skip(1, 2)),
    "the same in a reduction": (
        "scale.reduce_between", "int32", "smoke",
        skip(2, 3)),
    "the same in fused rows": (
        "scale.rows_ranks", "float32", "smoke",
        skip(1, 2)),
    "a batch dimension skipped": (
        "scale.matmul_batches", "float64", "smoke",
        skip(3, 4)),
    "a scan's later blocks": (
        "scale.scan", "int32", "smoke",
        swap("const i64 start = (first + l) * 128;",
             "const i64 start = ((first + l) & 255) * 128;")),
    "K in 16 bits": (
        "scale.matmul_sizes", "float32", "smoke",
        swap("k < end; ++k", "k < end && k < 65536; ++k")),
}  # fmt: skip


@needs_cpu
@pytest.mark.parametrize("what", FAULTS)
def test_a_planted_fault_is_seen(what: str) -> None:
    name, dtype, level, text = FAULTS[what]
    outcome = judged(name, dtype, level, text=text)
    assert outcome.state in ("fail", "error"), f"{what}: {outcome.state}"


@pytest.mark.parametrize("name", [n for n in SCALE if parts.PARTS[n].smoke])
def test_the_interpreter_passes_at_smoke(name: str) -> None:
    mine = [c for c in healthy.cells("scale", "ref") if c["op"] == name]
    assert {c["dtype"] for c in mine} == {d.name for d in parts.PARTS[name].smoke}
    for cell in mine:
        assert cell["state"] == "pass", cell["message"]
        assert cell["decided"]


def test_every_part_stands_for_every_width() -> None:
    for name in SCALE:
        widths = {d.itemsize for d in parts.PARTS[name].dtypes}
        assert {2, 4, 8} <= widths, name


def test_views_merge_only_where_they_are_meant_to() -> None:
    spec = importlib.import_module("tensorbus._spec")
    for seed in range(5):
        ranks = (5, 6, 7, 8, 9) if seed else (16, 17)
        for v in strides.views(np.random.default_rng(seed), 0, ranks):
            plain = np.arange(int(np.prod(v.shape)))
            (dims, _) = spec.collapse(v.shape, [v.strides])
            rank = len(v.shape)
            if "gapped" in v.label:
                assert len(dims) == min(rank, strides.WALKED), v
            assert len(dims) <= strides.WALKED, v
            reach = [s * (n - 1) for s, n in zip(v.strides, v.shape, strict=True)]
            low = v.offset + sum(min(0, r) for r in reach)
            high = v.offset + sum(max(0, r) for r in reach)
            assert 0 <= low <= high < v.memory, v
            if "broadcast" not in v.label:
                steps = tuple(8 * s for s in v.strides)
                memory = np.arange(v.memory)
                seen = np.lib.stride_tricks.as_strided(memory[v.offset :], v.shape, steps)
                assert np.unique(seen).size == plain.size, v


def merged(shape: tuple[int, ...], operands: list[tuple[int, ...]]) -> object:
    """collapse, but neighbours from the sixth dimension on are merged whatever their strides."""
    dims: list[int] = []
    steps: list[list[int]] = []
    for k, n in enumerate(shape):
        if n == 1:
            continue
        here = [s[k] for s in operands]
        even = dims and all(a == s * n for a, s in zip(steps[-1], here, strict=True))
        if even or len(dims) == 6:
            dims[-1] *= n
            steps[-1] = here
        else:
            dims.append(n)
            steps.append(here)
    if not dims:
        dims, steps = [1], [[0] * len(operands)]
    return tuple(dims), [tuple(step[k] for step in steps) for k in range(len(operands))]


@pytest.mark.parametrize(
    ("module", "name", "dtype"),
    [
        ("_layout", "scale.map_ranks", "int32"),
        ("ops.reduction", "scale.reduce_between", "int32"),
        pytest.param("ops._rows", "scale.rows_ranks", "float32", marks=needs_cpu),
        ("ops.matrix", "scale.matmul_batches", "float64"),
    ],
)
def test_dimensions_merged_from_the_sixth_on_are_seen(
    monkeypatch: pytest.MonkeyPatch, module: str, name: str, dtype: str
) -> None:
    monkeypatch.setattr(importlib.import_module(f"tensorbus.{module}"), "collapse", merged)
    assert by_name(dtype) in parts.PARTS[name].smoke
    # The interpreter's fused rows stop at 6 dimensions, it is too slow for more.
    device = "cpu" if module == "ops._rows" else "ref"
    assert judged(name, dtype, "smoke", device).state in ("fail", "error")
