"""What finds and opens devices, with a fault in it, is caught by the duty that judges it.

Faults are put in the place of a function or constant; the judge's forked child has them too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tensorbus as tb
from tensorbus_backends import cache, discovery, gemm, grid, opening, pool, probing
from tensorbus_backends.contract import CompileError, DeviceInfo, Evidence, LaunchError
from tensorbus_conformance.judge import parts
from tensorbus_conformance.judge.driver import (
    apart,
    cold,
    compiler,
    keeping,
    platforms,
    processor,
    team,
)
from tensorbus_conformance.judge.guard import Guarded
from tensorbus_conformance.judge.items import Item, Outcome, items
from tensorbus_conformance.judge.properties import judge
from tensorbus_conformance.judge.session import Session

Forked = Callable[[str, str], Outcome]


def judged(device: str, part: str, name: str, level: str = "smoke") -> Outcome:
    parts.load()
    backend = tb.get_device(device).backend
    item = Item(f"driver.{part}", device, "float32", "portable")
    return judge(Session(item, tb.Device(Guarded(backend)), level, 0), name)


def duties(plugin: str) -> Iterator[tuple[str, str]]:
    parts.load()
    for made in parts.PARTS.values():
        if made.family == "driver" and made.plugins and made.plugins[0] == plugin:
            for name in made.properties:
                yield made.name.partition(".")[2], name


def nothing(*_: Any, **__: Any) -> None:
    return None


def always(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


def slowly(kernel: Any, groups: int, meta: bytes) -> Callable[..., None]:
    """A launch that is no built-in function."""
    launch = kernel._runtime.prepare(kernel.address, kernel.count, groups, meta)
    return lambda *buffers: launch(*buffers)


def first(registry: Any) -> DeviceInfo:
    found: DeviceInfo = registry.devices()[0]
    return found


SOURCE = discovery._Source

# Of cpu's duties: part, property, what changes, its name, what takes its place.
HERE: list[tuple[str, str, Any, str, Any]] = [
    ("discovery", "names", discovery, "_match", lambda text, lines: lines[-1]),
    ("discovery", "listing", discovery, "LISTING", ()),
    ("discovery", "lazy", SOURCE, "device", SOURCE._open),
    ("discovery", "refusals", discovery, "check_plugin", nothing),
    ("discovery", "ranks", discovery.Registry, "_best", first),
    ("discovery", "clashes", discovery, "valid_name", always(True)),
    ("discovery", "packages", discovery, "_announced", always(iter(()))),
    ("discovery", "children", SOURCE, "abandon", nothing),
    ("probing", "described", probing, "_one_line", lambda text, most=400: str(text)),
    ("probing", "several", probing, "_checked_line", lambda plugin, line, taken: line),
    ("probing", "words", probing, "valid_name", always(True)),
    ("probing", "asked", probing, "_GRACE_S", -5.0),
    ("probing", "endings", probing, "RETRY", 3),
    ("probing", "processes", probing.Child, "_kill", nothing),
    ("opening", "proofs", opening, "_NEEDED", ()),
    ("opening", "failures", opening, "_problem", always(("cause", "fix"))),
    ("opening", "lines", opening, "unavailable", lambda line, cause, fix: line),
    ("opening", "contract", CompileError, "_excerpt", always([])),
    ("keeping", "entries", cache.DiskCache, "_sound", lambda c, key, suffix: None),
    ("keeping", "entries", cache, "_NOTED_S", -1.0),
    ("keeping", "entries", cache, "_NOTED_S", 1e9),
    ("keeping", "places", cache.DiskCache, "sweep", nothing),
    ("keeping", "blocks", pool.CachingPool, "_collect", nothing),
    ("keeping", "blocks", pool.CachingPool, "after_fork", nothing),
    ("keeping", "settings", keeping, "switch", always(False)),
    ("processor", "features", "processor", "_cpuinfo", always({})),
    ("processor", "threads", "processor", "_cores", always(2)),
    ("processor", "capacity", "processor", "memory_total", always(1 << 30)),
    ("processor", "limits", pool.CachingPool, "empty", nothing),
    ("compiler", "search", "toolchain", "_candidates", always([("clang",)])),
    ("compiler", "flags", "toolchain", "_working_flags", always(("-O1",))),
    ("compiler", "proof", "plugin", "processor", always(SimpleNamespace(name="x", fma=True))),
    ("compiler", "doubts", "plugin", "_run_check", always("")),
    ("processor", "exhausted", "device.CpuDevice", "empty_cache", nothing),
    ("team", "together", "runtime", "usable_threads", always(3)),
    ("team", "calls", "device.CpuKernel", "prepare", slowly),
    ("cold", "processes", cache.DiskCache, "lookup", nothing),
    ("cold", "lost", "kernels.Builder", "_find", always(1)),
    ("cold", "library", "blas", "_environment", always(contextlib.nullcontext())),
    ("grid", "memory", grid.GridDevice, "_span", lambda device, buffer, *_: buffer.at),
    ("grid", "copies", grid.GridDevice, "retry", nothing),
    ("grid", "launches", grid.GridDevice, "spelling", lambda device, spec: device.dialect),
    ("grid", "forks", grid._Forked, "release", nothing),
]  # fmt: skip

# Of the C runtime: property of the duty "team", what changes, what takes its place.
C_TEXT: list[tuple[str, str, str]] = [
    ("together", "    wake_workers();", "    ;"),
    ("rivals", "        pthread_mutex_unlock(&pool.submit);", "        ;"),
    ("masks", "pthread_sigmask(SIG_SETMASK, &old, NULL);", ";"),
    ("masks", "sigfillset(&all);", "sigemptyset(&all);"),
    ("growth", "        free((void *)block);", "        ;"),
    ("growth", "munmap(start + size, (size_t)(base + HUGE - start));", ";"),
    ("few", "pool.threads = pool.started + 1;", "pool.threads = 0;"),
]

# Of opencl's duties: part, property, module of the plugin, name, what takes its place.
_THERE = DeviceInfo("x", "x", 0, evidence=Evidence.UNSTATED)
THERE: list[tuple[str, str, str, str, Any]] = [
    ("platforms", "numbering", "inventory", "_kind", always((0, "gpu"))),
    ("platforms", "broken", "plugin", "_absent", always(_THERE)),
    ("platforms", "lines", "plugin", "group_threads", always(None)),
    ("platforms", "failures", "plugin", "_POCL", opening.Terms("2.5", "3")),
    ("platforms", "absences", "plugin", "load_error", always("")),
    ("platforms", "announced", "loader", "_library", lambda named: named.strip()),
    ("platforms", "codes", "errors", "_LOST", set()),
    ("calls", "declared", "device", "largest_group", always(7)),
    ("calls", "spelling", "dialect", "_ROUND", ""),
    ("calls", "memory", "driver", "translate", lambda *_, **__: LaunchError("failed")),
    ("calls", "copies", "driver", "translate", lambda *_, **__: LaunchError("failed")),
    ("calls", "launches", "driver", "_SHARED", 1 << 30),
    ("calls", "waiting", "driver", "_marker", always(SimpleNamespace(command_execution_status=0))),
    ("calls", "programs", "device", "build_options", always(["-cl-fast-relaxed-math"])),
]  # fmt: skip


def planted(monkeypatch: pytest.MonkeyPatch, package: str, module: str, name: str, to: Any) -> None:
    """Put a fault into a plugin's module, and into it again whenever it is imported anew."""
    monkeypatch.setattr(f"{package}.{module}.{name}", to)

    def spoilt(again: str) -> Any:
        found = apart.afresh(again)
        file, _, holder = module.partition(".")
        target = import_module(f"{again}.{file}")
        setattr(getattr(target, holder) if holder else target, name, to)
        return found

    for user in (platforms, processor, compiler, cold, team):
        monkeypatch.setattr(user, "afresh", spoilt)


@pytest.mark.parametrize(("part", "name", "where", "attribute", "to"), HERE)
def test_a_fault_is_seen(
    monkeypatch: pytest.MonkeyPatch, part: str, name: str, where: Any, attribute: str, to: Any
) -> None:
    level = "standard" if name == "doubts" else "smoke"
    healthy = judged("cpu", part, name, level)
    assert healthy.state == "pass", healthy
    if isinstance(where, str):
        planted(monkeypatch, "tensorbus_cpu", where, attribute, to)
    else:
        monkeypatch.setattr(where, attribute, to)
    outcome = judged("cpu", part, name, level)
    assert outcome.state in ("fail", "error"), outcome
    assert outcome.message


@pytest.mark.parametrize(
    ("name", "to"),
    [("_folded", lambda p, real=gemm._folded: p if p.m == 1 else real(p)), ("INT32", gemm.INT64)],
)
def test_a_fault_in_what_is_one_product_is_seen(
    monkeypatch: pytest.MonkeyPatch, name: str, to: Any
) -> None:
    monkeypatch.setattr(gemm, "plan", gemm.plan.__wrapped__)  # without what it has kept
    assert judged("cpu", "products", "plans", "smoke").state == "pass"
    monkeypatch.setattr(gemm, name, to)
    assert judged("cpu", "products", "plans", "smoke").state == "fail"


@pytest.mark.parametrize(("name", "before", "after"), C_TEXT)
def test_a_fault_of_the_runtime_is_seen(
    monkeypatch: pytest.MonkeyPatch, name: str, before: str, after: str
) -> None:
    healthy = judged("cpu", "team", name)
    assert healthy.state == "pass", healthy
    read_text = Path.read_text

    def spoilt(path: Path, *rest: Any, **options: Any) -> str:
        text = read_text(path, *rest, **options)
        if path.name != "runtime.c":
            return text
        assert before in text
        return text.replace(before, after)

    monkeypatch.setattr(Path, "read_text", spoilt)
    outcome = judged("cpu", "team", name)
    assert outcome.state == "fail", outcome
    assert outcome.message


@pytest.mark.parametrize(("part", "name", "module", "attribute", "to"), THERE)
def test_a_fault_of_opencl_is_seen(
    monkeypatch: pytest.MonkeyPatch, part: str, name: str, module: str, attribute: str, to: Any
) -> None:
    pytest.importorskip("pyopencl", reason="pyopencl is not installed")
    if not discovery.REGISTRY.devices(plugin="opencl")[0].available:
        pytest.skip("there is no OpenCL device")
    assert judged("opencl:0", part, name).state == "pass"
    planted(monkeypatch, "tensorbus_opencl", module, attribute, to)
    outcome = judged("opencl:0", part, name)
    assert outcome.state in ("fail", "error"), outcome
    assert outcome.message


def test_every_duty_is_tried() -> None:
    # The toolkit's own classes are broken in test_toolkit_duties.py, kernels in test_lanes.py.
    toolkit = ("language", "products", "cache", "pool", "dtypes", "lanes")
    due = {(p, n) for p, n in duties("cpu") if p not in toolkit}
    tried = {(p, n) for p, n, *_ in HERE} | {("team", n) for n, *_ in C_TEXT}
    assert tried == due
    # Groups of other sizes are compiled for minutes where no kernel is kept yet.
    assert {(p, n) for p, n, *_ in THERE} == set(duties("opencl")) - {("calls", "groups")}


def test_a_part_is_judged_where_it_belongs() -> None:
    device = tb.get_device("ref").backend
    found = {
        name: {i.op for i in items(name, device.capabilities, {}, "standard")}
        for name in ("cpu", "ref", "opencl:1", "mychip:0")
    }
    for part, where in {
        "discovery": {"cpu"}, "compiler": {"cpu"}, "calls": {"opencl:1"},
        "memory": {"cpu", "ref", "opencl:1", "mychip:0"},
    }.items():  # fmt: skip
        assert {d for d, ops in found.items() if f"driver.{part}" in ops} == where


@pytest.mark.parametrize("ending", ["raise", "hang", "die", "print"])
def test_a_child_that_goes_wrong_is_no_pass(monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    def work(checks: Any, folder: Any, session: Any) -> None:
        checks.that(True, "")
        if ending == "raise":
            raise ValueError("on purpose")
        if ending == "hang":
            import time

            time.sleep(60)
        if ending == "die":
            import os

            os._exit(3)

    monkeypatch.setattr(apart, "_WAIT_S", 0.5)
    outcome = apart.forked(work)(SimpleNamespace())  # type: ignore[arg-type]
    due = {
        "raise": ("error", "ValueError: on purpose (in work)"),
        "hang": ("fail", "the process that looks at it hangs for 0 s"),
        "die": ("fail", "the process that looks at it ended with status 3"),
        "print": ("pass", ""),
    }
    assert (outcome.state, outcome.message) == due[ending]
    assert outcome.decided == (1 if ending in ("raise", "print") else 0)
