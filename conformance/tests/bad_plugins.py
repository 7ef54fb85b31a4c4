"""Plugins that misbehave, as packages that an outsider would install."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path

_BASE = """
import atexit, ctypes, dataclasses, os, signal, subprocess, sys, threading, time
from tensorbus_backends import contract
from tensorbus_backends.contract import Capabilities, DeviceInfo, Evidence
from tensorbus_backends.ref import RefDevice

NAMES = {names!r}

def set_flush_to_zero():
    library = ctypes.CDLL(None)
    kept = (ctypes.c_uint32 * 128)()
    library.fegetenv(kept)
    kept[7] |= 0x8040  # MXCSR of x86-64's fenv_t: FTZ and DAZ
    library.fesetenv(kept)

class Bad(RefDevice):
    act = None
    def launch(self, *arguments):
        if self.act is not None:
            self.act()
        super().launch(*arguments)

def once(action):
    done = []
    def act():
        if not done:
            done.append(1)
            action()
    return act

def opened(info, **changes):
    device = Bad(info)
    device.capabilities = dataclasses.replace(device.capabilities, **changes)
    return device

def launching(info, action):
    device = Bad(info)
    device.act = action
    return device

def garbage():
    lines = b'{{"outcome": {{"property": "values"}}}}\\n[1]\\n7\\n'
    lines += b'{{"end": 1, "pid": %d}}\\n' % os.getpid()
    for number in (1, 2):
        os.write(number, lines + b"\\xff\\x00" * 1000)
    print("{{}}", flush=True)

def eat():
    kept = []
    while True:
        kept.append(b"x" * (64 << 20))

class Words(Exception):
    def __str__(self):
        raise ValueError("no words")

def raises(error):
    raise error

{functions}

class Plugin:
    name, api_version = {name!r}, (2, 0)
    def probe(self):
        return [
            DeviceInfo(f"{{self.name}}:{{k}}", self.name, k, evidence=Evidence.SIMULATED,
                       description=what)
            for k, what in enumerate(NAMES)
        ]
    def open(self, index):
        return globals()["do_" + NAMES[index]](self.probe()[index])

PLUGIN = Plugin()
"""


def install(site: Path, name: str, behaviours: dict[str, str]) -> None:
    """A package with one plugin that has a device for each behaviour.

    Args:
        behaviours: By name, the expression that opens the device; ``info`` is its line.
    """
    functions = "\n".join(
        f"def do_{key}(info):\n    return {value}" for key, value in behaviours.items()
    )
    code = _BASE.format(names=list(behaviours), name=name, functions=functions)
    announce(site, name, code)


def announce(site: Path, name: str, code: str) -> None:
    """A package whose module has this text and announces its PLUGIN."""
    site.mkdir(exist_ok=True)
    (site / f"fake_{name}.py").write_text(textwrap.dedent(code))
    info = site / f"fake_{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: fake-{name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[tensorbus.backends]\n{name} = fake_{name}:PLUGIN\n")


def names(plugin: str, behaviours: Iterable[str]) -> dict[str, str]:
    """Device names by behaviour."""
    return {key: f"{plugin}:{k}" for k, key in enumerate(behaviours)}
