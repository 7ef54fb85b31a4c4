"""How devices are found, named, ordered and opened: the registry, with plugins made up for it.

The plugins lie in a temporary folder and are announced under an entry-point group of their own.
They are asked in the judge's forked child, so nothing of it is seen by others.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from tensorbus_backends import discovery
from tensorbus_backends.contract import (
    BackendError,
    DeviceInfo,
    DeviceUnavailableError,
    Evidence,
    OutOfMemoryError,
    UnknownDeviceError,
)
from tensorbus_backends.discovery import Registry, priority

from ..session import Session
from .apart import GROUP, Folder, changed, forked
from .base import Checks, duty

_HEAD = """
from tensorbus_backends.contract import *
from tensorbus_backends.contract import DeviceInfo, Evidence
from tensorbus_backends.ref import RefDevice
from pathlib import Path
_LOG = Path(__file__).with_suffix(".log")
def _note(text):
    with _LOG.open("a") as log:
        log.write(text)
_note("i")
"""

_GOOD = (
    _HEAD
    + """
class Good:
    name, api_version = "NAME", (2, 0)
    def probe(self):
        _note("p")
        return [
            DeviceInfo("NAME:0", "NAME", 0, available=False, cause="unplugged", fix="plug it in",
                       aliases=("NAME:old:0",), evidence=Evidence.UNSTATED),
            DeviceInfo("NAME:1", "NAME", 1, aliases=("NAME:New:0",), evidence=Evidence.HARDWARE),
            DeviceInfo("NAME:2", "NAME", 2, aliases=("NAME:New:1",), description="second",
                       evidence=Evidence.UNSTATED),
            DeviceInfo("NAME:4", "NAME", 4, aliases=("NAME:other:0",), evidence=Evidence.SIMULATED),
        ]
    def open(self, index):
        _note("o")
        return RefDevice({x.index: x for x in self.probe()}[index])
PLUGIN = Good()
"""
)

_PLAIN = (
    _HEAD
    + """
class Plain:
    name, api_version = "NAME", VERSION
    def probe(self):
        _note("p")
        PROBE
    def open(self, index):
        OPEN
PLUGIN = Plain()
"""
)


def plain(name: str, probe: str = "", open_: str = "", version: str = "(2, 0)") -> str:
    """Text of a plugin with one device, which is the interpreter."""
    line = f"DeviceInfo('{name}', '{name}', 0, evidence=Evidence.HARDWARE)"
    text = _PLAIN.replace("NAME", name).replace("VERSION", version)
    text = text.replace("PROBE", probe or f"return [{line}]")
    return text.replace("OPEN", open_ or f"return RefDevice({line})")


class _Group(Folder):
    """Plugins that are asked in this process."""

    def add(self, name: str, code: str, package: str = "", **more: Any) -> str:
        value = super().add(name, code, package, **more)
        discovery.IN_PROCESS[name] = value
        return value

    def good(self, name: str = "good") -> str:
        """One with an absent device and three that are there."""
        return self.add(name, _GOOD.replace("NAME", name))

    def log(self, value: str) -> str:
        """What a plugin noted: i for its import, p for a probe, o for a device opened."""
        path = self.path / f"{value.partition(':')[0]}.log"
        return path.read_text() if path.exists() else ""


def _refused(
    checks: Checks, registry: Registry, name: str, kind: type[Exception], *words: str
) -> BaseException | None:
    error = checks.raises(kind, f"opening {name!r}", registry.open, name)
    for word in words if error is not None else ():
        checks.that(word in str(error), f"opening {name!r} says {error}, and not {word!r}")
    return error


@forked
def names(checks: Checks, folder: Path, session: Session) -> None:
    """Canonical names, aliases, numbers, beginnings of them, in any case, mean their device."""
    group = _Group(folder)
    group.good()
    group.add("one", plain("one"))
    group.add("lost", "raise ImportError('no driver')")
    # A device called as its plugin gives way to another one as long as it is absent.
    head = "DeviceInfo(evidence=Evidence.UNSTATED, plugin='NAME', "
    absent = f"{head}name='NAME', index=0, available=False, cause='unplugged', fix='plug it in')"
    there = f"{head}name='NAME:1', index=1)"
    for name, lines in (("two", f"[{absent}, {there}]"), ("turned", f"[{there}, {absent}]")):
        group.add(name, plain(name, f"return {lines.replace('NAME', name)}"))
    registry = Registry(GROUP)
    for name, due in {
        "good": "good:1", "good:1": "good:1", "good:2": "good:2", "good:4": "good:4",
        "good:new:1": "good:2", "good:new": "good:1", "good:other": "good:4",
        "  GOOD:New:1 ": "good:2", "GOOD": "good:1", "one": "one", "one:0": "one",
        "two": "two:1", "turned": "turned:1", "TWO:1": "two:1",
    }.items():  # fmt: skip
        found = registry.resolve(name).name
        checks.that(found == due, f"{name!r} means {found!r}, due is {due!r}")
    for name in ("good:0", "good:old:0", "good:OLD", "good:old"):
        error = _refused(checks, registry, name, DeviceUnavailableError, "unplugged", "plug it in")
        if isinstance(error, DeviceUnavailableError):
            told = (error.device, error.cause, error.fix)
            checks.that(
                told == (name.lower(), "unplugged", "plug it in"), f"{name!r} is refused by {told}"
            )
    for name in ("two:0", "turned:0"):
        _refused(checks, registry, name, DeviceUnavailableError, "unplugged", "plug it in")
    for name in ("lost", "lost:0", "lost:3", "lost:any"):
        _refused(checks, registry, name, DeviceUnavailableError, "no driver")
    for name, words in {
        "godo": ("did you mean 'good'?", "there are auto, good, lost, one, turned, two"),
        "godo:0": ("did you mean 'good'?",), "good:new:7": ("did you mean 'good:",),
        "good:9": ("did you mean 'good:", "'good' has good:0, good:old:0, good:1"),
        "zzzzz": ("; there are auto, good, lost, one, turned, two",), "": ("there are auto",),
        "good:": ("'good' has good:0",), "one:1": ("'one' has one",), "aut": ("'auto'?",),
        "good:qqqqqqqqqqqqqqqqqq": ("; 'good' has",), "one:0:0": (), "0": (),
        "good:1:0": (), "good:3": (),
    }.items():  # fmt: skip
        error = _refused(checks, registry, name, UnknownDeviceError, repr(name), *words)
        checks.that(isinstance(error, ValueError), f"{name!r} is refused by no ValueError")
    text = str(_refused(checks, registry, "good:qqqqqqqqqqqqqqqqqq", UnknownDeviceError))
    checks.that("did you mean" not in text, f"a far name gets a hint: {text}")
    for what in (0, None, b"good", ["good"]):
        checks.raises(UnknownDeviceError, f"a device {what!r}", registry.resolve, what)


@forked
def listing(checks: Checks, folder: Path, session: Session) -> None:
    """All devices are listed in one order, each plugin is asked once, and its lines stand."""
    group = _Group(folder)
    values = {n: group.add(n, plain(n)) for n in ("ref", "zeta", "metal", "alpha", "rocm")}
    values |= {n: group.add(n, plain(n)) for n in ("cpu", "cuda", "opencl")}
    values["good"] = group.good()
    checks.that(Registry(GROUP + ".none").devices() == [], "a group without plugins has devices")
    registry = Registry(GROUP)
    due = ["cpu", "opencl", "cuda", "rocm", "metal", "alpha", "good", "zeta", "ref"]
    plugins = registry.plugins()
    checks.that([p.name for p in plugins] == due, f"plugins are {[p.name for p in plugins]}")
    for p in plugins:
        checks.that(p.value == values[p.name], f"{p.name} is announced as {p.value}")
        checks.that(p.package == f"fake-{p.name} 1.0", f"{p.name} is of package {p.package!r}")
    checks.that(not any(group.log(v) for v in values.values()), "listing plugins ran their code")
    lines = registry.devices()
    got = [x.name for x in lines]
    due[6:7] = [f"good:{k}" for k in (0, 1, 2, 4)]
    checks.that(got == due, f"devices are listed as {got}, due is {due}")
    checks.that([x.available for x in lines] == [n != "good:0" for n in due], "states are wrong")
    checks.that(registry.devices() == lines, "a second listing differs")
    logs = {group.log(v) for v in values.values()}
    checks.that(logs == {"ip"}, f"plugins were asked more than once: {logs}")
    own = registry.devices(plugin="good")
    checks.that([x.index for x in own] == [0, 1, 2, 4], f"the devices of one plugin are {own}")
    own.clear()
    checks.that(len(registry.devices(plugin="good")) == 4, "a caller can spoil the listing")
    checks.that(registry.devices(plugin="nobody") == [], "a plugin that is not there has devices")
    registry.devices(plugin="zeta")
    checks.that(group.log(values["zeta"]) == "ip", "a plugin was asked more than once")
    registry.devices(refresh=True, plugin="zeta")
    checks.that(group.log(values["zeta"]) == "ipp", "refresh did not ask again")
    checks.that(group.log(values["good"]) == "ip", "refresh of one plugin asked another one")
    registry.devices(refresh=True)
    checks.that(group.log(values["good"]) == "ipp", "refresh did not ask again")


@forked
def lazy(checks: Checks, folder: Path, session: Session) -> None:
    """A name touches its plugin alone; a device is opened once, and stays open when asked anew."""
    group = _Group(folder)
    good, other = group.good(), group.good("other")
    registry = Registry(GROUP)
    first = registry.open("good")
    checks.that(first.info.name == "good:1", f"'good' opens {first.info.name}")
    checks.that(group.log(other) == "", "opening a device touched another plugin")
    same = [registry.open(n) for n in ("good", "good:1", "good:NEW:0", " GOOD ", "good:new")]
    checks.that(all(d is first for d in same), "one device was opened more than once")
    checks.that(registry.open("good:2") is not first, "two devices are one object")
    checks.that(group.log(good).count("o") == 2, f"the plugin was asked so: {group.log(good)}")
    resolved: list[str] = []
    real = registry.resolve

    def resolve(name: str) -> DeviceInfo:
        resolved.append(name)
        return real(name)

    with changed(registry, resolve=resolve):
        for name in ("good", "good:1", "good:2", " GOOD "):
            registry.open(name)
        checks.that(resolved == [], f"names that are open are looked up again: {resolved}")
        registry.open("good:4")
        registry.refresh()
        for _ in range(2):
            checks.that(registry.open("good:1") is first, "refresh closed an open device")
        due = ["good:4", "good:1"]
        checks.that(resolved == due, f"before and after a refresh {resolved} were looked up")
    found: list[Any] = []
    ask = [lambda n=n: found.append(registry.open(n)) for n in ("other", "other:1") * 4]
    threads = [threading.Thread(target=a) for a in ask]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    checks.that(len({id(d) for d in found}) == 1, "threads opened a device more than once")
    late = group.add("late", plain("late"))
    checks.raises(UnknownDeviceError, "what came later", registry.open, "late")
    registry.refresh()
    checks.that(registry.open("late").info.name == "late", "refresh does not find what came later")
    checks.that(registry.open("good:1") is first, "refresh closed an open device")
    checks.that(group.log(late)[:1] == "i", "a plugin that came later was not imported")
    # A plugin that is announced otherwise is another one.
    moved = group.path / "tb_judge_1-1.0.dist-info" / "entry_points.txt"
    again = group.path / "tb_judge_9.py"
    again.write_text((group.path / "tb_judge_1.py").read_text())
    moved.write_text(f"[{GROUP}]\ngood = tb_judge_9:PLUGIN\n")
    discovery.IN_PROCESS["good"] = "tb_judge_9:PLUGIN"
    moved.parent.touch()
    group.path.touch()
    registry.refresh()
    checks.that(
        registry.open("good:1") is not first, "a plugin that has moved is still the old one"
    )


@forked
def refusals(checks: Checks, folder: Path, session: Session) -> None:
    """Whatever opening does, the contract's errors come out, with cause and fix."""
    group = _Group(folder)
    cases: dict[str, tuple[str, tuple[str, ...]]] = {
        "a": ("raise KeyError('handle')", ("opening it failed with KeyError", "fake-a 1.0")),
        "b": ("raise SystemExit(3)", ("opening it failed with SystemExit: 3", "fake-b 1.0")),
        "c": ("return 5", ("opening it gave int, which is no Device", "fake-c 1.0")),
        "d": ("return None", ("opening it gave NoneType", "fake-d 1.0")),
        "e": (
            "return RefDevice(DeviceInfo('e', 'e', 0, description='other', evidence='compiled'))",
            ("opening it gave 'e' (other) where probing had found ", "import tensorbus before"),
        ),
        "f": (
            "return RefDevice(DeviceInfo('f:1', 'f', 0, evidence=Evidence.UNSTATED))",
            ("opening it gave 'f:1'",),
        ),
    }
    for name, (open_, _) in cases.items():
        group.add(name, plain(name, open_=open_))
    group.add("g", plain("g", open_="raise OutOfMemoryError('full')"))
    group.add("h", plain("h", open_="raise KeyboardInterrupt"))
    group.add("i", plain("i", open_="raise GeneratorExit"))
    changing = group.add("j", plain("j"))
    registry = Registry(GROUP)
    registry.devices()
    for name, (_, words) in cases.items():
        for _ in range(2):
            _refused(checks, registry, name, DeviceUnavailableError, repr(name), *words)
    _refused(checks, registry, "g", OutOfMemoryError, "full")
    checks.raises(KeyboardInterrupt, "an interrupt while opening", _loud, registry, "h")
    checks.raises(GeneratorExit, "the end of a generator while opening", _loud, registry, "i")
    module = __import__(changing.partition(":")[0])
    with changed(module.PLUGIN, api_version=(7, 0)):
        _refused(checks, registry, "j", DeviceUnavailableError, "version 7.0", "fake-j")
    checks.that(registry.open("j").info.name == "j", "a plugin that was repaired stays refused")
    checks.that(issubclass(DeviceUnavailableError, BackendError), "errors are not the contract's")


def _loud(registry: Registry, name: str) -> None:
    try:
        registry.open(name)
    except (KeyboardInterrupt, GeneratorExit) as error:
        raise type(error)("as it came") from None


def _line(name: str, kind: str = "", evidence: Evidence = Evidence.HARDWARE) -> DeviceInfo:
    plugin, _, number = name.partition(":")
    details = {"kind": kind} if kind else {}
    return DeviceInfo(name, plugin, int(number or 0), details=details, evidence=evidence)


@forked
def ranks(checks: Checks, folder: Path, session: Session) -> None:
    """``"auto"`` is the first of the written order of kinds that is there and is hardware."""
    order = [
        _line("cuda:0"), _line("cuda:1"), _line("rocm:0", "gpu"), _line("metal", "gpu"),
        _line("opencl:1", "gpu"), _line("opencl:2", "accelerator"), _line("chip:0", "accelerator"),
        _line("mychip:0", "gpu"), _line("mychip:1", "gpu"), _line("cpu", "cpu"),
        _line("opencl:0", "cpu"), _line("opencl:3"), _line("other", "cpu"), _line("what"),
        _line("ref", "gpu"),
    ]  # fmt: skip
    for a, b in itertools.combinations(order, 2):
        checks.that(priority(a) < priority(b), f"{b.name} is preferred to {a.name}")
    registry = Registry(GROUP)
    lines: list[DeviceInfo] = []
    with changed(registry, devices=lambda: lines):
        for k in range(len(order)):
            lines = order[k:][::-1]
            found = registry.resolve("auto").name
            checks.that(found == order[k].name, f"auto is {found}, due is {order[k].name}")
        lines = [replace(order[0], available=False, cause="c", fix="f"), *order[9:]]
        checks.that(registry.resolve(" AUTO").name == "cpu", "auto takes an absent device")
        for evidence in (Evidence.SIMULATED, Evidence.COMPILED, Evidence.UNSTATED):
            lines = [replace(order[0], evidence=evidence), order[9]]
            checks.that(registry.resolve("auto").name == "cpu", f"auto takes a {evidence} device")
        lines = [
            replace(order[0], available=False, cause="it is broken", fix="f"),
            replace(order[9], evidence=Evidence.SIMULATED),
        ]
        error = checks.raises(DeviceUnavailableError, "auto", registry.resolve, "auto")
        if isinstance(error, DeviceUnavailableError):
            due = "(cuda:0: it is broken; cpu: its evidence is simulated)"
            checks.that(due in error.cause, f"auto says {error.cause!r}, and not {due!r}")
            checks.that(error.device == "auto", f"the error is of {error.device!r}")
            checks.that("tensorbus devices" in error.fix, f"the fix is {error.fix!r}")
        lines = []
        error = checks.raises(DeviceUnavailableError, "auto", registry.resolve, "auto")
        checks.that("no plugin is installed" in str(error), f"auto without plugins says {error}")


@forked
def clashes(checks: Checks, folder: Path, session: Session) -> None:
    """Two plugins of one name, and names that nobody can type, are lines and not devices."""
    group = _Group(folder)
    group.add("twin", plain("twin"), "one")
    group.add("twin", plain("twin"), "two")
    value = group.add("cpu", plain("cpu"), "tensorbus", version="3.0")
    group.add("cpu", plain("cpu"), "fake-cpu")
    discovery.IN_PROCESS["cpu"] = value
    for bad in ("My Chip", "auto", "9x", "x:y"):
        group.add(bad, plain("x"), f"of-{bad[:2].lower().strip()}")
    twice = group.add("same", plain("same"), "same")
    copy = group.path / "same_again-1.0.dist-info"
    copy.mkdir()
    (copy / "METADATA").write_text("Metadata-Version: 2.1\nName: same\nVersion: 1.0\n")
    (copy / "entry_points.txt").write_text(f"[{GROUP}]\nsame = {twice}\n")
    registry = Registry(GROUP)
    plugins = [(p.name, p.package) for p in registry.plugins()]
    due = [("cpu", "tensorbus 3.0"), ("same", "same 1.0")]
    checks.that(plugins == due, f"plugins are {plugins}, due are {due}")
    lines = {x.name: x for x in registry.devices()}
    checks.that(len(lines) == len(registry.devices()), "a name is listed twice")
    due_names = {"cpu", "same", "My Chip", "auto", "9x", "x:y"}
    due_names |= {"twin (one 1.0)", "twin (two 1.0)", "cpu (fake-cpu 1.0)"}
    checks.that(set(lines) == due_names, f"lines are {sorted(lines)}")
    for name, x in lines.items():
        there = name in ("cpu", "same")
        checks.that(x.available == there, f"{name} is {'absent' if there else 'available'}")
        checks.that(there or bool(x.cause and x.fix), f"{name} has no cause or no fix")
    for name, other in (("one", "two"), ("two", "one")):
        clash = f"twin ({name} 1.0)"
        if checks.that(clash in lines, f"the clash of {name} is not listed"):
            x = lines[clash]
            said = f"'twin' is also announced by {other} 1.0" in x.cause
            checks.that(said and f"{name} 1.0" in x.fix, f"a clash says {x.cause}; {x.fix}")
            checks.that((x.plugin, x.index) == ("twin", 0), "a clash is of another plugin")
    for bad in ("My Chip", "auto", "9x", "x:y"):
        if bad in lines:
            checks.that("cannot name a plugin" in lines[bad].cause, f"{bad}: {lines[bad].cause}")
    checks.raises(UnknownDeviceError, "a name that two have", registry.open, "twin")
    checks.raises(UnknownDeviceError, "a name that none may have", registry.open, "my chip")


@forked
def packages(checks: Checks, folder: Path, session: Session) -> None:
    """A package whose description cannot be read hides no other."""
    group = _Group(folder)
    group.add("seen", plain("seen"))
    group.add("alien", plain("alien"), group="another.group")
    real = metadata.distributions

    class Broken:
        @property
        def entry_points(self) -> Any:
            raise OSError("unreadable")

    def broken(*_: Any, **options: Any) -> Any:
        if options.get("group") == GROUP:
            raise ValueError("a package is broken")
        return metadata.EntryPoints()

    def some() -> Any:
        return iter([Broken(), *real(), Broken()])

    with changed(metadata, entry_points=broken, distributions=some):
        registry = Registry(GROUP)
        found = [(p.name, p.package) for p in registry.plugins()]
    checks.that(found == [("seen", "fake-seen 1.0")], f"beside broken packages there are {found}")
    checks.that(registry.open("seen").info.name == "seen", "it cannot be opened")
    loose = metadata.EntryPoint("loose", "some.module:PLUGIN", GROUP)
    with changed(metadata, entry_points=lambda group: [loose]):
        (only,) = Registry(GROUP).plugins()
    checks.that(only.package == "", f"a plugin of no package is of {only.package!r}")
    who = "the package that provides some.module:PLUGIN"
    checks.that(only.who == who, f"it is of {only.who!r}")
    default = [p.name for p in Registry().plugins()]
    checks.that({"cpu", "ref"} <= set(default), f"the product's own plugins are {default}")
    checks.that(default[-1] == "ref" and default[0] == "cpu", f"they come as {default}")
    lines = discovery.REGISTRY.devices(plugin="ref")
    checks.that([x.name for x in lines] == ["ref"], f"the plugin ref has {lines}")
    opened = discovery.open_device("ref")
    checks.that(discovery.REGISTRY.open("ref") is opened, "open_device has a registry of its own")
    with changed(discovery.REGISTRY, devices=lambda refresh=False: [refresh]):
        checks.that(discovery.devices() == [False], "devices() asks the plugins again")  # type: ignore[comparison-overlap]
        for refresh in (False, True):
            checks.that(
                discovery.devices(refresh) == [refresh], "devices() is not its registry's"  # type: ignore[comparison-overlap]
            )  # fmt: skip


class _Asked:
    """In the place of the process that lists the devices of a plugin."""

    log: list[str]
    interrupt = ""

    def __init__(self, plugin: Any, timeout_s: float) -> None:
        self.plugin, self.timeout_s = plugin, timeout_s
        self.log.append(f"begin {plugin.name} {timeout_s:g}")

    def result(self) -> list[DeviceInfo]:
        """One device."""
        self.log.append(f"result {self.plugin.name}")
        if self.interrupt == self.plugin.name:
            raise KeyboardInterrupt
        return [DeviceInfo(self.plugin.name, self.plugin.name, 0, evidence=Evidence.UNSTATED)]

    def close(self) -> None:
        """End."""
        self.log.append(f"close {self.plugin.name}")


@forked
def children(checks: Checks, folder: Path, session: Session) -> None:
    """Plugins of others are asked in processes, all at the same time, and given up together."""
    group = Folder(folder)
    for name in ("xa", "xb", "xc"):
        group.add(name, "raise SystemError('imported here')")
    # One of the product's own names with another module is somebody else's.
    group.add("ref", "raise SystemError('imported here')")
    made: Callable[[str], Mapping[str, Any]] = lambda name: {"log": [], "interrupt": name}  # noqa: E731
    begun = ["begin xa 20", "begin xb 20", "begin xc 20", "begin ref 20"]
    for stop in ("", "xb"):
        fake: Any = type("Fake", (_Asked,), dict(made(stop)))
        with changed(discovery, Child=fake):
            registry = Registry(GROUP)
            if not stop:
                lines = registry.devices()
                registry.devices()
                checks.that([x.name for x in lines] == ["xa", "xb", "xc", "ref"], f"{lines}")
                due = begun + [f"result {n}" for n in ("xa", "xb", "xc", "ref")]
                checks.that(fake.log == due, f"plugins were asked so: {fake.log}")
                fake.log.clear()
                registry.refresh()
                registry.resolve("xb")
                due = ["begin xb 20", "result xb"]
                checks.that(fake.log == due, f"after a refresh plugins were asked so: {fake.log}")
                continue
            checks.raises(KeyboardInterrupt, "an interrupt", _interrupted, registry)
            closed = sorted(x for x in fake.log if x.startswith("close"))
            due = ["close ref", "close xc"]
            checks.that(closed == due, f"after an interrupt was done: {closed}, due is {due}")
            fake.interrupt = ""
            checks.that(len(registry.devices()) == 4, "after an interrupt devices are missing")
    with changed(discovery, Child=type("Fake", (_Asked,), dict(made("")))):
        registry = Registry(GROUP)
        source = next(iter(registry._read().values()))
        source.begin()
        registry.refresh()  # what is under way is no answer any more
        log = discovery.Child.log  # type: ignore[attr-defined]
        checks.that(log == ["begin xa 20", "close xa"], f"refresh left a probe under way: {log}")


def _interrupted(registry: Registry) -> None:
    try:
        registry.devices()
    except KeyboardInterrupt:
        raise KeyboardInterrupt("as it came") from None


duty("discovery", names, listing, lazy, refusals, ranks, clashes, packages, children,
     plugins=("cpu",))  # fmt: skip
