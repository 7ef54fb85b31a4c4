"""Asking one plugin for its devices, so that whatever the plugin does comes out as a list of lines.

`describe` asks in this process and turns every exception into a line with cause and fix.  `Child`
asks in a process of its own, which also survives crashes, hangs and exits.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import EntryPoint
from typing import Any

from .contract import DeviceInfo, Evidence
from .negotiation import refused

__all__ = [
    "Announcement",
    "Child",
    "absent",
    "check_plugin",
    "describe",
    "probe_timeout",
    "valid_name",
]

GROUP = "tensorbus.backends"
DEFAULT_TIMEOUT_S = 20.0
RETRY = 2
"""How much longer a plugin may take that is asked a second time."""
_GRACE_S = 10.0
SIMULATED_TIMEOUT_S = 180.0
_NAME = re.compile(r"[a-z][a-z0-9_-]*\Z")


@dataclass(frozen=True)
class Announcement:
    """One entry point: what a package says it has, before any of its code has run.

    Attributes:
        name: Name of the plugin, the first part of its devices' names.
        value: ``"package.module:PLUGIN"``.
        package: Distribution and version, for messages; empty if unknown.
    """

    name: str
    value: str
    package: str = ""

    def load(self) -> Any:
        """Import the plugin object; raises whatever the import raises."""
        return EntryPoint(self.name, self.value, GROUP).load()

    @property
    def who(self) -> str:
        """The package to fix, in words."""
        return self.package or f"the package that provides {self.value}"


def valid_name(name: str) -> bool:
    """Whether a plugin may be called this."""
    return _NAME.match(name) is not None and name != "auto"


def probe_timeout() -> float:
    """Seconds that a plugin may take to list its devices.

    ``TENSORBUS_PROBE_TIMEOUT``, else 20; 180 where drivers are simulated, since the first use of a
    simulated driver compiles it.  A value that is no such time is ignored with a RuntimeWarning.
    """
    otherwise = SIMULATED_TIMEOUT_S if os.environ.get("TENSORBUS_SIMULATE") else DEFAULT_TIMEOUT_S
    text = os.environ.get("TENSORBUS_PROBE_TIMEOUT", "")
    try:
        seconds = float(text or otherwise)
    except ValueError:
        seconds = math.nan
    if math.isfinite(seconds) and seconds > 0:
        return seconds
    warnings.warn(
        f"TENSORBUS_PROBE_TIMEOUT={text!r} is no number of seconds; {otherwise:g} s are used",
        RuntimeWarning,
        stacklevel=2,
    )
    return otherwise


def absent(
    plugin: Announcement, cause: str, fix: str, details: dict[str, str] | None = None
) -> DeviceInfo:
    """The line of a plugin that has no device to offer."""
    return DeviceInfo(
        name=plugin.name,
        plugin=plugin.name,
        index=0,
        available=False,
        description=plugin.value,
        cause=_one_line(cause),
        fix=_one_line(fix),
        evidence=Evidence.UNSTATED,
        details=details or {},
    )


def describe(plugin: Announcement) -> list[DeviceInfo]:
    """Import a plugin and let it list its devices; any exception becomes an absent line."""
    try:
        found = plugin.load()
    except Exception as error:
        cause = f"importing {plugin.value} failed: {_words(error)}"
        return [absent(plugin, cause, f"repair or uninstall {plugin.who}")]
    except SystemExit as error:
        cause = f"importing {plugin.value} tried to end the process: {_words(error)}"
        return [absent(plugin, cause, f"repair or uninstall {plugin.who}")]
    if (problem := check_plugin(plugin, found)) is not None:
        return [problem]
    try:
        return _checked(plugin, found.probe())
    except (Exception, SystemExit) as error:
        cause = f"its probe failed: {_words(error)}"
        return [absent(plugin, cause, f"report this to the authors of {plugin.who}")]


def check_plugin(plugin: Announcement, found: Any) -> DeviceInfo | None:
    """An absent line if an imported object is no plugin of this contract, else None."""
    if (refusal := refused(getattr(found, "api_version", None), plugin.who)) is not None:
        return absent(plugin, refusal.cause, refusal.fix)
    missing = [m for m in ("probe", "open") if not callable(getattr(found, m, None))]
    if missing:
        cause = f"{plugin.value} is no plugin: it has no method {' or '.join(missing)}"
        return absent(plugin, cause, f"repair {plugin.who}")
    return None


def _checked(plugin: Announcement, lines: Any) -> list[DeviceInfo]:
    """What a probe returned, with every line that breaks the contract replaced by an absent one."""
    if not isinstance(lines, Sequence) or not all(isinstance(x, DeviceInfo) for x in lines):
        shown = repr(lines)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        cause = f"its probe returned {shown} instead of a list of DeviceInfo"
        return [absent(plugin, cause, f"repair {plugin.who}")]
    if not lines:
        cause = "its probe found no device and gave no cause"
        return [absent(plugin, cause, f"report this to the authors of {plugin.who}")]
    taken: set[str] = set()
    return [_checked_line(plugin, line, taken) for line in lines]


def _checked_line(plugin: Announcement, line: DeviceInfo, taken: set[str]) -> DeviceInfo:
    prefix = plugin.name + ":"
    problem = ""
    if line.plugin != plugin.name:
        problem = f"it lists a device of plugin {line.plugin!r}"
    elif not (line.name == plugin.name or str(line.name).startswith(prefix)):
        problem = f"it lists {line.name!r}, but its names must begin with {plugin.name!r}"
    elif not all(str(a).startswith(prefix) for a in line.aliases):
        problem = f"it gives {line.name!r} an alias that does not begin with {prefix!r}"
    elif line.available and line.name in taken:
        problem = f"it lists {line.name!r} twice"
    elif not line.available and not (line.cause and line.fix):
        problem = f"it lists {line.name!r} as unavailable without cause and fix"
    elif line.evidence not in tuple(Evidence):
        problem = f"it lists {line.name!r} with the evidence {line.evidence!r}, which there is not"
    elif not isinstance(line.index, int):
        problem = f"it lists {line.name!r} with the index {line.index!r}"
    if problem:
        return absent(plugin, problem, f"repair {plugin.who}")
    taken.add(line.name)
    return line


def _words(error: BaseException) -> str:
    """Type and message of an exception in one line."""
    text = _one_line(str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _one_line(text: str, most: int = 400) -> str:
    text = " ".join(str(text).split())
    return text if len(text) <= most else text[: most - 3] + "..."


# -- in a child process -----------------------------------------------------------------------


def to_json(lines: Sequence[DeviceInfo]) -> str:
    """Lines as text for the parent process."""
    return json.dumps([asdict(line) for line in lines], default=str)


def from_json(text: str) -> list[DeviceInfo]:
    """The reverse of `to_json`; ValueError, KeyError or TypeError on anything else."""
    result = []
    for entry in json.loads(text):
        entry["aliases"] = tuple(entry["aliases"])
        entry["evidence"] = Evidence(entry["evidence"])
        entry["details"] = {str(k): str(v) for k, v in entry["details"].items()}
        result.append(DeviceInfo(**entry))
    return result


class Child:
    """A probe under way in a process of its own; several may run at once.

    One that does not answer in time is asked once more, in a new process, with twice the time: a
    machine under load is no broken driver.

    Args:
        plugin: What to probe.
        timeout_s: When to give up for the first time, counted from now.
    """

    _failure: str
    """Why no process could be started, where there is none."""

    def __init__(self, plugin: Announcement, timeout_s: float) -> None:
        self.plugin, self.timeout_s = plugin, timeout_s
        self._tries = 0
        self._start(timeout_s)

    def _start(self, seconds: float) -> None:
        plugin = self.plugin
        self._tries += 1
        self._deadline = time.monotonic() + seconds
        # Files, not pipes: a grandchild that keeps a pipe open would hold up the reader.
        self._out = tempfile.TemporaryFile()  # noqa: SIM115
        self._err = tempfile.TemporaryFile()  # noqa: SIM115
        self._process: subprocess.Popen[bytes] | None = None
        command = [sys.executable, "-P", "-X", "faulthandler", "-m", f"{__package__}.probe_child"]
        # It ends itself if whoever asks is killed before it has answered.
        command += [plugin.name, plugin.value, plugin.package, str(seconds + _GRACE_S)]
        # The plugin must be found there as it was found here.
        paths = [p or os.getcwd() for p in sys.path]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._out,
                stderr=self._err,
                env=environment,
                start_new_session=True,
            )
        except (OSError, ValueError, TypeError) as error:
            self._failure = f"the process that probes it could not be started: {_words(error)}"

    def result(self) -> list[DeviceInfo]:
        """Wait for the end or the timeout; never raises but for KeyboardInterrupt."""
        try:
            return self._result()
        finally:
            self.close()

    def _result(self) -> list[DeviceInfo]:
        who = self.plugin.who
        if self._process is None:
            return [absent(self.plugin, self._failure, "let Python start processes")]
        try:
            code = self._process.wait(self._deadline - time.monotonic())
        except subprocess.TimeoutExpired:
            self._ask_where()
            if self._tries == 1:
                self.close()
                self._start(RETRY * self.timeout_s)
                return self._result()
            self._kill()
            return [
                absent(
                    self.plugin,
                    f"it did not list its devices within {self.timeout_s:g} s, nor within "
                    f"{RETRY * self.timeout_s:g} s when it was asked again",
                    f"repair its driver or {who}, or give it more time with "
                    "TENSORBUS_PROBE_TIMEOUT (seconds)",
                    self._stderr(),
                )
            ]
        self._out.seek(0)
        text = self._out.read().decode(errors="replace")
        try:
            if code == 0:
                return from_json(text)
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        return [
            absent(
                self.plugin,
                f"it {_ending(code)} while its devices were being listed",
                f"update or reinstall its driver, or repair {who}",
                self._stderr(),
            )
        ]

    def _stderr(self) -> dict[str, str]:
        self._err.seek(0)
        lines = self._err.read().decode(errors="replace").strip().splitlines()
        return {"stderr": "\n".join(lines[-20:])} if lines else {}

    def _ask_where(self) -> None:
        """Let the process write to standard error where it hangs: faulthandler does on SIGABRT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGABRT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2.0)

    def close(self) -> None:
        """End the probe, whether or not it has an answer."""
        self._kill()
        self._out.close()
        self._err.close()

    def _kill(self) -> None:
        """End the process and those that it started, if they are still there."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except OSError:
                process.kill()
            process.wait()


def _ending(code: int) -> str:
    """How a process without a result ended, in words."""
    if code >= 0:
        return f"ended the process with status {code}"
    try:
        number = signal.Signals(-code)
    except ValueError:
        return f"was killed by signal {-code}"
    words = (signal.strsignal(number) or "").split(":")[0].lower()
    return f"crashed with {number.name} ({words})"
