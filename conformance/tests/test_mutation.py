"""Mutation testing: what is changed, what is not, and that a mutant is really at work."""

from __future__ import annotations

import ast
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorbus_conformance.mutation import ctext, operators, register
from tensorbus_conformance.mutation.again import rescore
from tensorbus_conformance.mutation.branches import branches, way
from tensorbus_conformance.mutation.choose import Chooser
from tensorbus_conformance.mutation.coverage import Coverage, Recorded, chosen_items, limits, record
from tensorbus_conformance.mutation.document import document
from tensorbus_conformance.mutation.mutant import (
    Mutant,
    draw,
    mutants_of,
    named,
)
from tensorbus_conformance.mutation.pool import Pool
from tensorbus_conformance.mutation.probes import HITS, arms, instrument, places
from tensorbus_conformance.mutation.tree import STRATA, Source, Tree, TreeError
from tensorbus_conformance.mutation.verdict import Result, further, scores, try_mutant
from tensorbus_conformance.mutation.zygote import layout

TREE = Tree.here()

SNIPPET = '''"""Text of 3 words."""

from __future__ import annotations

import math

__all__ = ["f" + "g"]


class A:
    def __repr__(self) -> str:
        return "a" * (1 + 2)


def f(x: int, y: int = 4, *, z: tuple[int, 2] = ()) -> int:
    """Adds 1."""
    if x < y and y:
        raise ValueError(f"{x + 1} is below {y - 2}")
    x += 1
    return g(x - y, 7)
'''


def changed(text: str, **options: Any) -> dict[str, list[str]]:
    """The changed lines by operator."""
    settings: dict[str, Any] = {"kernel_text": False, "coefficients": False, **options}
    lines = ast.unparse(ast.parse(text)).splitlines()
    found: dict[str, list[str]] = {}
    for edit in operators.edits(ast.parse(text), **settings):
        tree = operators.apply_edit(text, edit, **settings)
        compile(tree, "<mutant>", "exec")
        now = ast.unparse(tree).splitlines()
        assert now != lines, edit
        fresh = [n.strip() for n in now if n not in lines]
        found.setdefault(edit.operator, []).append(" / ".join(fresh))
    return found


def test_every_kind_of_change_is_made() -> None:
    found = changed(SNIPPET)
    assert "if x <= y and y:" in found["comparison"]
    assert "if x < y or y:" in found["boolean"]
    assert "if x < y:" in found["dropped term"]
    assert "return g(y - x, 7)" in found["swapped operands"]
    assert "return g(7, x - y)" in found["exchanged arguments"]
    assert "return g(x + y, 7)" in found["arithmetic"]
    assert "x -= 1" in found["arithmetic"]
    assert "def f(x: int, y: int=5, *, z: tuple[int, 2]=()) -> int:" in found["constant"]
    assert found["negated condition"] == ["if not (x < y and y):"]
    assert len(found["dropped statement"]) == 2


def test_what_is_only_said_stays() -> None:
    everything = "\n".join(line for lines in changed(SNIPPET).values() for line in lines)
    for kept in ("ValueError(", "__all__", "'a' * (1", "tuple[int, 3]", "import"):
        assert not any(kept in line for line in everything.splitlines() if "def f" not in line)
    assert "tuple[int, 2]" in everything
    assert "tuple[int, 3]" not in everything


def test_dtypes_coefficients_and_orders() -> None:
    assert changed("d = dt.float32")["changed dtype"] == ["d = dt.float64"]
    assert changed("c = '0x1.8p-3'", coefficients=True)["coefficient"] == [
        "c = '0x1.8180000000000p-3'"
    ]
    assert changed("c = 2.0", coefficients=True)["coefficient"] == ["c = 2.0078125"]
    assert "s = x.shape" in changed("s = x.strides")["exchanged name"]
    # Sums commute: only their sign and terms change.
    assert "swapped operands" not in changed("a = b + c")
    assert "exchanged arguments" not in changed("a = add(b, c)")


def test_changes_of_c() -> None:
    text = "if (a < b) x[i] = y - 0x1fu; /* 3 < 4 */\nconst int k = 2;\nf(x);\n{name} = 1;"
    found = dict.fromkeys(new for _, new in ctext.changes(text))
    assert text.replace("a < b", "a <= b") in found
    assert text.replace("y - 0x1fu", "0x1fu - y") in found
    assert text.replace("0x1fu", "0x20u") in found
    assert text.replace("(a < b)", "(!(a < b))") in found
    assert text.replace("x[i] = y - 0x1fu;", ";") in found
    assert text.replace("f(x);", ";") in found
    assert all("/* 3 < 4 */" in new and "{name}" in new for new in found)
    assert not ctext.looks_like_c("the axis is out of range")
    assert not ctext.looks_like_c("float32")
    assert ctext.looks_like_c("y[k] = x[k];")


def test_names_last_and_are_unique() -> None:
    source = TREE.sources["dispatcher/tensorbus/_promotion.py"]
    names = [m.ident for m in mutants_of(source)]
    assert len(set(names)) == len(names) > 50
    longer = Source(source.path, source.module, False, "\n\n" + source.text)
    assert [m.ident for m in mutants_of(longer)] == names
    assert named(TREE, names[7]).line == mutants_of(source)[7].line
    with pytest.raises(LookupError):
        named(TREE, names[0] + "9")


def test_a_sample_is_the_seeds_and_falls_into_equal_parts() -> None:
    some = [s for p, s in TREE.sources.items() if "/kernels/" in p or p.startswith("cpu/")]
    some += [TREE.sources["dispatcher/tensorbus/_plan.py"]]
    some += [TREE.sources["backends/tensorbus_backends/mathlib/power.py"]]
    first, totals = draw(some, 50, 3)
    assert first == draw(some, 50, 3)[0] != draw(some, 50, 4)[0]
    assert len({m.ident for m in first}) == 50
    counts = {s: sum(m.stratum == s for m in first) for s in STRATA}
    assert set(counts.values()) == {10}
    assert all(totals[s] >= 10 for s in STRATA)


def test_probes_tell_what_ran() -> None:
    text = "def f(x):\n    if x:\n        return 1\n    return (lambda: 2)()\n"
    size = places(ast.parse(text))
    hits = bytearray(size + len(arms(ast.parse(text))))
    space: dict[str, Any] = {HITS: hits}
    exec(compile(instrument(text, 0, branch_base=size), "<probed>", "exec"), space)
    assert space["f"](True) == 1
    assert list(hits[size:]) == [1, 0]
    before = sum(hits)
    assert space["f"](False) == 2
    assert list(hits[size:]) == [1, 1]
    assert sum(hits) == before + 3  # the last return, the lambda, the way past the if


def test_files_survive_their_probes() -> None:
    for source in list(TREE.modules.values())[::4]:
        compile(instrument(source.text, 0, mark=True, branch_base=10**6), source.path, "exec")


def test_branches_of_the_way() -> None:
    found = branches(way(TREE), layout(TREE))
    assert len({b.ident for b in found}) == len({b.place for b in found}) == len(found) > 2000


# -- scores and the register ----------------------------------------------------------------------


def said(*messages: dict[str, Any], status: str = "exit 0") -> dict[str, Any]:
    return {"status": status, "seconds": 1.0, "messages": list(messages)}


def cell(item: str, state: str) -> dict[str, Any]:
    return {"item": item, "property": "values", "state": state, "message": "m"}


def end(item: str) -> dict[str, Any]:
    return {"end": item, "seconds": 0.1, "active": True, "texts": []}


A, B = "add/cpu/float32/portable", "sum/cpu/int32/portable"
BEGUN = ({"imported": True}, {"opened": True})


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [
        ([said(*BEGUN, cell(A, "fail"), end(A))], "caught"),
        ([said(*BEGUN, cell(A, "pass"), end(A), end(B))], "survived"),
        ([said(*BEGUN, cell(A, "error"), end(A), cell(B, "error"), end(B))], "loud"),
        ([said(*BEGUN, cell(A, "error"), end(A), cell(B, "pass"), end(B))], "caught"),
        ([said({"broken": "SyntaxError", "active": False}, status="exit 3")], "import"),
        ([said(*BEGUN, status="timeout")], "timeout"),
        ([said(*BEGUN, status="SIGSEGV"), said(*BEGUN, status="SIGSEGV")], "crash"),
        ([said(*BEGUN, status="SIGSEGV"), said(*BEGUN, cell(B, "pass"), end(B))], "caught"),
        ([said(*BEGUN, cell(A, "fail"), status="SIGSEGV")], "caught"),
        ([said(*BEGUN, {"missing": A}, {"missing": B})], "survived"),
    ],
)
def test_what_becomes_of_a_mutant(answers: list[dict[str, Any]], verdict: str) -> None:
    queue = list(answers)
    mutant = draw([TREE.sources["dispatcher/tensorbus/_plan.py"]], 1, 1)[0][0]
    coverage = Coverage("smoke")
    result = try_mutant(lambda request: queue.pop(0), mutant, [[A, B], []], coverage, 0)
    assert result.verdict == verdict
    assert not queue


def results(count: int) -> list[Result]:
    mutants = draw([TREE.sources["dispatcher/tensorbus/_plan.py"]], count, 2)[0]
    return [Result(m, "survived", reached=True) for m in mutants]


def test_the_score_is_over_silent_mutants() -> None:
    found = results(20)
    for r, verdict in zip(found, ("loud", "import", "crash", "timeout", "caught"), strict=False):
        r.verdict = verdict
    total = scores(found)[-1]
    assert (total.drawn, total.silent, total.survived) == (20, 16, 15)
    assert total.rate == pytest.approx(1 / 16)
    assert total.raw == pytest.approx(5 / 20)


def test_equivalents_beyond_the_cap_are_survivors(tmp_path: Path) -> None:
    found = results(25)
    why = "both operands are the same number here, whatever the input"
    path = tmp_path / "register.toml"
    path.write_text(
        "".join(
            f'[[mutant]]\nid = "{r.mutant.ident}"\nclass = "equivalent"\nwhy = "{why}"\n'
            for r in found[:4]
        )
    )
    found[0].verdict, found[0].killer = "caught", "add/values"
    remarks = register.apply(register.load(path), found)
    assert sum(r.excused for r in found) == 2  # 8% of 25
    assert scores(found)[-1].survived == 22
    assert any("argument is wrong" in r for r in remarks)
    assert any("count as survivors" in r for r in remarks)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[mutant]]\nid = "a"\nclass = "equivalent"\n', "must have id, class, why"),
        ('[[mutant]]\nid = "a"\nclass = "equivalent"\nwhy = "same"\n', "no argument"),
        (f'[[mutant]]\nid = "a"\nclass = "dull"\nwhy = "{"w" * 40}"\n', "not 'dull'"),
        (f'[[mutant]]\nid = "a"\nclass = "speed"\nwhy = "{"w" * 40}"\n' * 2, "twice"),
        ("[mutant\n", "cannot be read"),
        ("[[other]]\n", "and nothing else"),
    ],
)
def test_a_register_without_arguments_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "register.toml"
    path.write_text(text)
    with pytest.raises(register.RegisterError, match=said):
        register.load(path)


def test_the_register_names_mutants_that_exist() -> None:
    for ident in register.load(register.path_of(TREE)):
        named(TREE, ident)


REGION = """[[region]]
path = "{path}"
name = "{name}"
class = "speed"
why = "how much is kept decides what is made again, never what is computed"
"""


def test_a_region_of_the_register_holds_what_lies_in_it(tmp_path: Path) -> None:
    path = tmp_path / "register.toml"
    python, text = "dispatcher/tensorbus/_state.py", "cpu/tensorbus_cpu/runtime.c"
    path.write_text(REGION.format(path=python, name="_KEPT_PLANS"))
    found = register.regions(path)
    register.check_regions(TREE, found)
    mutants = mutants_of(TREE.sources[python])
    held = register.inside(TREE, found, mutants)
    lines = TREE.sources[python].text.splitlines()
    assert {lines[m.line - 1][:11] for m in mutants if m.ident in held} == {"_KEPT_PLANS"}
    path.write_text(REGION.format(path=text, name="work"))
    c = mutants_of(TREE.sources[text])
    assert 0 < len(register.inside(TREE, register.regions(path), c)) < len(c)
    path.write_text(REGION.format(path=python, name="nowhere"))
    with pytest.raises(register.RegisterError, match="no nowhere"):
        register.check_regions(TREE, register.regions(path))


def test_regions_of_c_are_functions_of_one_line_or_more_and_macros(tmp_path: Path) -> None:
    path, text = tmp_path / "register.toml", "cpu/tensorbus_cpu/runtime.c"
    lines = TREE.sources[text].text.splitlines()
    for name, first, last in (
        ("relax", "static inline void relax", "_mm_pause"), ("share", "static int64_t share", "}"),
        ("POLL_NS", "#define POLL_NS", "POLL_NS 30000.0"), ("POLL", "#define POLL(", "    }"),
    ):  # fmt: skip
        path.write_text(REGION.format(path=text, name=name))
        (region,) = register.regions(path)
        spans = register._lines(TREE.sources[text], region.name)
        assert lines[spans[0].start - 1].startswith(first)
        assert last in lines[spans[0].stop - 2]


def test_what_the_preprocessor_drops_is_not_mutated() -> None:
    text = "\n".join([
        "int a = 1;", "#if defined(__x86_64__)", "int b = 1;", "#elif defined(__aarch64__)",
        "int c = 1;", "#else", "int d = 1;", "#endif", "int e = 1;", "#ifdef NEVER", "int f = 1;",
        "#endif", "int g = 1;",
    ])  # fmt: skip
    arm = platform.machine() in ("aarch64", "arm64")
    assert ctext.compiled_lines(text) == {1, 5 if arm else 3, 9, 13}
    source = TREE.sources["cpu/tensorbus_cpu/runtime.c"]
    kept = ctext.compiled_lines(source.text)
    assert {m.line for m in mutants_of(source)} <= kept


def test_the_register_names_regions_that_exist() -> None:
    register.check_regions(TREE, register.regions(register.path_of(TREE)))


# -- processes --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(1) as made:
        yield made


def ask_all(pool: Pool, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    pool.map(requests, lambda ask, request: ask(request), found.append)
    return found


def c_mutant(old: str, new: str) -> Mutant:
    """The C runtime with a text in the place of another."""
    path = "cpu/tensorbus_cpu/runtime.c"
    start = TREE.sources[path].text.index(old)
    return Mutant(f"{path}#x", path, 1, "C test", "C text", cut=(start, start + len(old), new))


def request(mutant: Mutant, *items: str, **changes: Any) -> dict[str, Any]:
    base = {"kind": "mutant", "mutant": mutant.record(), "items": list(items), "level": "smoke",
            "seed": 0, "stop": True}  # fmt: skip
    return {**base, **limits(5.0, "cpu"), **changes}


ENTER = "const fp_mode mode = fp_enter();"


def files(folder: str) -> set[str]:
    return {str(p) for p in Path(folder).rglob("*") if "mutation" not in p.parts}


@pytest.mark.xdist_group("mutation")
def test_bad_mutants_end_in_bounded_time_and_leave_nothing(pool: Pool, tmp_path: Path) -> None:
    cache = str(tmp_path)
    healthy = Mutant.of({**c_mutant("return mine;", "return mine;").record()})
    (fine,) = ask_all(pool, [request(healthy, A, cache=cache, healthy=True)])
    assert fine["status"] == "exit 0"
    assert [m["active"] for m in fine["messages"] if "end" in m] == [True]
    assert {m["state"] for m in fine["messages"] if "property" in m} == {"pass"}
    before, digest = files(cache), Tree.here().digest
    start = time.monotonic()
    requests = [
        request(c_mutant(ENTER, ENTER + "for (;;);"), A, wall=8.0),
        request(c_mutant("fn(buffers, meta, 0, groups);", "*(volatile int *)0 = 1;"), A),
        request(c_mutant("return mine;", "return mine"), A),
        request(
            c_mutant("fn(buffers, meta, 0, groups);", "while (malloc(1 << 20)) ; abort();"),
            A,
            memory=1 << 30,
        ),
        request(c_mutant("fn(buffers, meta, 0, groups);", ";"), A),
    ]
    hang, crash, broken, greedy, wrong = ask_all(pool, [{**r, "cache": cache} for r in requests])
    assert time.monotonic() - start < 120
    assert hang["status"] == "timeout"
    assert crash["status"] == "SIGSEGV"
    assert any("cpu" in m.get("broken", "") for m in broken["messages"])
    assert greedy["status"] in ("SIGABRT", "SIGSEGV")
    assert wrong["status"].startswith("exit")
    assert not any(m.get("end") and m["active"] is False for m in wrong["messages"])
    assert files(cache) == before
    assert Tree.here().digest == digest


@pytest.mark.xdist_group("mutation")
def test_a_mutant_is_judged_by_what_reaches_it(pool: Pool) -> None:
    coverage = record(TREE, pool, "smoke", ["cpu"], lambda a, b: None, ops=["subtract", "prod"])
    assert {n.split("/")[0] for n in coverage.items} == {"subtract", "prod"}
    assert not coverage.known_bad
    chooser = Chooser(TREE, layout(TREE), coverage)
    source = TREE.sources["dispatcher/tensorbus/ops/elementwise_arithmetic.py"]
    line = next(k for k, t in enumerate(source.text.splitlines(), 1) if t.startswith("_subtract ="))
    mutant = next(
        m for m in mutants_of(source) if m.line == line and m.operator == "swapped operands"
    )
    groups = chooser.items(mutant, 4, 2, 2)
    assert groups[0]
    assert {n.split("/")[0] for items in groups for n in items} == {"subtract"}
    found: list[Result] = []
    pool.map([mutant], lambda ask, m: try_mutant(ask, m, groups, coverage, 0), found.append)
    assert found[0].reached
    assert found[0].verdict == "caught"


def test_an_ended_command_leaves_no_process() -> None:
    script = (
        "import os, sys\n"
        "from tensorbus_conformance.mutation.pool import _Zygote\n"
        "z = _Zygote(dict(os.environ))\n"
        "print(z.process.pid, flush=True)\n"
        "os._exit(9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    pid = int(done.stdout)
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("the zygote outlived the command")


def test_parts_judge_what_survives_the_ops() -> None:
    source = TREE.sources["dispatcher/tensorbus/_plan.py"]
    mutant = draw([source], 1, 1)[0][0]
    assert mutant.edit is not None
    coverage = Coverage("smoke")
    hits = np.zeros(layout(TREE).size, np.uint8)
    hits[layout(TREE).base[source.module] + mutant.edit.unit] = 1
    names = [*(f"op{k}" for k in range(20)), "surface.map", "driver.copy"]
    every = [f"{n}/cpu/float32/portable" for n in names]
    coverage.items = {n: Recorded(hits, 0.1, {}, []) for n in every}
    groups = Chooser(TREE, layout(TREE), coverage).items(mutant, 2, 1, 4)
    assert [len(g) for g in groups] == [2, 1, 4, 0]
    flat = [n for g in groups for n in g]
    assert len(set(flat)) == 7
    assert set(every[-2:]) <= set(flat)


def test_duties_of_drivers_come_first_for_a_driver() -> None:
    source = TREE.sources["backends/tensorbus_backends/discovery.py"]
    mutant = draw([source], 1, 1)[0][0]
    assert mutant.edit is not None
    coverage = Coverage("smoke")
    hits, none = (np.zeros(layout(TREE).size, np.uint8) for _ in range(2))
    hits[layout(TREE).base[source.module] + mutant.edit.unit] = 1
    names = [*(f"op{k}" for k in range(20)), "driver.copy", "driver.discovery", "surface.map"]
    every = [f"{n}/{d}/float32/portable" for n in names for d in ("cpu", "opencl:0")]
    coverage.items = {n: Recorded(none if "copy" in n else hits, 0.1, {}, []) for n in every}
    duties, surfaces, others, _ = Chooser(TREE, layout(TREE), coverage).items(mutant, 2, 1, 4)
    assert duties == [f"driver.{n}/cpu/float32/portable" for n in ("discovery", "copy")]
    assert surfaces == ["surface.map/cpu/float32/portable"]
    assert len(others) == 3
    assert all(n.startswith("op") for n in others)


def test_recorded_texts_tell_helpers_apart() -> None:
    coverage = Coverage("smoke")
    none = np.zeros(1, np.uint8)
    text = "    return (u16)((b & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : r);"
    coverage.texts = {"t1": text, "t2": "y0[l] = x0[l];"}
    coverage.items = {A: Recorded(none, 0.1, {}, ["t2"]), B: Recorded(none, 0.1, {}, ["t1"])}
    source = TREE.sources["backends/tensorbus_backends/clike.py"]
    walked = operators._walk(ast.parse(source.text))

    def becomes(m: Mutant) -> str:
        value = getattr(walked[m.edit.node].node, "value", "") if m.edit else ""
        found = ctext.file_edits(value) if isinstance(value, str) and "0x7fc0u" in value else []
        return found[m.edit.variant].text if m.edit and m.edit.variant < len(found) else ""

    mutant = next(m for m in mutants_of(source) if becomes(m) == "0x7fc1u")
    assert Chooser(TREE, layout(TREE), coverage).items(mutant, 4, 2, 2) == [[B], [], [], []]


def test_a_report_is_scored_again_by_the_register(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = results(25)
    texts = {r.mutant.ident: ("a", "b") for r in found}
    settings = {
        "command": "c", "seed": 1, "level": "smoke", "sample": 25, "population": {"dispatcher": 99},
        "complete": True, "seconds": 1.0, "each": 0.04, "workers": 1,
    }  # fmt: skip
    data = document(TREE, found, scores(found), settings, [], texts, {})
    report, made = tmp_path / "report.json", tmp_path / "made.json"
    report.write_text(json.dumps(data))
    listed = tmp_path / "register.toml"
    why = "both operands are the same number here, whatever the input"
    listed.write_text(
        f'[[mutant]]\nid = "{found[3].mutant.ident}"\nclass = "equivalent"\nwhy = "{why}"\n'
    )
    monkeypatch.setattr(register, "path_of", lambda tree: listed)
    assert rescore(report, made, None) == 0
    again = json.loads(made.read_text())
    assert [m["mutant"] for m in again["mutants"] if m["excused"]] == [found[3].mutant.ident]
    assert again["scores"][-1]["silent"] == 24
    assert again["commit"] == data["commit"]
    assert why in made.with_suffix(".md").read_text()
    data["mutants"][0]["mutant"] = "dispatcher/tensorbus/_plan.py#00000000.comparison.0"
    report.write_text(json.dumps(data))
    with pytest.raises(TreeError, match="of other sources"):
        rescore(report, made, None)


def test_dtypes_that_nobody_recorded_judge_what_lives() -> None:
    mutant = mutants_of(TREE.sources["dispatcher/tensorbus/ops/cumulative.py"])[0]
    coverage = Coverage("smoke")
    other = "cumulative_sum/cpu/bfloat16/portable"
    coverage.listing = (A, B, other, "exp/cpu/bfloat16/portable")
    hits = np.ones(layout(TREE).size, np.uint8)
    for name in (A, "cumulative_sum/cpu/float32/portable"):
        coverage.items[name] = Recorded(hits, 0.5, {}, [])
    groups = Chooser(TREE, layout(TREE), coverage).items(mutant, 4, 2, 2)
    assert groups[-1][0] == other
    assert "exp/cpu/bfloat16/portable" not in groups[-1]
    assert coverage.seconds(other) == 0.5


def test_a_survivor_is_judged_by_what_has_not_judged_it() -> None:
    mutant = mutants_of(TREE.sources["dispatcher/tensorbus/_plan.py"])[0]
    survivor = Result(mutant, "survived", True, {A: "pass"}, seconds=1.0)
    asked: list[list[str]] = []

    def ask(request: dict[str, Any]) -> dict[str, Any]:
        asked.append(request["items"])
        return {
            "status": "exit 0", "seconds": 2.0,
            "messages": [
                {"imported": 1}, {"opened": 1},
                {"item": B, "property": "values", "state": "error", "message": "m"},
                {"end": B, "texts": [], "active": True},
            ],
        }  # fmt: skip

    found = further(ask, survivor, [[A], [B]], Coverage("smoke"), 0)
    assert asked == [[B]]
    # An error beside an item that passed is no failure of all that it reaches.
    assert (found.verdict, found.items) == ("caught", {A: "pass", B: "error"})
    assert found.seconds == 3.0
    assert further(ask, found, [[A], [B]], Coverage("smoke"), 0) is found


def test_conversions_are_recorded_for_every_dtype() -> None:
    names = [
        f"{op}/{device}/{dtype}/portable"
        for op in ("primitive.cast", "primitive.rint", "add")
        for device in ("cpu", "ref", "opencl:1")
        for dtype in ("float32", "float64", "int8", "int64", "uint64", "bool")
    ]
    found = {tuple(n.split("/")[:3]) for n in chosen_items(names)}

    def dtypes(op: str, device: str) -> int:
        return sum(f[:2] == (op, device) for f in found)

    assert [dtypes("primitive.cast", d) for d in ("cpu", "ref", "opencl:1")] == [6, 6, 0]
    assert [dtypes("primitive.rint", d) for d in ("cpu", "ref", "opencl:1")] == [4, 4, 4]
    assert dtypes("add", "opencl:1") == 0


def chosen_late(path: str, names: Sequence[str]) -> list[str]:
    source = TREE.sources[path]
    mutant = next(m for m in mutants_of(source) if m.edit is not None)
    assert mutant.edit is not None
    coverage = Coverage("smoke")
    hits = np.zeros(layout(TREE).size, np.uint8)
    hits[layout(TREE).base[source.module] + mutant.edit.unit] = 1
    coverage.items = {n: Recorded(hits, 0.1, {}, []) for n in names}
    return Chooser(TREE, layout(TREE), coverage).items(mutant, 1, 1, 2)[2]


def test_the_language_is_judged_by_all_primitives() -> None:
    names = [f"primitive.op{k}/{d}/int8/portable" for k in range(20) for d in ("cpu", "ref")]
    late = chosen_late("backends/tensorbus_backends/clike.py", names)
    assert len(late) >= 18
    assert all("/cpu/" in n for n in late)
    late = chosen_late("backends/tensorbus_backends/interp.py", names)
    assert sum("/ref/" in n for n in late) >= 18


def test_a_second_platform_judges_its_own_sources() -> None:
    names = [f"op{k}/opencl:0/int8/portable" for k in range(20)]
    names.append("primitive.rint/opencl:1/float32/portable")
    late = chosen_late("opencl/tensorbus_opencl/kernels.py", names)
    assert names[-1] in late
