"""docs/bits.json: reading, writing, comparing, and when a digest may change.

The digests of the calls are ``out``, ``vjp`` and ``jvp``; ``flushed`` holds those of a device that
flushes subnormals where they are others, as `ref` computes them in that mode; three of them where
it matters what is called tiny, which IEEE 754 leaves open (`flushing.TININESS`): a device has to
agree with one reading in all calls of an op.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tensorbus as tb
from tensorbus_backends.flushing import TININESS, flushing

from ..judge.planned import planned
from .replay import COTANGENT, TANGENT, Call, digest, dtypes_of, operands, results

__all__ = [
    "DOCS",
    "Book",
    "Refused",
    "check",
    "due",
    "fresh",
    "load",
    "order_version",
    "record",
    "warm",
]

SCHEMA = 1
DOCS = Path(__file__).parents[3] / "docs"

_ABOUT = (
    "Digests of the results' bits of every public op, forward (out) and backward (vjp, jvp), in "
    "reproducible mode; see docs/order.md. Written by: make bits"
)


class Refused(Exception):
    """The file may not be written: one line for each reason."""


@dataclass
class Book:
    """The file.

    Attributes:
        order: Version of the written order that the digests belong to.
        calls: Calls with their digests, by qualified name.
    """

    order: int
    calls: dict[str, list[dict[str, Any]]]

    def text(self) -> str:
        """As it is written: one line a call."""
        head = {
            "schema": SCHEMA, "about": _ABOUT, "order": self.order,
            "cotangents": list(COTANGENT), "tangents": list(TANGENT),
        }  # fmt: skip
        lines = [f" {json.dumps(k)}: {json.dumps(v)}," for k, v in head.items()]
        ops = []
        for name in sorted(self.calls):
            calls = ",\n".join(
                "   " + json.dumps(c, separators=(",", ":")) for c in self.calls[name]
            )
            ops.append(f"  {json.dumps(name)}: [\n{calls}\n  ]")
        body = ",\n".join(ops)
        return "{\n" + "\n".join(lines) + '\n "calls": {\n' + body + "\n }\n}\n"


def load(path: Path) -> Book:
    """The book in a file, an empty one where there is no file; ValueError if it is of no use."""
    if not path.exists():
        return Book(0, {})
    data = json.loads(path.read_text())
    if data.get("schema") != SCHEMA:
        raise ValueError(f"{path} has schema {data.get('schema')}, this program reads {SCHEMA}")
    if (data["cotangents"], data["tangents"]) != (list(COTANGENT), list(TANGENT)):
        raise ValueError(f"{path} has other cotangents or tangents than this program")
    return Book(data["order"], data["calls"])


def order_version(page: Path) -> int:
    """The version that docs/order.md states; ValueError if it states none or several."""
    found = re.findall(r"^This is version (\d+) of the written order\b", page.read_text(), re.M)
    if len(found) != 1:
        raise ValueError(f"{page} states {len(found)} versions of the written order, not one")
    return int(found[0])


def due(name: str, call: Call) -> tuple[str, ...]:
    """Which digests a call has."""
    backward = tb.FUNCTIONS[name].differentiable and any(
        "float" in o["dtype"] for o in operands(call)
    )
    return ("out", "vjp", "jvp") if backward else ("out",)


def fresh(name: str, call: Call, device: tb.Device, kind: str, flushes: bool = False) -> str:
    """The digest of what a device gives now."""
    return digest(results(name, call, device, kind), flushes)


def recorded(call: Call, kind: str, flushes: bool) -> list[str]:
    """The digests that a device may give: one, or one for each of `TININESS`."""
    others: Mapping[str, Any] = call.get("flushed", {}) if flushes else {}
    value: str | list[str] = others.get(kind, call[kind])
    return value if isinstance(value, list) else [value]


def usable(call: Call, device: tb.Device) -> bool:
    """Whether a device has all dtypes of a call."""
    return dtypes_of(call) <= device.capabilities.dtypes


def _attempt(name: str, call: Call, kind: str, device: tb.Device) -> None:
    results(name, call, device, kind)


def warm(names: Iterable[str], calls: Mapping[str, Sequence[Call]], device: tb.Device) -> None:
    """Compile all kernels of these ops' calls at once: a third of the time of one by one."""
    if device.backend.dialect is None:
        return
    each = [
        partial(_attempt, name, call, kind)
        for name in names
        for call in calls[name]
        if usable(call, device)
        for kind in due(name, call)
    ]
    # A kernel that does not compile is met again, alone, by the call that needs it.
    with suppress(Exception):
        device.warm(planned(device, each))


def check(
    name: str, calls: Iterable[Call], device: tb.Device, flushes: bool | None = None
) -> tuple[int, list[str]]:
    """Compare an op's digests.

    Args:
        name: The function.
        calls: Its recorded calls.
        device: Where they are made again.
        flushes: Which set the device is held to; by default what it declares.

    Returns:
        How many digests were compared, and a line for each that differs.
    """
    if flushes is None:
        flushes = device.capabilities.subnormals == "flush"
    count, problems = 0, []
    readings = set(range(len(TININESS)))
    for k, call in enumerate(calls):
        if not usable(call, device):
            continue
        for kind in due(name, call):
            count += 1
            text = f"{name}, call {k}, {kind}"
            try:
                got = fresh(name, call, device, kind, flushes)
            except Exception as error:
                problems.append(f"{text}: {type(error).__name__}: {error}")
                continue
            wanted = recorded(call, kind, flushes)
            agreed = {r for r in readings if wanted[r % len(wanted)] == got}
            if not agreed:
                problems.append(f"{text}: {got}, recorded {' or '.join(wanted)}")
            readings = agreed or readings
    return count, problems


def _digests(name: str, call: Call, device: tb.Device) -> dict[str, Any]:
    """A call with all its digests, made by `ref`."""
    found = {k: v for k, v in call.items() if k not in ("out", "vjp", "jvp", "flushed")}
    other: dict[str, str | list[str]] = {}
    for kind in due(name, call):
        found[kind] = fresh(name, call, device, kind)
        readings = []
        for tiny in TININESS:
            with flushing(tiny):
                readings.append(fresh(name, call, device, kind, flushes=True))
        if len(set(readings)) > 1:
            other[kind] = readings
        elif readings[0] != found[kind]:
            other[kind] = readings[0]
    return found | ({"flushed": other} if other else {})


def record(
    docs: Path = DOCS,
    changelog: Path | None = None,
    names: Iterable[str] | None = None,
    propose: Callable[[str], list[Call]] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Book:
    """Make every digest again on `ref`, add calls of ops that have none, and write the file.

    Args:
        docs: The directory of bits.json and order.md.
        changelog: CHANGELOG.md, by default the one beside `docs`.
        names: Functions to look at, by default all.
        propose: What gives calls for a function without any.
        say: What is done with a line about each function.

    Raises:
        Refused: A recorded digest changed and docs/order.md states no newer version, or
            CHANGELOG.md does not name it.
    """
    path, device = docs / "bits.json", tb.get_device("ref")
    book, version = load(path), order_version(docs / "order.md")
    if version < book.order:
        raise Refused(f"docs/order.md is version {version}, {path} was made by {book.order}")
    made: dict[str, list[dict[str, Any]]] = dict(book.calls)
    changed: list[str] = []
    for name in sorted(tb.FUNCTIONS) if names is None else names:
        calls: list[Any] = list(book.calls.get(name) or (propose(name) if propose else []))
        made[name] = [_digests(name, c, device) for c in calls]
        changed += _changes(name, book.calls.get(name, []), made[name])
        say(f"{name}: {len(calls)} calls")
    gone = sorted(set(made) - set(tb.FUNCTIONS))
    changed += [f"{name} is no public op any more" for name in gone]
    for name in gone:
        del made[name]
    if changed and version == book.order:
        raise Refused(
            "\n".join(changed) + f"\ndocs/order.md is version {version} still: a change of bits "
            "needs a new version there and a line in CHANGELOG.md"
        )
    log = (changelog or docs.parent / "CHANGELOG.md").read_text()
    if f"ersion {version} of the written order" not in " ".join(log.split()):
        raise Refused(f"CHANGELOG.md has no line with 'version {version} of the written order'")
    new = Book(version, made)
    path.write_text(new.text())
    return new


def _changes(name: str, old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[str]:
    """A line for each digest that was there and is another one now."""
    found = []
    for k, (before, after) in enumerate(zip(old, new, strict=False)):
        for kind in (kind for kind in ("out", "vjp", "jvp") if kind in before):
            for flushes in (False, True):
                was = recorded(before, kind, flushes)
                now = recorded(after, kind, flushes) if kind in after else ["nothing"]
                if was != now:
                    mode = ", flushing" if flushes else ""
                    found.append(f"{name}, call {k}, {kind}{mode}: {now}, recorded {was}")
    return found
