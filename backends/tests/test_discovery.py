"""Discovery: plugins that misbehave in every way cost one line each, and names find devices."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorbus_backends import discovery, probing
from tensorbus_backends.contract import (
    CONTRACT,
    Device,
    DeviceInfo,
    DeviceUnavailableError,
    Evidence,
    UnknownDeviceError,
)
from tensorbus_backends.discovery import Registry, priority

GROUP = "tensorbus.test.backends"
GOOD = """
    from tensorbus_backends.contract import DeviceInfo, Evidence
    from tensorbus_backends.ref import RefDevice
    from pathlib import Path
    Path(__file__).with_suffix(".imported").touch()
    class Good:
        name, api_version = "good", (2, 0)
        def probe(self):
            return [
                DeviceInfo("good:0", "good", 0, available=False, cause="unplugged", fix="plug it",
                           aliases=("good:old:0",), evidence=Evidence.UNSTATED),
                DeviceInfo("good:1", "good", 1, aliases=("good:new:0",),
                           evidence=Evidence.HARDWARE),
                DeviceInfo("good:2", "good", 2, aliases=("good:new:1",),
                           evidence=Evidence.UNSTATED),
            ]
        def open(self, index):
            return RefDevice(self.probe()[index])
    PLUGIN = Good()
"""
PLUGIN = """
    from tensorbus_backends.contract import DeviceInfo, Evidence
    class P:
        name, api_version = "{name}", {version}
        def probe(self):
            {probe}
        def open(self, index):
            {open}
    PLUGIN = P()
"""
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a package with one entry point: ``install(name, code)``."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def build(
        name: str, code: str, *, package: str = "", announce: bool = True, version: str = "1.0"
    ) -> None:
        package = package or f"fake-{name}"
        module = package.replace("-", "_") + "_" + tmp_path.name.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(code))
        info = tmp_path / f"{package.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
        )
        if announce:
            (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {module}:PLUGIN\n")
        importlib.invalidate_caches()

    return build


def lists(arguments: str) -> str:
    """The body of a probe that lists one device."""
    return f"return [DeviceInfo({arguments}, evidence=Evidence.UNSTATED)]"


def plugin(name: str, probe: str = "", *, version: object = CONTRACT, opens: str = "") -> str:
    return PLUGIN.format(
        name=name,
        version=version,
        probe=probe or lists(f"{name!r}, {name!r}, 0"),
        open=opens or "raise RuntimeError('no')",
    )


def only_line(name: str) -> DeviceInfo:
    """The one line of the registry, which must be an absent one that explains itself."""
    (line,) = Registry(GROUP).devices()
    assert (line.plugin, line.available) == (name, False)
    assert line.cause
    assert line.fix
    assert "\n" not in line.cause + line.fix
    return line


def test_our_own_plugins_are_found_through_their_entry_points() -> None:
    names = [p.name for p in Registry().plugins()]
    assert {"ref", "cpu", "opencl", "cuda", "rocm", "metal"} <= set(names)


def test_import_is_light() -> None:
    code = (
        "import sys, tensorbus_backends, tensorbus_backends.discovery\n"
        "heavy = {'pyopencl', 'cffi', 'tensorbus_cpu', 'tensorbus_opencl'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- isolation --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("raise ImportError('no libfoo.so')", "ImportError: no libfoo.so"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import os; os._exit(3)", "ended the process with status 3"),
        ("x = 1", "AttributeError: module"),
        ("this is no Python", "SyntaxError"),
        (plugin("bad", "raise OSError('driver\\nis sad')"), "OSError: driver is sad"),
        (plugin("bad", "raise SystemExit('bye')"), "SystemExit: bye"),
        (plugin("bad", "import ctypes; ctypes.string_at(0)"), "crashed with SIGSEGV"),
        (plugin("bad", "import os; os.abort()"), "crashed with SIGABRT"),
        (plugin("bad", "import os; os._exit(0)"), "ended the process with status 0"),
        (plugin("bad", "return 7"), "returned 7 instead of a list of DeviceInfo"),
        (plugin("bad", "return 'cpu'"), "instead of a list of DeviceInfo"),
        (plugin("bad", "return [1, 2]"), "instead of a list of DeviceInfo"),
        (plugin("bad", "return []"), "found no device"),
        (plugin("bad", lists("'cpu', 'bad', 0")), "must begin with 'bad'"),
        (plugin("bad", lists("'bad', 'cpu', 0")), "device of plugin 'cpu'"),
        (plugin("bad", lists("'bad', 'bad', 0, aliases=('gpu',)")), "alias"),
        (plugin("bad", lists("'bad', 'bad', 0, False")), "without cause and fix"),
        (plugin("bad", "return [DeviceInfo('bad', 'bad', 0)]"), "argument: 'evidence'"),
        (plugin("bad", version="'x'"), "its api_version is 'x', which is no version"),
        (plugin("bad", version="(2,)"), "its api_version is (2,), which is no version"),
        (plugin("bad", version="2"), "its api_version is 2, which is no version"),
        (plugin("bad", version="(2, True)"), "its api_version is (2, True), which is no version"),
        ("class P: api_version = 2, 0\nPLUGIN = P()", "no method probe or open"),
        ("PLUGIN = None", "its api_version is None, which is no version"),
    ],
)
def test_a_misbehaving_plugin_is_one_absent_line(install: Install, code: str, cause: str) -> None:
    install("bad", code)
    line = only_line("bad")
    assert cause in line.cause
    assert "fake-bad 1.0" in line.fix


def test_a_hanging_plugin_is_given_up(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBUS_PROBE_TIMEOUT", "2.5")
    install("bad", plugin("bad", "import time; time.sleep(600)"))
    line = only_line("bad")
    assert "within 2.5 s" in line.cause
    assert "TENSORBUS_PROBE_TIMEOUT" in line.fix
    assert "probe" in line.details["stderr"], "where it hung is kept for the report"


def test_a_plugin_that_leaves_a_process_behind_does_not_block(install: Install) -> None:
    install(
        "bad",
        plugin(
            "bad",
            "import subprocess, sys; subprocess.Popen([sys.executable, '-c', "
            "'import time; time.sleep(60)'], start_new_session=True); " + lists("'bad', 'bad', 0"),
        ),
    )
    (line,) = Registry(GROUP).devices()
    assert line.available


def test_what_a_plugin_prints_is_not_taken_for_its_answer(install: Install) -> None:
    noise = "import os; print('[]'); os.write(1, b'[]'); "
    install("bad", plugin("bad", noise + lists("'bad', 'bad', 0")))
    (line,) = Registry(GROUP).devices()
    assert line.available


def test_the_good_are_not_hurt_by_the_bad(install: Install) -> None:
    install("crash", plugin("crash", "import ctypes; ctypes.string_at(0)"))
    install("good", GOOD)
    install("raise", "raise ValueError('oh')")
    registry = Registry(GROUP)
    lines = {x.name: x.available for x in registry.devices()}
    assert lines == {
        "crash": False,
        "good:0": False,
        "good:1": True,
        "good:2": True,
        "raise": False,
    }
    assert registry.open("good").info.name == "good:1"
    with pytest.raises(DeviceUnavailableError, match="SIGSEGV"):
        registry.open("crash")


def test_a_broken_package_elsewhere_does_not_hide_plugins(install: Install, tmp_path: Path) -> None:
    install("good", GOOD)
    install("broken", "", announce=False)
    (tmp_path / "fake_broken-1.0.dist-info" / "entry_points.txt").write_text("= [no\nsection")
    assert "good" in [p.name for p in Registry(GROUP).plugins()]


def test_two_packages_with_one_name_are_both_refused(install: Install) -> None:
    install("twin", plugin("twin"), package="fake-one")
    install("twin", plugin("twin"), package="fake-two")
    registry = Registry(GROUP)
    lines = registry.devices()
    assert [x.available for x in lines] == [False, False]
    assert "fake-two 1.0" in next(x.cause for x in lines if "fake-one" in x.name)
    with pytest.raises(UnknownDeviceError):
        registry.open("twin")


def test_nobody_takes_the_name_of_one_of_ours(install: Install) -> None:
    install("cpu", plugin("cpu"), package="fake-cpu")
    install("cpu", plugin("cpu"), package="tensorbus")
    registry = Registry(GROUP)
    assert [p.package for p in registry.plugins()] == ["tensorbus 1.0"]
    rejected = [x for x in registry.devices() if "fake-cpu" in x.name]
    assert [x.available for x in rejected] == [False]


def test_a_name_that_no_one_could_type_is_refused(install: Install) -> None:
    install("My Chip", plugin("x"), package="fake-chip")
    install("auto", plugin("auto"))
    lines = Registry(GROUP).devices()
    assert [x.available for x in lines] == [False, False]
    assert all("cannot name a plugin" in x.cause for x in lines)


# -- laziness ---------------------------------------------------------------------------------


def test_opening_one_device_touches_no_other_plugin(install: Install, tmp_path: Path) -> None:
    install("good", GOOD)
    install("other", GOOD.replace("good", "other"), package="fake-other")
    Registry(GROUP).open("good")
    assert [p.name for p in tmp_path.glob("*.imported")] != []
    assert not list(tmp_path.glob("fake_other*.imported"))


def test_ref_and_cpu_are_asked_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("a child process was started")

    monkeypatch.setattr(discovery, "Child", refuse)
    registry = Registry()
    assert registry.open("ref").info.name == "ref"
    assert registry.resolve("ref:0").name == "ref"
    cpu = next(p for p in registry.plugins() if p.name == "cpu")
    assert discovery.IN_PROCESS["cpu"] == cpu.value


def test_a_plugin_is_asked_once_until_refreshed(install: Install, tmp_path: Path) -> None:
    log = tmp_path / "log"
    probe = f"open({str(log)!r}, 'a').write('x'); " + lists("'once', 'once', 0")
    install("once", plugin("once", probe))
    registry = Registry(GROUP)
    registry.devices()
    registry.devices()
    assert log.read_text() == "x"
    registry.devices(refresh=True)
    assert log.read_text() == "xx"


def test_refresh_finds_what_was_installed_meanwhile(install: Install) -> None:
    registry = Registry(GROUP)
    assert registry.devices() == []
    install("good", GOOD)
    assert registry.devices() == []
    assert len(registry.devices(refresh=True)) == 3


# -- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("good", "good:1"),
        ("good:1", "good:1"),
        ("good:2", "good:2"),
        ("good:new:1", "good:2"),
        ("good:new", "good:1"),
        (" GOOD:New:1 ", "good:2"),
        ("auto", "good:1"),
    ],
)
def test_names_resolve(install: Install, name: str, device: str) -> None:
    install("good", GOOD)
    assert Registry(GROUP).resolve(name).name == device


@pytest.mark.parametrize("name", ["good:0", "good:old:0", "good:old"])
def test_an_absent_device_says_why_and_what_to_do(install: Install, name: str) -> None:
    install("good", GOOD)
    with pytest.raises(DeviceUnavailableError, match=r"unplugged\. To fix it: plug it"):
        Registry(GROUP).open(name)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("godo", "did you mean 'good'"),
        ("good:new:7", "did you mean 'good:new:"),
        ("good:9", "did you mean 'good:"),
        ("zzz", "there are auto, good"),
        ("", "there are auto, good"),
        ("good:", "no device is called 'good:'"),
    ],
)
def test_an_unknown_name_gets_a_hint(install: Install, name: str, hint: str) -> None:
    install("good", GOOD)
    with pytest.raises(UnknownDeviceError) as caught:
        Registry(GROUP).open(name)
    assert hint in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_an_index_of_an_absent_plugin_gives_its_cause(install: Install) -> None:
    install("bad", "raise ImportError('no driver')")
    with pytest.raises(DeviceUnavailableError, match="no driver"):
        Registry(GROUP).open("bad:3")


def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(UnknownDeviceError, match="a device name is text"):
        Registry(GROUP).resolve(0)  # type: ignore[arg-type]


def test_auto_without_any_device_tells_all_causes(install: Install) -> None:
    install("bad", "raise ImportError('no driver')")
    with pytest.raises(DeviceUnavailableError, match="no driver"):
        Registry(GROUP).open("auto")


def line(name: str, kind: str = "", evidence: Evidence = Evidence.HARDWARE) -> DeviceInfo:
    details = {"kind": kind} if kind else {}
    plugin_name = name.partition(":")[0]
    return DeviceInfo(name, plugin_name, 0, details=details, evidence=evidence)


def test_the_order_of_auto() -> None:
    order = [
        line("cuda:0"),
        line("rocm:0"),
        line("metal"),
        line("opencl:0", "gpu"),
        line("mychip", "accelerator"),
        line("cpu"),
        line("opencl:1", "cpu"),
        line("other"),
        line("ref"),
    ]
    shuffled = order[5:] + order[:5]
    assert sorted(shuffled, key=priority) == order


def test_auto_takes_no_simulated_device(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(GROUP)
    lines = [line("cuda:0", evidence=Evidence.SIMULATED), line("ref")]
    monkeypatch.setattr(registry, "devices", lambda: lines)
    assert registry.resolve("auto").name == "ref"


# -- opening ----------------------------------------------------------------------------------


def test_a_device_is_opened_once_under_all_its_names(install: Install) -> None:
    install("good", GOOD)
    registry = Registry(GROUP)
    results: list[Device] = []
    names = ["good", "good:1", "good:new:0", "GOOD"] * 4
    threads = [threading.Thread(target=lambda n=n: results.append(registry.open(n))) for n in names]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(results) == len(names)
    assert len({id(d) for d in results}) == 1


def test_an_error_while_opening_is_explained(install: Install) -> None:
    install("late", plugin("late", opens="raise KeyError('handle')"))
    with pytest.raises(DeviceUnavailableError, match="opening it failed with KeyError") as caught:
        Registry(GROUP).open("late")
    assert "fake-late 1.0" in caught.value.fix


def test_what_is_no_device_is_refused(install: Install) -> None:
    install("late", plugin("late", opens="return 5"))
    with pytest.raises(DeviceUnavailableError, match="gave int, which is no Device"):
        Registry(GROUP).open("late")


def test_another_device_than_the_probed_one_is_refused(install: Install) -> None:
    install("good", GOOD.replace("self.probe()[index]", "self.probe()[3 - index]"))
    with pytest.raises(DeviceUnavailableError, match="where probing had found"):
        Registry(GROUP).open("good")


def test_lines_survive_the_way_from_the_child() -> None:
    given = [
        line("x:0", "gpu", Evidence.SIMULATED),
        DeviceInfo(
            "x:1", "x", 1, False, ("x:y:1",), "words", "cause", "fix", evidence=Evidence.UNSTATED
        ),
    ]
    assert probing.from_json(probing.to_json(given)) == given


@pytest.mark.parametrize("text", ["x", "-1", "nan", "inf", "0"])
def test_a_senseless_timeout_is_ignored_with_a_warning(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORBUS_PROBE_TIMEOUT", text)
    monkeypatch.delenv("TENSORBUS_SIMULATE", raising=False)
    with pytest.warns(RuntimeWarning, match=f"TENSORBUS_PROBE_TIMEOUT='{text}' .*; 20 s are used"):
        assert probing.probe_timeout() == probing.DEFAULT_TIMEOUT_S


def test_simulated_drivers_have_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBUS_PROBE_TIMEOUT", "")
    monkeypatch.delenv("TENSORBUS_SIMULATE", raising=False)
    assert probing.probe_timeout() == probing.DEFAULT_TIMEOUT_S
    monkeypatch.setenv("TENSORBUS_SIMULATE", "cuda")
    assert probing.probe_timeout() == probing.SIMULATED_TIMEOUT_S


def test_an_interrupt_ends_the_probes(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("slow", plugin("slow", "import time; time.sleep(600)"))
    install("zebra", plugin("zebra"))
    children: list[probing.Child] = []

    class Interrupted(probing.Child):
        def __init__(self, announcement: probing.Announcement, timeout_s: float) -> None:
            super().__init__(announcement, timeout_s)
            children.append(self)

        def result(self) -> list[DeviceInfo]:
            raise KeyboardInterrupt

    monkeypatch.setattr(discovery, "Child", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        Registry(GROUP).devices()
    # The one that was waited for ends itself; the others are ended for it.
    assert [c._process is None for c in children[1:]] == [True]
    children[0].close()


def test_without_an_interpreter_to_start(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("good", GOOD)
    for executable in (None, "", "/nowhere/python"):
        monkeypatch.setattr(sys, "executable", executable)
        (line,) = Registry(GROUP).devices()
        assert "could not be started" in line.cause
