"""Batches of kernels, compilers side by side and the disk cache, over a made-up compiler."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from tensorbus_backends.cache import DiskCache
from tensorbus_backends.contract import CompileError
from tensorbus_backends.units import UnitBuilder, program_text

sys.path.insert(0, str(Path(__file__).parent))
from fakegrid import DIALECT, HELPER, AddTo, FakeToolchain


def wanted(*specs, dialect=DIALECT):
    return [(spec, dialect) for spec in specs]


def numbered(n, start=0):
    return [AddTo(f"k{k}") for k in range(start, start + n)]


@pytest.fixture
def cache(tmp_path):
    return DiskCache(tmp_path / "cache")


# -- texts ------------------------------------------------------------------------------------


def test_a_program_has_the_prelude_and_each_definition_once():
    kernels = [AddTo("a"), AddTo("b"), AddTo("a")]
    text = program_text(DIALECT, [k.source(DIALECT) for k in kernels])
    assert text.startswith(DIALECT.prelude)
    assert text.count(HELPER) == 1
    assert text.count("void a()") == 1
    assert text.index(HELPER) < text.index("void a()") < text.index("void b()")


def test_definitions_are_told_apart_by_their_heads():
    first = (
        "struct a_meta { i64 v[2]; };\nCONSTANT i32 t[2] = {\n1, 2};\n__global__ void a() {\n}\n"
    )
    second = first.replace("a_meta", "b_meta").replace("void a", "void b")
    text = program_text(DIALECT, [first, second])
    assert text.count("CONSTANT") == 1
    assert text.count("struct") == 2
    # A word at the start of a line is no head of another word.
    assert program_text(DIALECT, ["structure x;\nINLINED y;\n"]).count("\n") == 3


def test_the_head_of_a_kernel_is_the_dialect_s():
    dialect = replace(DIALECT, kernel="struct {name}_m;\n[[host]] kernel void {name}({args})")
    text = program_text(dialect, ["INLINE x\n[[host]] kernel void a() {}\n"] * 2)
    assert text.count("kernel void a") == 1
    assert text.count("INLINE x") == 1


# -- batches ----------------------------------------------------------------------------------


def test_kernels_asked_for_together_share_programs(cache):
    toolchain = FakeToolchain()
    specs = numbered(20)
    programs = UnitBuilder(toolchain, cache).programs(wanted(*specs))
    assert [f" {s.name}(" in p for s, p in zip(specs, programs, strict=True)] == [True] * 20
    assert [text.count("__global__") for text in toolchain.compiled] == [16, 4]
    assert [text.count(HELPER) for text in toolchain.compiled] == [1, 1]


def test_a_kernel_asked_for_twice_is_compiled_once(cache):
    toolchain = FakeToolchain()
    builder = UnitBuilder(toolchain, cache)
    a, b, c = builder.programs(wanted(AddTo("a"), AddTo("b"), AddTo("a")))
    assert a is b is c
    assert builder.programs(wanted(AddTo("a"))) == [a]
    assert len(toolchain.compiled) == 1
    assert toolchain.loaded == 1


def test_kernels_of_different_dialects_do_not_share(cache):
    toolchain = FakeToolchain()
    other = replace(DIALECT, name="other", prelude="// other\n")
    pairs = [*wanted(AddTo("a")), *wanted(AddTo("a"), dialect=other)]
    first, second = UnitBuilder(toolchain, cache).programs(pairs)
    assert first.startswith("// prelude")
    assert second.startswith("// other")
    assert len(toolchain.compiled) == 2


def test_a_parallel_compiler_gets_as_many_programs_as_it_takes(cache):
    toolchain = FakeToolchain(parallel=3)
    toolchain.at_once = threading.Barrier(3)  # passes only with three calls in flight
    programs = UnitBuilder(toolchain, cache).programs(wanted(*numbered(9)))
    assert len(set(programs)) == 3
    assert [text.count("__global__") for text in toolchain.compiled] == [3, 3, 3]


# -- the disk cache ---------------------------------------------------------------------------


def test_programs_are_found_again_by_each_kernel_alone(cache):
    UnitBuilder(FakeToolchain(), cache).programs(wanted(*numbered(4)))
    toolchain = FakeToolchain()
    second = UnitBuilder(toolchain, DiskCache(cache.directory))
    (one,) = second.programs(wanted(AddTo("k2")))
    (two,) = second.programs(wanted(AddTo("k3")))
    assert one is two
    assert toolchain.compiled == []
    assert toolchain.loaded == 1


@pytest.mark.parametrize(
    ("toolchain", "spec", "dialect"),
    [
        (FakeToolchain("fake 1.1"), AddTo("k1"), DIALECT),
        (FakeToolchain(), AddTo("k1", body="y = x"), DIALECT),
        (FakeToolchain(), AddTo("k1"), replace(DIALECT, prelude="// changed\n")),
    ],
    ids=["identity", "source", "prelude"],
)
def test_what_decides_the_program_is_in_its_key(cache, toolchain, spec, dialect):
    UnitBuilder(FakeToolchain(), cache).programs(wanted(AddTo("k1")))
    UnitBuilder(toolchain, cache).programs(wanted(spec, dialect=dialect))
    assert len(toolchain.compiled) == 1


def test_a_kept_program_that_the_driver_refuses_is_built_again(cache):
    UnitBuilder(FakeToolchain(), cache).programs(wanted(*numbered(2)))
    toolchain = FakeToolchain()
    toolchain.refuse = b"k1"  # the program of both, but not one of k0 alone
    (program,) = UnitBuilder(toolchain, cache).programs(wanted(AddTo("k0")))
    assert " k0(" in program
    assert "k1" not in program
    assert len(toolchain.compiled) == 1


# -- rejected kernels -------------------------------------------------------------------------


def test_a_rejected_kernel_is_named_and_spares_the_others(cache):
    toolchain = FakeToolchain()
    builder = UnitBuilder(toolchain, cache)
    specs = [AddTo("a"), AddTo("bad", body="broken"), AddTo("c")]
    with pytest.raises(CompileError, match="kernel 'bad': the fake compiler rejected it") as caught:
        builder.programs(wanted(*specs))
    assert caught.value.log == "line 1: broken"
    assert "void bad" in caught.value.source
    assert "void a" not in caught.value.source
    done = len(toolchain.compiled)
    assert [" a(" in p for p in builder.programs(wanted(AddTo("a")))] == [True]
    assert len(toolchain.compiled) == done


def test_a_program_that_cannot_be_loaded_is_rejected_with_its_source(cache):
    toolchain = FakeToolchain()
    toolchain.refuse = b" a("
    with pytest.raises(CompileError, match="kernel 'a': the fake driver") as caught:
        UnitBuilder(toolchain, cache).programs(wanted(AddTo("a")))
    assert "void a" in caught.value.source
    # Nothing of it is kept for the next one to trip over.
    assert UnitBuilder(FakeToolchain(), cache)._find(caught.value.source) is None
