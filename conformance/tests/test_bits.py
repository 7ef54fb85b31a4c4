"""Every device gives the bits that docs/bits.json holds, and the file keeps its own rules."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorbus as tb
from tensorbus_backends import dtypes as dt, simulator
from tensorbus_backends.contract import DeviceUnavailableError
from tensorbus_backends.flushing import TININESS, flushing
from tensorbus_conformance.bits import array, book
from tensorbus_conformance.bits.replay import digest, dtypes_of, results
from tensorbus_conformance.faults import plant
from tensorbus_conformance.judge.session import fenced

BOOK = book.load(book.DOCS / "bits.json")
CHANGELOG = book.DOCS.parent / "CHANGELOG.md"
GROUPS = 24
"""Parts of the ops: so many tests for each device, which pytest-xdist spreads."""

DEVICES = [d for d in tb.devices() if d.available]
SHARE = 3
"""Devices of a plugin beyond its first make one call in so many: their kernels are compiled by
another driver, and PoCL takes a second for five of them when its cache is empty."""


def group(k: int) -> list[str]:
    """Ops of a part."""
    return sorted(BOOK.calls)[k::GROUPS]


def compare(names: list[str], device: tb.Device, share: int = 1, **how: bool) -> list[str]:
    """What differs; every op must have calls that the device can make."""
    calls = {n: BOOK.calls[n][::share] for n in names}
    book.warm(names, calls, device)
    problems = []
    for name in names:
        count, found = book.check(name, calls[name], device, **how)
        problems += found if count else [f"{name}: no call"]
    return problems


@pytest.mark.parametrize("k", range(GROUPS))
@pytest.mark.parametrize("name", [d.name for d in DEVICES])
def test_a_device_gives_the_recorded_bits(name: str, k: int) -> None:
    index = next(d.index for d in DEVICES if d.name == name)
    assert compare(group(k), tb.get_device(name), SHARE if index else 1) == []


@pytest.mark.parametrize("k", range(0, GROUPS, 4))
@pytest.mark.parametrize("tiny", TININESS)
def test_flushing_ref_gives_the_second_set(tiny: str, k: int) -> None:
    with flushing(tiny):
        assert compare(group(k), tb.get_device("ref"), 2, flushes=True) == []


FLUSHED = ["multiply", "divide", "exp", "sum", "sqrt", "nn.relu", "subtract"]


@pytest.mark.skipif(not any(d.plugin == "cpu" for d in DEVICES), reason="needs the C compiler")
def test_a_device_that_flushes_gives_the_second_set_and_no_other_does() -> None:
    device = fenced(tb.get_device("cpu").backend, plant("test-flush").wrap)
    assert compare(FLUSHED, device) == []
    held_to_the_first = compare(["multiply"], device, flushes=False)
    assert any("recorded" in line for line in held_to_the_first)
    assert compare(["multiply"], tb.get_device("ref"), flushes=True) != []


SIMULATED = """
import json, sys
import tensorbus as tb
from tensorbus_conformance.bits import book
from tensorbus_conformance.bits.replay import operands
kept = book.load(book.DOCS / "bits.json").calls
device, problems = tb.get_device(sys.argv[1]), []
assert device.info.evidence.value == "simulated"
for name in sys.argv[2].split(","):
    few = [c for c in kept[name] if all(max(o["shape"], default=0) < 200 for o in operands(c))][:3]
    count, found = book.check(name, few, device)
    problems += found if count else [f"{name}: no call"]
print(json.dumps(problems))
"""


@pytest.mark.parametrize("family", ["cuda", "rocm", "metal"])
def test_a_simulated_device_gives_the_recorded_bits(family: str) -> None:
    try:
        simulator.compiler(family)
    except DeviceUnavailableError as error:
        pytest.skip(f"the driver cannot be simulated: {error.cause}")
    if family == "cuda":
        pytest.importorskip("pycuda")
    names = "add,sum,sort,matmul,nn.softmax,index_add,random.normal,cumulative_sum"
    run = subprocess.run(
        [sys.executable, "-c", SIMULATED, family, names],
        env={**os.environ, "TENSORBUS_SIMULATE": family},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == []


# -- the file -----------------------------------------------------------------------------------


def test_every_function_has_calls_forward_and_backward() -> None:
    assert sorted(BOOK.calls) == sorted(tb.FUNCTIONS)
    for name, calls in BOOK.calls.items():
        for kind in ("out", "vjp", "jvp") if tb.FUNCTIONS[name].differentiable else ("out",):
            assert sum(kind in c for c in calls) >= 3, (name, kind)
        for call in calls:
            assert set(book.due(name, call)) == {"out", "vjp", "jvp"} & set(call), (name, call)


def test_calls_take_every_dtype() -> None:
    used = {d for calls in BOOK.calls.values() for c in calls for d in dtypes_of(c)}
    assert used == {d.name for d in dt.ALL}
    for name in ("add", "sum", "sort", "matmul", "take", "where", "maximum", "cumulative_sum"):
        taken = set().union(*map(dtypes_of, BOOK.calls[name]))
        floats = {"float16", "bfloat16", "float32", "float64"}
        assert taken >= {*floats, "int32", "uint8"}, name


def test_the_page_the_file_and_the_changelog_name_one_version() -> None:
    version = book.order_version(book.DOCS / "order.md")
    assert version == BOOK.order
    assert f"ersion {version} of the written order" in " ".join(CHANGELOG.read_text().split())


def test_the_file_is_as_the_program_writes_it() -> None:
    text = (book.DOCS / "bits.json").read_text()
    assert text == BOOK.text()
    assert len(text) < 600_000


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A directory with two ops of the file, and the pages that belong to it."""
    docs = tmp_path / "docs"
    docs.mkdir()
    few = book.Book(BOOK.order, {n: BOOK.calls[n][:4] for n in ("add", "equal")})
    (docs / "bits.json").write_text(few.text())
    shutil.copy(book.DOCS / "order.md", docs)
    shutil.copy(CHANGELOG, tmp_path)
    return docs


def edited(docs: Path, **changes: Any) -> str:
    """Change the first call of ``add``; what the file holds afterwards."""
    kept = book.load(docs / "bits.json")
    kept.calls["add"][0] |= changes
    (docs / "bits.json").write_text(kept.text())
    return kept.text()


def raised(docs: Path, changelog: bool) -> None:
    """State the next version."""
    new = f"version {BOOK.order + 1} of the written order"
    page = docs / "order.md"
    page.write_text(page.read_text().replace(f"version {BOOK.order} of the written order", new))
    if changelog:
        log = docs.parent / "CHANGELOG.md"
        log.write_text(log.read_text() + f"- {new.capitalize()}: sums go backwards.\n")


NAMES = ("add", "equal")


def test_recording_again_changes_nothing(copy: Path) -> None:
    before = (copy / "bits.json").read_text()
    book.record(copy, names=NAMES)
    assert (copy / "bits.json").read_text() == before


@pytest.mark.parametrize("kind", ["out", "vjp", "jvp", "flushed"])
def test_a_changed_digest_is_refused_without_a_new_version(copy: Path, kind: str) -> None:
    wrong: Any = {"vjp": "0" * 16} if kind == "flushed" else "0" * 16
    before = edited(copy, **{kind: wrong})
    with pytest.raises(book.Refused, match=r"(?s)^add, call 0, .*needs a new version"):
        book.record(copy, names=NAMES)
    assert (copy / "bits.json").read_text() == before
    raised(copy, changelog=False)
    with pytest.raises(book.Refused, match="CHANGELOG"):
        book.record(copy, names=NAMES)
    assert (copy / "bits.json").read_text() == before
    raised(copy, changelog=True)
    made = book.record(copy, names=NAMES)
    assert made.order == BOOK.order + 1
    assert made.calls["add"] == BOOK.calls["add"][:4]


def test_an_older_page_is_refused(copy: Path) -> None:
    kept = book.load(copy / "bits.json")
    (copy / "bits.json").write_text(book.Book(BOOK.order + 1, kept.calls).text())
    with pytest.raises(book.Refused, match="was made by"):
        book.record(copy, names=NAMES)


def test_calls_are_added_without_a_new_version(copy: Path) -> None:
    kept = book.load(copy / "bits.json")
    ones = {"dtype": "float32", "shape": [2], "data": ["bits", "0000803f0000803f"]}
    kept.calls["add"].append({"args": [ones, ones]})
    (copy / "bits.json").write_text(kept.text())
    made = book.record(copy, names=("add", "negative"), propose=lambda name: [{"args": [ones]}])
    assert set(made.calls["add"][4]) == {"args", "out", "vjp", "jvp"}
    assert made.calls["negative"][0]["out"] == digest([np.asarray([-1, -1], np.float32)])
    assert made.order == BOOK.order


def test_an_op_that_went_is_refused(copy: Path) -> None:
    kept = book.load(copy / "bits.json")
    kept.calls["gone"] = kept.calls["equal"]
    (copy / "bits.json").write_text(kept.text())
    with pytest.raises(book.Refused, match="gone is no public op"):
        book.record(copy, names=NAMES)


def test_a_file_of_another_schema_is_refused(copy: Path) -> None:
    text = (copy / "bits.json").read_text().replace('"schema": 1', '"schema": 2')
    (copy / "bits.json").write_text(text)
    with pytest.raises(ValueError, match="schema 2"):
        book.load(copy / "bits.json")


def test_a_wrong_digest_is_found_and_named() -> None:
    wrong = {**BOOK.calls["add"][0], "jvp": "f" * 16}
    count, problems = book.check("add", [wrong], tb.get_device("ref"))
    assert count == 3
    assert problems == [f"add, call 0, jvp: {BOOK.calls['add'][0]['jvp']}, recorded {'f' * 16}"]


# -- digests and data ---------------------------------------------------------------------------


def test_a_digest_tells_bits_shapes_and_dtypes_apart() -> None:
    zero = np.zeros(2, np.float32)
    others = [
        [-zero], [zero.reshape(1, 2)], [zero.astype(np.int32)], [zero, zero], [zero[:1]], [],
        [np.asarray([0, 1e-45], np.float32)],
    ]  # fmt: skip
    assert len({digest(a) for a in [[zero], *others]}) == len(others) + 1
    assert digest([np.asarray([0, 1e-45], np.float32)], flushes=True) == digest([zero])
    nans = np.asarray([0x7FC00000, 0xFFC00001, 0x7F800001], np.uint32).view(np.float32)
    assert digest([nans]) == digest([np.full(3, np.nan, np.float32)])
    assert digest([nans.reshape(3, 1).T]) == digest([nans.reshape(1, 3)])


def test_words_are_splitmix64() -> None:
    def mixed(x: int) -> int:
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    step = 0x9E3779B97F4A7C15
    assert mixed(step) == 0xE220A8397B1DCDAF  # the first word of seed 0, as published
    for key in (0, 1, 2**41 + 3):
        start = mixed((key * step + 1) % 2**64)
        due = [mixed((start + k * step) % 2**64) for k in (1, 2, 3)]
        assert array.words(key, 3).tolist() == due


@pytest.mark.parametrize("dtype", [d for d in dt.ALL if d.is_float], ids=lambda d: d.name)
def test_no_cast_rounds(dtype: dt.DType) -> None:
    """Ordinary numbers lie in their range and keep the value they had in float64."""
    found = array.elements(["float", 5, -3.0, 2.0], dtype, 4000)
    values = found.astype(np.float64)
    assert values.min() >= -3
    assert values.max() <= 2
    assert len(np.unique(values)) > 300
    part = np.ldexp((array.words(5, 4000) >> np.uint64(11)).astype(np.float64), -53)
    assert (np.abs(values) <= np.abs(-3 + 5 * part)).all()
    with np.errstate(invalid="ignore"):
        special = array.elements(["special", 5], dtype, 4000).astype(np.float64)
    tiny = np.abs(special[special != 0])
    assert np.isnan(special).any()
    assert np.isinf(special).any()
    assert (tiny < 2.0**dtype.emin).any()
    assert (np.signbit(special) & (special == 0)).any()


@pytest.mark.parametrize("dtype", [d for d in dt.ALL if not d.is_float], ids=lambda d: d.name)
def test_integers_fill_their_range(dtype: dt.DType) -> None:
    for kind in ("int", "mixed"):
        found = array.elements([kind, 7, dtype.min, dtype.max], dtype, 3000)
        assert found.dtype == dtype.numpy
        wide = [int(v) for v in found]
        assert min(wide) <= dtype.min + (dtype.max - dtype.min) // 8
        assert max(wide) >= dtype.max - (dtype.max - dtype.min) // 8
        low, high = (0, 1) if dtype.kind == "b" else (3, 9)
        few = array.elements([kind, 7, low, high], dtype, 3000)
        assert sorted({int(v) for v in few}) == list(range(low, high + 1))


def test_strides_and_offset_are_a_view() -> None:
    what = {"dtype": "int32", "shape": [2, 3], "strides": [-3, 1], "offset": 3}
    what["data"] = ["bits", np.arange(6, dtype="<i4").tobytes().hex()]
    call = {"args": [what]}
    (out,) = results("positive", call, tb.get_device("ref"), "out")
    assert out.tolist() == [[3, 4, 5], [0, 1, 2]]
