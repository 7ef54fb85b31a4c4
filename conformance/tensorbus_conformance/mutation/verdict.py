"""What became of a mutant, and the scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .coverage import Coverage, limits
from .mutant import Mutant
from .tree import STRATA

__all__ = ["CLASSES", "CAP", "Result", "Score", "cold", "further", "scores", "try_mutant"]

CLASSES = ("caught", "survived", "loud", "import", "crash", "timeout")
"""Caught and survived are silent mutants; the others fail all that they reach, or never start."""

CAP = 0.08
"""Share of a sample that may be called equivalent (and again, speed alone); more are survivors."""

_COLD = (
    "backends/tensorbus_backends/cache.py",
    "backends/tensorbus_backends/units.py",
    "cpu/tensorbus_cpu/kernels.py",
    "cpu/tensorbus_cpu/runtime.py",
    "cpu/tensorbus_cpu/toolchain.py",
    "cpu/tensorbus_cpu/processor.py",
    "opencl/tensorbus_opencl/kernels.py",
    "opencl/tensorbus_opencl/loader.py",
)


def cold(path: str) -> bool:
    """Whether a mutant of a file may change what is built without changing its key in the cache."""
    return path in _COLD


@dataclass
class Result:
    """A mutant that was tried.

    Attributes:
        mutant: Which.
        verdict: One of `CLASSES`.
        reached: Whether what changed was evaluated in a process that judged.
        items: What each item that was judged said: ``wrong``, ``error``, ``pass``, ``missing``,
            ``crash`` or ``timeout``.
        killer: The first cell that failed.
        message: Its first words.
        register: ``equivalent`` or ``speed`` where the register says so.
        excused: Whether that keeps it out of the score.
    """

    mutant: Mutant
    verdict: str = "survived"
    reached: bool = False
    items: dict[str, str] = field(default_factory=dict)
    killer: str = ""
    message: str = ""
    seconds: float = 0.0
    register: str = ""
    excused: bool = False

    def record(self, texts: tuple[str, str]) -> dict[str, Any]:
        """As JSON, with the text before and after."""
        data = asdict(self)
        data["mutant"] = self.mutant.ident
        data |= {k: getattr(self.mutant, k) for k in ("path", "line", "operator", "stratum")}
        data["before"], data["after"] = texts
        return data


def try_mutant(
    ask: Callable[[dict[str, Any]], dict[str, Any]],
    mutant: Mutant,
    groups: Sequence[Sequence[str]],
    coverage: Coverage,
    seed: int,
) -> Result:
    """Judge a mutant: by the first group of items, then, as long as it lives, by the next."""
    result = Result(mutant)
    known = [n for group in groups for n in group if n in coverage.items]
    healthy = {t for n in known for t in coverage.items[n].texts}
    for group in groups:
        todo = list(group)
        # With no item at all it is still seen whether the tree can be imported.
        while todo or not result.seconds:
            if _judge(ask, result, todo, coverage, seed, healthy):
                break
            left = [n for n in todo if n not in result.items]
            if len(left) == len(todo):
                break
            todo = left
        if result.verdict != "survived" or "wrong" in result.items.values():
            break
    _classify(result)
    return result


def further(
    ask: Callable[[dict[str, Any]], dict[str, Any]],
    result: Result,
    groups: Sequence[Sequence[str]],
    coverage: Coverage,
    seed: int,
) -> Result:
    """Judge a survivor by the items that have not judged it yet."""
    left = [[n for n in group if n not in result.items] for group in groups]
    left = [group for group in left if group]
    if not left:
        return result
    more = try_mutant(ask, result.mutant, left, coverage, seed)
    more.items = result.items | more.items
    more.reached |= result.reached
    more.seconds += result.seconds
    if more.verdict != "caught":
        more.verdict = "survived"
        _classify(more)
    return more


def _judge(
    ask: Callable[[dict[str, Any]], dict[str, Any]],
    result: Result,
    todo: Sequence[str],
    coverage: Coverage,
    seed: int,
    healthy: set[str],
) -> bool:
    """Judge items in one process; whether there is no use in another one for those left."""
    mutant = result.mutant
    took = sum(map(coverage.seconds, todo))
    known = coverage.known_bad
    answer = ask(
        {
            "kind": "mutant", "mutant": mutant.record(), "items": list(todo), "stop": True,
            "level": coverage.level, "seed": seed, "cold": cold(mutant.path),
            "known": {n: known[n] for n in todo if n in known},
            **limits(took * (4 if cold(mutant.path) else 1), "opencl"
                     if mutant.path.startswith("opencl/") else "cpu"),
        }
    )  # fmt: skip
    result.seconds += answer["seconds"]
    imported = opened = False
    states: dict[str, str] = {}
    for m in answer["messages"]:
        imported = imported or "imported" in m
        opened = opened or "opened" in m
        if "property" in m:
            _note(result, states, m, known)
        if "missing" in m:
            result.items[m["missing"]] = "missing"
            result.reached = True
        if "end" in m:
            result.items[m["end"]] = states.get(m["end"], "pass")
            fresh = m["end"] in coverage.items and bool(set(m["texts"]) - healthy)
            text = mutant.edit is not None and mutant.edit.text
            # A prelude is no part of a kernel's own text.
            plain = not text or mutant.path.endswith("dialect.py")
            result.reached |= bool(m["active"]) and (plain or fresh)
        if "broken" in m:
            result.message = result.message or m["broken"]
            result.reached |= bool(m["active"])
    if not imported:
        result.verdict = "timeout" if answer["status"] == "timeout" else "import"
        if answer["status"].startswith("SIG"):
            result.verdict = "crash"
        result.reached = True
        return True
    left = [n for n in todo if n not in result.items]
    stopped = "wrong" in states.values()
    if not opened and todo:
        result.verdict = "loud" if answer["status"].startswith("exit") else "crash"
        if answer["status"] == "timeout":
            result.verdict = "timeout"
        result.reached = True
        return True
    if left and not answer["status"].startswith("exit"):
        # It died in the first item that it did not finish.
        state = "timeout" if answer["status"] == "timeout" else "crash"
        wrong = states.get(left[0], "") == "wrong"
        result.items[left[0]] = "wrong" if wrong else state
        result.killer = result.killer or f"{left[0]} ({answer['status']})"
        result.reached = True
        return stopped or state == "timeout"
    if left and not stopped:
        # It ended by itself: sys.exit, or an exception outside of any item.
        result.items[left[0]] = "error"
        result.reached = True
    return stopped


def _note(
    result: Result, states: dict[str, str], m: Mapping[str, Any], known: Mapping[str, list[str]]
) -> None:
    name, state = m["item"], m["state"]
    if state in ("pass", "unsupported") or m["property"] in known.get(name, ()):
        return
    if not result.killer or (state == "fail" and "error" in result.killer.split(": ")[-1]):
        result.killer = f"{name}/{m['property']}: {state}"
        result.message = m["message"]
    if state == "error":
        states.setdefault(name, "error")
    else:
        states[name] = "wrong"


def _classify(result: Result) -> None:
    if result.verdict in ("import", "loud", "crash", "timeout"):
        return
    found = set(result.items.values())
    if "wrong" in found:
        result.verdict = "caught"
    elif found & {"error", "crash", "timeout"}:
        if found & {"pass", "missing"}:
            result.verdict = "caught"
        else:
            result.verdict = next(
                name
                for state, name in (("timeout", "timeout"), ("crash", "crash"), ("error", "loud"))
                if state in found
            )


@dataclass
class Score:
    """Of one stratum, or of all."""

    name: str
    drawn: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CLASSES, 0))
    unreached: int = 0
    equivalent: int = 0
    speed: int = 0

    @property
    def silent(self) -> int:
        """Silent mutants that count."""
        return self.counts["caught"] + self.survived

    @property
    def survived(self) -> int:
        return self.counts["survived"] - self.equivalent - self.speed

    @property
    def rate(self) -> float:
        """Silent mutants that were caught, as a share; 1 where there are none."""
        return self.counts["caught"] / self.silent if self.silent else 1.0

    @property
    def raw(self) -> float:
        """All mutants that failed in whatever way, as a share of those drawn."""
        return 1.0 - self.counts["survived"] / self.drawn if self.drawn else 1.0


def scores(results: Iterable[Result]) -> list[Score]:
    """The scores of the strata, and of all together under ``all``."""
    table = {name: Score(name) for name in (*STRATA, "all")}
    for r in results:
        for score in (table[r.mutant.stratum], table["all"]):
            score.drawn += 1
            score.counts[r.verdict] += 1
            if r.verdict == "survived":
                score.unreached += not r.reached
                if r.excused:
                    score.equivalent += r.register == "equivalent"
                    score.speed += r.register == "speed"
    return list(table.values())
