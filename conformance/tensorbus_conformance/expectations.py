"""Known failures of a device, in a TOML file of its vendor: ``tensorbus conform --expect FILE``.

    [[known]]
    cell = "exp/mychip/float32/*/values"    # glob, part by part
    state = "fail"                          # fail, error, crash, timeout or fallback
    reason = "the table of exp lacks its last entry"
    link = "https://mychip.example/issues/17"
    expires = 2027-01-31                    # the last day on which it is excused

An excused cell is reported as ``known``, never as a pass.  The file has to stay true: a cell that
does not fail as it says, an entry that has expired and an entry that matches no cell fail the run.
"""

from __future__ import annotations

import datetime
import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import tensorbus as tb
from tensorbus._devices import registry
from tensorbus_backends import dtypes as dt

from .judge.items import oracle_name, subjects
from .judge.parts import load as load_parts
from .judge.properties import PROPERTIES
from .runner import cells_of
from .sound import settle
from .survey import Survey
from .sweeps import functions

__all__ = [
    "EXCUSABLE",
    "FULL",
    "Entry",
    "Expectations",
    "Vocabulary",
    "full_list",
    "load",
    "vocabulary",
]

EXCUSABLE = ("fail", "error", "crash", "timeout", "fallback")
"""States that can be expected.  "vacuous" and "not run" show nothing that could be known."""

_PARTS = ("op", "device", "dtype", "variant", "property")
_KEYS = ("cell", "state", "reason", "link", "expires")


@dataclass(frozen=True)
class Vocabulary:
    """The names that an entry may use: ops, plugins and devices, dtypes, variants, properties.

    Attributes:
        aliases: Further names of a device, by its name.
    """

    ops: Sequence[str]
    devices: Sequence[str]
    dtypes: Sequence[str]
    variants: Sequence[str]
    properties: Sequence[str]
    aliases: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Entry:
    """One known failure; `number` counts the entries of its file from 1."""

    number: int
    cell: str
    state: str
    reason: str
    link: str
    expires: datetime.date

    def matches(self, cell: str, aliases: Mapping[str, Sequence[str]]) -> bool:
        """Whether a cell's name, or the same with another name of its device, is meant.

        A plugin's name alone means all its devices.
        """
        parts, wanted = cell.split("/"), self.cell.split("/")
        device = parts[1]
        names = (device, device.split(":")[0], *aliases.get(device, ()))
        return any(fnmatchcase(n, wanted[1]) for n in names) and all(
            fnmatchcase(p, w)
            for p, w in zip(parts[:1] + parts[2:], wanted[:1] + wanted[2:], strict=True)
        )

    def record(self) -> dict[str, str]:
        """As JSON."""
        return {
            "cell": self.cell,
            "state": self.state,
            "reason": self.reason,
            "link": self.link,
            "expires": self.expires.isoformat(),
        }

    def __str__(self) -> str:
        return f"entry {self.number} ({self.cell})"


@dataclass(frozen=True)
class Expectations:
    """The entries of a file, with the names that they may use."""

    file: Path
    entries: Sequence[Entry]
    names: Vocabulary
    today: datetime.date

    def of(self, cell: str) -> list[Entry]:
        """The entries in force that mean a cell."""
        return [
            e
            for e in self.entries
            if e.expires >= self.today and e.matches(cell, self.names.aliases)
        ]

    def excuse(self, cell: str, state: str) -> Entry | None:
        """The entry that expects a cell in this state."""
        return next((e for e in self.of(cell) if e.state == state), None)

    def contradiction(self, cell: str, state: str) -> str:
        """What an entry says wrongly of a cell, or nothing.

        A cell that was not run says nothing about an entry, and fails the run by itself.
        """
        entries = self.of(cell)
        if not entries or state == "not run" or any(e.state == state for e in entries):
            return ""
        expected = " or ".join(sorted({e.state for e in entries}))
        what = "unexpected pass" if state == "pass" else f"unexpected {state}"
        return f"{what}: {cell} was expected to be {expected} by {entries[0]}; correct the file"

    def expired(self) -> list[str]:
        """A line for every entry whose day has gone."""
        return [
            f"expired: {e} was excused until {e.expires}; mend the device, or look again and "
            "choose a new day"
            for e in self.entries
            if e.expires < self.today
        ]

    def unmatched(self, cells: Iterable[str], judged: Sequence[str]) -> list[str]:
        """A line for every entry about the judged devices that means none of their cells.

        Args:
            cells: All cells that these devices have at any level and for any op.
            judged: Their names.
        """
        left = [e for e in self.entries if self._about(e, judged)]
        for cell in cells:
            left = [e for e in left if not e.matches(cell, self.names.aliases)]
        return [f"matches no cell: {e}; correct or remove it" for e in left]

    def idle(self, judged: Sequence[str]) -> list[str]:
        """The entries about no judged device, which this run can say nothing about."""
        return [str(e) for e in self.entries if not self._about(e, judged)]

    def _about(self, entry: Entry, judged: Sequence[str]) -> bool:
        wanted = entry.cell.split("/")[1]
        return any(
            fnmatchcase(name, wanted)
            for device in judged
            for name in (device, device.split(":")[0], *self.names.aliases.get(device, ()))
        )

    def apply(self, data: dict[str, Any], cells: Iterable[str]) -> None:
        """Excuse what is known in a report, and enter what the file says wrongly.

        Args:
            data: The report; cells, summary, `passed` and `expectations` are rewritten.
            cells: All cells that its devices have at any level and for any op (`full_list`).
        """
        judged = [d["name"] for d in data["devices"] if d["available"]]
        wrong = [*self.unmatched(cells, judged), *self.expired()]
        for cell in data["cells"]:
            said = self.contradiction(cell["cell"], cell["state"])
            entry = self.excuse(cell["cell"], cell["state"])
            if said:
                wrong.append(said)
            elif entry is not None:
                counts = data["summary"][cell["device"]]
                counts[cell["state"]] -= 1
                if not counts[cell["state"]]:
                    del counts[cell["state"]]
                counts["known"] = counts.get("known", 0) + 1
                cell["state"], cell["expected"] = "known", entry.record()
        states = [c["state"] for c in data["cells"]]
        data["expectations"] = {
            "file": str(self.file),
            "entries": len(self.entries),
            "known": states.count("known"),
            "idle": self.idle(judged),
            "problems": wrong,
        }
        settle(data)


def vocabulary() -> Vocabulary:
    """The names that this installation knows; absent devices are known by their plugin."""

    names = [*PROPERTIES, *(p for made in load_parts().values() for p in made.properties)]
    found = tb.devices()
    return Vocabulary(
        ops=subjects(),
        devices=sorted({a.name for a in registry.plugins()} | {d.name for d in found}),
        dtypes=[d.name for d in dt.ALL],
        variants=("portable", "native"),
        properties=[*dict.fromkeys(names), "exhaustive32"],
        aliases={d.name: d.aliases for d in found},
    )


FULL: dict[str, tuple[str, Sequence[str] | None]] = {"full": ("exhaustive", None)}
"""The list of a survey that `full_list` takes."""


def full_list(found: Sequence[Survey]) -> list[str]:
    """All cells of devices: every op, at the level that has the most, sweeps included.

    Args:
        found: The devices, surveyed with the list `FULL`.
    """

    cells = []
    for item in (i for one in found for i in one.items.get("full", ())):
        cells += [f"{item.name}/{p}" for p in cells_of(item, "exhaustive")]
        if (item.dtype, item.variant) == ("float32", "portable") and (
            oracle_name(item.op) in functions()
        ):
            cells.append(f"{item.name}/exhaustive32")
    return cells


def load(path: Path, names: Vocabulary, today: datetime.date | None = None) -> Expectations:
    """Read a file of expectations.

    Raises:
        ValueError: It is unreadable, or says something that no entry may say.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not readable as TOML: {error}") from None
    for key in data:
        if key != "known":
            raise ValueError(f"{path}: unknown key {key!r}; entries begin with [[known]]")
    known = data.get("known", [])
    if not isinstance(known, list) or not all(isinstance(k, dict) for k in known):
        raise ValueError(f"{path}: 'known' is no list of entries; begin each with [[known]]")
    try:
        entries = [_entry(i, raw, names) for i, raw in enumerate(known, 1)]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return Expectations(path, entries, names, today or datetime.datetime.now(datetime.UTC).date())


def _entry(number: int, raw: Mapping[str, Any], names: Vocabulary) -> Entry:
    where = f"entry {number} ({raw.get('cell', 'without cell')})"
    for key in raw:
        if key not in _KEYS:
            raise ValueError(f"{where}: unknown key {key!r}{_hint(key, _KEYS)}")
    for key in _KEYS:
        if key not in raw:
            raise ValueError(f"{where}: {key!r} is missing; an entry has {', '.join(_KEYS)}")
    for key in ("cell", "state", "reason", "link"):
        if not isinstance(raw[key], str) or not raw[key].strip():
            raise ValueError(f"{where}: {key!r} is no text, or empty")
    expires = raw["expires"]
    if not isinstance(expires, datetime.date) or isinstance(expires, datetime.datetime):
        raise ValueError(f"{where}: 'expires' is no date; write 2027-01-31, without quotes")
    if raw["state"] not in EXCUSABLE:
        raise ValueError(f"{where}: state {raw['state']!r} is none of {', '.join(EXCUSABLE)}")
    _check_cell(where, raw["cell"], names)
    return Entry(number, raw["cell"], raw["state"], raw["reason"], raw["link"], expires)


def _check_cell(where: str, cell: str, names: Vocabulary) -> None:
    parts = cell.split("/")
    if len(parts) != len(_PARTS):
        raise ValueError(f"{where}: cell is not OP/DEVICE/DTYPE/VARIANT/PROPERTY")
    lists = (names.ops, names.devices, names.dtypes, names.variants, names.properties)
    for kind, pattern, known in zip(_PARTS, parts, lists, strict=True):
        if kind == "device":
            # A number that this machine lacks ("opencl:3") is absent, not misspelt.
            pattern, known = pattern.split(":")[0], [*known, *_plugins(known)]
        if not any(fnmatchcase(name, pattern) for name in known):
            raise ValueError(f"{where}: unknown {kind} {pattern!r}{_hint(pattern, known)}")


def _plugins(devices: Sequence[str]) -> list[str]:
    return [name.split(":")[0] for name in devices]


def _hint(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 1, 0.5)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known: {', '.join(known)}" if len(known) <= 25 else ""
