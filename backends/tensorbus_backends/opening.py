"""How a plugin probes and opens a `GridDevice`: it is available once it has proved itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from .check import run_check, settled
from .contract import (
    BackendError,
    CompileError,
    DeviceInfo,
    DeviceUnavailableError,
    Evidence,
    OutOfMemoryError,
)
from .floating import in_default_arithmetic
from .grid import GridDevice

__all__ = ["Terms", "absent", "checked", "expect_index", "tried", "unavailable"]

D = TypeVar("D", bound=GridDevice)
# Operations without which no result is right; others are declared.
_NEEDED = ("add", "mul")


@dataclass(frozen=True)
class Terms:
    """In what plugins differ when a device proves itself.

    Attributes:
        division: Greatest error of ``/`` in ulps that the language allows, if it is not exact.
        square_root: The same for ``sqrt``.
        fix: What to do about a device that fails.
        compiler_fix: The same if its compiler fails; empty means `fix`.
        memory_fix: The same if its memory is full.
    """

    division: str
    square_root: str
    fix: str = "update its driver, or use another device"
    compiler_fix: str = ""
    memory_fix: str = "end other programs that use it, or use another device"


def expect_index(plugin: str, index: int, count: int, kind: str, hint: str = "") -> None:
    """Raise DeviceUnavailableError unless a device of that number exists.

    Args:
        plugin: Name of the plugin.
        index: What `Plugin.open` was given.
        count: Number of devices.
        kind: ``"CUDA"``, for the message.
        hint: What else to do than to choose another.
    """
    if not 0 <= index < count:
        raise DeviceUnavailableError(
            f"{plugin}:{index}",
            f"this process sees {count} {kind} device{'' if count == 1 else 's'}",
            "choose one that `tensorbus devices` lists" + (f", or {hint}" if hint else ""),
        )


@in_default_arithmetic
def checked(name: str, make: Callable[[], D], terms: Terms) -> D:
    """Open a device and let it prove itself; it then declares what was found.

    Args:
        name: Name of the device.
        make: Opens it.
        terms: The plugin's.

    Raises:
        DeviceUnavailableError: It cannot be opened, or is wrong.
    """
    try:
        device = make()
        verdict = run_check(device)
    except DeviceUnavailableError:
        raise
    except BackendError as error:
        raise DeviceUnavailableError(name, *_problem(error, terms)) from error
    wrong = [x for x, exact in verdict.items() if not exact and x.split()[0] in _NEEDED]
    if wrong:
        cause = f"a small kernel gave wrong results on it ({', '.join(wrong)})"
        raise DeviceUnavailableError(name, cause, terms.fix)
    device.capabilities = settled(device.capabilities, verdict, terms.division, terms.square_root)
    inexact = ", ".join(x for x, exact in verdict.items() if not exact)
    if inexact:
        details = {**device.info.details, "inexact": inexact}
        device.info = replace(device.info, details=details)
    return device


def _problem(error: BackendError, terms: Terms) -> tuple[str, str]:
    """Cause and fix for a device that cannot run a small kernel."""
    if isinstance(error, CompileError):
        lines = [line.strip() for line in error.log.splitlines() if line.strip()]
        words = [line for line in lines if "error" in line.lower()]
        words = words or [str(error.args[0]) + (f" ({lines[0]})" if lines else "")]
        cause = f"its compiler fails on a small kernel: {words[0]}"
        return cause, terms.compiler_fix or terms.fix
    if isinstance(error, OutOfMemoryError):
        # What its message advises does not help where nothing has been allocated yet.
        said = str(error).split("; ")[0]
        return f"a small kernel finds no room in its memory ({said})", terms.memory_fix
    return f"a small kernel cannot be run on it ({error})", terms.fix


def tried(line: DeviceInfo, make: Callable[[], GridDevice]) -> DeviceInfo:
    """The line of a device that is opened for that, or why it cannot be.

    Args:
        line: What is known of it before.
        make: `checked` with its arguments.
    """
    try:
        device = make()
    except DeviceUnavailableError as error:
        return unavailable(line, error.cause, error.fix)
    device.empty_cache()
    return device.info


def absent(plugin: str, description: str, cause: str, fix: str, name: str = "") -> DeviceInfo:
    """The line of what is not there: all of a plugin, or what `name` tells."""
    line = DeviceInfo(
        name or plugin, plugin, -1, evidence=Evidence.UNSTATED, description=description
    )
    return unavailable(line, cause, fix)


def unavailable(line: DeviceInfo, cause: str, fix: str) -> DeviceInfo:
    """A line with why the device cannot be used and what to do, each on one line."""
    return replace(line, available=False, cause=" ".join(cause.split()), fix=fix)
