"""The compile check: which kernels there are, what is accepted and rejected, what is reported.

Run by `test_compile_check.py` in a process of its own: compilers are loaded here that cannot share
a process with every OpenCL runtime (the LLVM in Debian's hiprtc and in Intel's runtime).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from typing import Any

import pytest
import tensorbus as tb
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import Capabilities, CompileError, KernelSpec
from tensorbus_backends.offline import AbsentCompiler, OfflineCompiler
from tensorbus_conformance import cli
from tensorbus_conformance.compilecheck import batch, check, compilers
from tensorbus_conformance.compilecheck.batch import Text, compile_texts
from tensorbus_conformance.compilecheck.kernels import kernels
from tensorbus_conformance.judge.items import items
from tensorbus_conformance.worker import judge_item

ALL = Capabilities(dtypes=frozenset(d.name for d in dt.ALL))
BROKEN = {
    "syntax": ("x[0] = ;", "expression"),
    "unknown": ("x[0] = nobody_knows(1.0f);", "nobody_knows"),
}


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBUS_CACHE", str(tmp_path))


def compiler(plugin: str, name: str) -> OfflineCompiler:
    try:
        return compilers.opened(plugin, name)
    except LookupError as error:
        pytest.skip(f"{name} is not run: {error}")


fresh_cache = pytest.mark.usefixtures("fresh")
COMPILERS = [("cuda", "nvrtc"), ("rocm", "hiprtc"), ("metal", "msl-check")]


def text(found: OfflineCompiler, name: str, body: str) -> Text:
    """A kernel of two float32 buffers with this body, in the compiler's dialect."""
    target = found.targets[0]
    spec = next(iter(kernels("smoke", found.capabilities(target), ["positive"]).values()))
    dialect = found.dialect(target, spec)
    arguments = ", ".join(
        [
            dialect.pointer.format(const=const, type="f32", name=letter, index=k)
            for k, (letter, const) in enumerate([("x", ""), ("a", "const ")])
        ]
        + [dialect.meta.format(name=name, index=2)]
    )
    head = dialect.kernel.format(name=name, args=arguments, words=2)
    return Text(name, dialect, f"{head} {{\n    {body}\n}}\n")


@pytest.mark.parametrize(
    "name",
    [
        "nonzero", "sort", "take", "where", "index_add", "nn.softmax", "sum", "clip",
        "nn.leaky_relu", "nn.dropout", "random.permutation", "primitive.fma", "driver.launch",
        "scale.search", "surface.getitem",
    ],
)  # fmt: skip
def test_no_kernel_that_judging_launches_is_missed(name, monkeypatch):
    backend = tb.get_device("cpu").backend
    met: dict[str, None] = {}
    real = type(backend).compile

    def compile_(self: Any, specs: list[KernelSpec]) -> Any:
        met.update(dict.fromkeys(s.name for s in specs))
        return real(self, specs)

    monkeypatch.setattr(type(backend), "compile", compile_)
    for item in items("cpu", backend.capabilities, {}, "smoke", [name]):
        request = {"item": item.name, "properties": None, "level": "smoke", "seed": 0}
        judge_item(request, lambda message: None)
    assert met
    assert set(met) <= set(kernels("smoke", ALL, [name]))


def test_a_device_without_float64_needs_no_kernel_with_it():
    without = replace(ALL, dtypes=ALL.dtypes - {"float64"}, fp64=False)
    found = kernels("standard", without, ["exp", "add", "sum"])
    assert found
    assert len(found) < len(kernels("standard", ALL, ["exp", "add", "sum"]))
    for spec in found.values():
        assert dt.float64 not in {a.dtype for a in spec.arguments()}  # type: ignore[attr-defined]


@fresh_cache
@pytest.mark.parametrize(("plugin", "name"), COMPILERS)
@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_kernel_is_rejected_by_name_with_log_and_source(plugin, name, fault):
    found = compiler(plugin, name)
    target = next(iter(found.usual))
    body, words = BROKEN[fault]
    good, bad = text(found, "tb_good", "x[0] = a[0];"), text(found, "tb_bad", body)
    rejected, cached = compile_texts(plugin, name, target, [good, bad], workers=0)
    assert [r.name for r in rejected] == ["tb_bad"]
    assert words in rejected[0].log
    assert re.search(rf"^ *\d+ +{re.escape(body)}$", rejected[0].source, re.MULTILINE)
    assert cached == 0


@fresh_cache
@pytest.mark.parametrize(("plugin", "name"), COMPILERS)
def test_what_was_accepted_is_not_compiled_again(plugin, name):
    found = compiler(plugin, name)
    target = next(iter(found.usual))
    good, bad = text(found, "tb_good", "x[0] = a[0];"), text(found, "tb_bad", "x[0] = ;")
    for known in (0, 1):
        rejected, cached = compile_texts(plugin, name, target, [good, bad], workers=0)
        assert ([r.name for r in rejected], cached) == (["tb_bad"], known)


@fresh_cache
@pytest.mark.parametrize(
    ("body", "instruction"),
    [
        ("x[0] = __fmaf_rn(a[0], a[1], a[2]);", "fma.rn.f32"),
        ("x[0] = __fdividef(a[0], a[1]);", "div.approx.f32"),
        ("x[0] = __sinf(a[0]);", "sin.approx.f32"),
        ("x[0] = __fadd_rz(a[0], a[1]);", "add.rz.f32"),
    ],
)
def test_inexact_ptx_is_objected_to(body, instruction):
    found = compiler("cuda", "nvrtc")
    rejected, _ = compile_texts("cuda", "nvrtc", "sm_90", [text(found, "k", body)], workers=0)
    assert [r.name for r in rejected] == ["k"]
    assert instruction in rejected[0].message


def test_nvrtc_contracts_nothing():
    found = compiler("cuda", "nvrtc")
    kernel = text(found, "k", "x[0] = a[0] * a[1] + a[2]; x[1] = a[0] / a[1] + sqrt_f32(a[3]);")
    ptx = found.compile(kernel.dialect.prelude + kernel.text, "sm_90")
    assert found.objections(ptx, {"k": kernel.text}) == {}
    used = set(re.findall(r"^\s*(\w+\.rn\.f32)", ptx, re.MULTILINE))
    assert used == {"mul.rn.f32", "add.rn.f32", "div.rn.f32", "sqrt.rn.f32"}


@pytest.mark.parametrize("target", ["gfx90a", "gfx1030"])
def test_hiprtc_contracts_nothing(target, tmp_path):
    found: Any = compiler("rocm", "hiprtc")
    disassembler = shutil.which("llvm-objdump-19") or shutil.which("llvm-objdump")
    if disassembler is None:
        pytest.skip("llvm-objdump is not installed")
    kernel = text(found, "k", "x[0] = a[0] * a[1] + a[2];")
    image = tmp_path / "k.o"
    image.write_bytes(found._hiprtc.compile(kernel.dialect.prelude + kernel.text, target))
    done = subprocess.run(
        [disassembler, "-d", f"--mcpu={target}", image], capture_output=True, text=True, check=True
    )
    assert re.search(r"\bv_mul_f32", done.stdout)
    assert re.search(r"\bv_add_f32", done.stdout)
    assert not re.search(r"\bv_(fma|mad|mac|fmac|pk_fma)_f32", done.stdout)


class Fake:
    """Rejects what says so, and crashes nobody."""

    name, version, identity, vendor = "fake", "fake 1", "fake 1", True
    targets, usual = ("t1", "t2"), {"t1": "smoke"}

    def capabilities(self, target: str) -> Capabilities:
        return ALL

    def dialect(self, target: str, kernel: KernelSpec) -> Any:
        from tensorbus_backends.dialect import LOOP_DEFAULTS, Dialect

        return Dialect("fake", "", "loop", kernel=LOOP_DEFAULTS["kernel"])

    def compile(self, source: str, target: str) -> str:
        if target == "t2":
            raise CompileError("fake rejects it", "no such thing", source)
        return ""

    def objections(self, listing: str, kernels: Any) -> dict[str, str]:
        return {}


@pytest.fixture
def offered(monkeypatch, fresh):
    """What plugins offer: a compiler that is there and one that is not."""
    fake = Fake()
    absent = AbsentCompiler("gone", "it is not installed", "install it")
    offers = [compilers.Offer("p", fake), compilers.Offer("q", absent)]
    monkeypatch.setattr(check, "offers", lambda: offers)
    for module in (check, batch):
        monkeypatch.setattr(module, "opened", lambda plugin, name: fake)
    monkeypatch.setattr(check.os, "cpu_count", lambda: 0)
    monkeypatch.setattr(check, "run", lambda rows, workers=0, real=check.run, **kw: real(
        rows, workers=0, **kw))  # fmt: skip


def command(*arguments: str) -> int:
    return cli.main(["compile-check", "--ops", "abs", *arguments])


def test_exit_status_and_report(offered, tmp_path, capsys):
    file = tmp_path / "r.json"
    assert command("--json", str(file)) == cli.EXIT_OK
    data = json.loads(file.read_text())
    ran, absent = data["rows"]
    assert data["passed"] is True
    assert ran["state"] == "accepted"
    assert ran["kernels"] == ran["accepted"] > 0
    assert (ran["evidence"], ran["version"], ran["target"]) == ("compiled", "fake 1", "t1")
    assert (absent["state"], absent["accepted"], absent["evidence"]) == ("not run", 0, "-")
    shown = capsys.readouterr().out
    assert "gone was not run: it is not installed. To fix it: install it" in shown

    assert command("--target", "t2", "--json", str(file)) == cli.EXIT_FAILED
    data = json.loads(file.read_text())
    assert data["passed"] is False
    assert data["rows"][0]["rejected"][0]["log"] == "no such thing"


def test_nothing_executed_is_no_success(offered, tmp_path):
    file = tmp_path / "r.json"
    assert command("--compiler", "gone", "--json", str(file)) == cli.EXIT_NOTHING
    assert json.loads(file.read_text())["passed"] is False
    assert command("--compiler", "fake,gone") == cli.EXIT_NOTHING


def test_unknown_names_are_usage_errors(offered, capsys):
    assert command("--compiler", "nobody") == cli.EXIT_USAGE
    assert "plugins offer fake, gone" in capsys.readouterr().err
    assert command("--compiler", "fake", "--target", "t9") == cli.EXIT_USAGE
    assert command("--level", "smok") == cli.EXIT_USAGE
