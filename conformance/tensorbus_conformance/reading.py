"""Reading reports: what is no whole report of the schema is refused in one line.

The checks are those of docs/report.schema.json, and what a schema cannot say: cells belong to the
report's devices, counts and verdict follow from the cells.
"""

from __future__ import annotations

import json
import stat
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .judge.items import LEVELS, STATES
from .sound import sound

__all__ = ["EVIDENCE", "MERGED", "SCHEMA", "read"]

SCHEMA = "tensorbus-conformance/1"

MERGED = "tensorbus-conformance-merged/1"

EVIDENCE = ("hardware", "simulated", "compiled", "unstated")

_EXCUSABLE = ("fail", "error", "crash", "timeout", "fallback")

_MOST = 1 << 200
"""Beyond any number of a report; what is larger or NaN is none."""

Check = Callable[[Any, str], None]


def read(path: Path, schemas: Sequence[str]) -> dict[str, Any]:
    """The report in a file, of one of these schemas; ValueError, in one line, if there is none."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise ValueError("it is no file")
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else _words(error)
        raise ValueError(f"{_shown(str(path))}: not a readable report: {why}") from None
    found = data.get("schema") if isinstance(data, dict) else None
    if not isinstance(found, str) or found not in schemas:
        wanted = " or ".join(map(repr, schemas))
        raise ValueError(
            f"{_shown(str(path))}: schema is {_shown(repr(found))}, what is read here is {wanted}"
        )
    try:
        (_RUN if found == SCHEMA else _MERGED)(data, "")
        _consistent(data)
    except ValueError as error:
        raise ValueError(f"{_shown(str(path))}: not a whole report: {error}") from None
    return dict(data)


def _words(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return _shown(str(error))


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"it has {text}, which is no number of JSON")


def _shown(text: str, most: int = 200) -> str:
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= most else text[: most - 3] + "..."


# -- what values may be -----------------------------------------------------------------------


def _fail(value: Any, where: str, wanted: str) -> NoReturn:
    shown = _shown(repr(value), 60) if isinstance(value, (str, int, float)) else _kind(value)
    raise ValueError(f"{_shown(where) or 'it'} is {shown}, not {wanted}")


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", type(None): "null"}.get(type(value), "something")


def _encodable(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{_shown(where)} has half of a surrogate pair") from None


def _is(kind: type | tuple[type, ...], words: str) -> Check:
    def check(value: Any, where: str) -> None:
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            _fail(value, where, words)
        if isinstance(value, str):
            _encodable(value, where)
        elif isinstance(value, (int, float)) and not -_MOST <= value <= _MOST:
            _fail(value, where, words)

    return check


_TEXT = _is(str, "text")
_BOOL = _is(bool, "true or false")
_NUMBER = _is((int, float), "a number")
_WHOLE = _is(int, "a whole number")
_ERROR = _is((int, float, str), "a number")
_OBJECT = _is(dict, "an object")


def _among(names: Sequence[str | None]) -> Check:
    def check(value: Any, where: str) -> None:
        if not (value is None or isinstance(value, str)) or value not in names:
            _fail(value, where, f"one of {', '.join(str(n) for n in names)}")

    return check


def _list(each: Check, least: int = 0) -> Check:
    def check(value: Any, where: str) -> None:
        if not isinstance(value, list) or len(value) < least:
            _fail(value, where, "a list" if not least else "a list with something in it")
        for k, v in enumerate(value):
            each(v, f"{where}[{k}]")

    return check


def _map(each: Check) -> Check:
    def check(value: Any, where: str) -> None:
        _OBJECT(value, where)
        for k, v in value.items():
            _encodable(k, where)
            each(v, f"{where}.{k}")

    return check


def _object(
    required: Mapping[str, Check],
    optional: Mapping[str, Check] | None = None,
    closed: bool = False,
) -> Check:
    known = {**required, **(optional or {})}

    def check(value: Any, where: str) -> None:
        _OBJECT(value, where)
        dot = f"{where}." if where else ""
        for key in required:
            if key not in value:
                raise ValueError(f"{_shown(where) or 'it'} has no {key!r}")
        for key, v in value.items():
            if key in known:
                known[key](v, dot + key)
            elif closed:
                raise ValueError(f"{_shown(dot + key)} is not known here")

    return check


_CHANGES = _list(_object(dict.fromkeys(("cell", "was", "now"), _TEXT), closed=True))

_EXPECTED = _object(
    {**dict.fromkeys(("cell", "reason", "link", "expires"), _TEXT), "state": _among(_EXCUSABLE)},
    closed=True,
)

_CELL = _object(
    {
        **dict.fromkeys(("cell", "op", "device", "dtype", "property", "message", "unit"), _TEXT),
        **dict.fromkeys(("witness", "library", "evidence"), _TEXT),
        "variant": _among(("portable", "native")),
        "state": _among((*STATES, "known")),
        "worst_error": _ERROR,
        "bound": _ERROR,
        "decided": _WHOLE,
        "seconds": _NUMBER,
    },
    {"expected": _EXPECTED, "served": _among(("", "native", "portable", "decomposed", "fallback"))},
)

_DEVICE = _object(
    {
        **dict.fromkeys(("name", "description", "cause", "fix"), _TEXT),
        "aliases": _list(_TEXT),
        "evidence": _among((*EVIDENCE, None)),
        "details": _map(_TEXT),
        "available": _BOOL,
    },
    {"capabilities": _OBJECT},
)

_EXPECTATIONS = _object(
    {
        "file": _TEXT,
        "entries": _WHOLE,
        "known": _WHOLE,
        "idle": _list(_TEXT),
        "problems": _list(_TEXT),
    },
    closed=True,
)

_BASELINE = _object(
    {
        "file": _TEXT,
        "created": _TEXT,
        "passed": _BOOL,
        **dict.fromkeys(("worse", "lost", "new", "improved", "changed"), _CHANGES),
        "still": _WHOLE,
        "outside": _WHOLE,
        "notes": _list(_TEXT),
    },
    closed=True,
)


def _counts(value: Any, where: str) -> None:
    _object({"cells": _WHOLE, "pass": _WHOLE})(value, where)
    _map(_WHOLE)(value, where)


_HEAD: dict[str, Check] = {
    "created": _TEXT,
    "complete": _BOOL,
    "passed": _BOOL,
    "level": _among(LEVELS),
    "seed": _WHOLE,
    "asked": _object({}, {"unavailable": _list(_TEXT)}),
    "seconds": _NUMBER,
    "machine": _map(_TEXT),
    "devices": _list(_DEVICE),
    "summary": _map(_counts),
}

_MORE: dict[str, Check] = {
    "lost": _map(_TEXT),
    "problems": _map(_list(_TEXT)),
    "expectations": _EXPECTATIONS,
    "baseline": _BASELINE,
}

_RUN = _object({"schema": _TEXT, **_HEAD, "cells": _list(_CELL)}, _MORE)


def _of_report(value: Any, where: str) -> None:
    _CELL(value, where)
    _object({"report": _TEXT})(value, where)


_MERGED = _object(
    {
        "schema": _TEXT,
        "created": _TEXT,
        "complete": _BOOL,
        "passed": _BOOL,
        "reports": _list(
            _object({"name": _TEXT, "file": _TEXT, "verdict": _BOOL, **_HEAD}, _MORE), least=1
        ),
        "cells": _list(_of_report),
    },
    closed=True,
)


# -- what follows from the cells --------------------------------------------------------------


def _consistent(data: Mapping[str, Any]) -> None:
    """Raise ValueError if counts, names or the verdict contradict the cells."""
    merged = data["schema"] == MERGED
    runs = data["reports"] if merged else [data]
    cells: dict[str, list[Any]] = {run.get("name", "") if merged else "": [] for run in runs}
    if len(cells) < len(runs):
        raise ValueError("two of its reports have one name")
    for cell in data["cells"]:
        name = cell["report"] if merged else ""
        if name not in cells:
            raise ValueError(f"a cell is of report {_shown(repr(name))}, which is not in it")
        cells[name].append(cell)
    for run in runs:
        _consistent_run(run, cells[run.get("name", "") if merged else ""])
    if merged and data["passed"] and not all(run["passed"] for run in runs):
        raise ValueError("it says that it passed, but not all of its reports did")


def _consistent_run(run: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> None:
    names = {d["name"] for d in run["devices"]}
    for device in run["devices"]:
        if device["available"] and device["evidence"] is None:
            raise ValueError(f"its device {_shown(device['name'])} has no evidence")
    counted: dict[str, Counter[str]] = {}
    for cell in cells:
        parts = [cell[key] for key in ("op", "device", "dtype", "variant", "property")]
        if cell["cell"] != "/".join(parts):
            raise ValueError(f"the cell {_shown(repr(cell['cell']))} is of {'/'.join(parts)}")
        counted.setdefault(cell["device"], Counter())[cell["state"]] += 1
        if (cell["state"] == "known") != ("expected" in cell):
            raise ValueError(f"{_shown(cell['cell'])} is known without saying why, or otherwise")
    if len({c["cell"] for c in cells}) < len(cells):
        raise ValueError("a cell is in it twice")
    for device in {*counted, *run["summary"]} - names:
        raise ValueError(f"it has no device {_shown(repr(device))}, which its cells are of")
    for device in {*counted, *run["summary"]}:
        found = counted.get(device, Counter())
        said = run["summary"].get(device, {"cells": 0, "pass": 0})
        if said["cells"] != found.total() or any(
            said.get(s, 0) != found[s] for s in {*found, *said} - {"cells"}
        ):
            raise ValueError(f"its summary of {_shown(device)} does not count its cells")
    states = {c["state"] for c in cells}
    if run["passed"] and not (
        sound(run) and "pass" in states and states <= {"pass", "unsupported", "known"}
    ):
        raise ValueError("it says that it passed, but not all of it did")
    if "baseline" in run and run["baseline"]["passed"]:
        against = run["baseline"]
        if not sound(run) or any(against[k] for k in ("worse", "lost", "new")):
            raise ValueError("it says that it passed against a baseline, but it did not")
