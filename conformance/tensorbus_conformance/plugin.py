"""The same cells for pytest: ``pytest --pyargs tensorbus_conformance --device opencl:0 -n auto``.

An item of pytest is an item of the judge; its properties are recorded in it, and it fails with the
list of those that did not pass.  Items of one op share an xdist group (``--dist loadgroup``), so
that nothing is compiled twice.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .expectations import Expectations

__all__ = ["pytest_addoption", "pytest_generate_tests"]

EXPECTED: pytest.StashKey[Expectations | None] = pytest.StashKey()

# Functions import what they need: every pytest of an environment with tensorbus loads this file.


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the conformance suite."""
    group = parser.getgroup("tensorbus conformance")
    options: dict[str, dict[str, Any]] = {
        "--device": {"default": None, "help": "devices to judge, separated by commas"},
        "--ops": {"default": None, "help": "ops to judge, separated by commas"},
        "--level": {"default": "smoke", "help": "smoke, standard or exhaustive"},
        "--expect": {"default": None, "help": "known failures (TOML)"},
        "--data-seed": {"type": int, "default": 0, "help": "seed of all data"},
    }
    for name, settings in options.items():
        # Another plugin may own the name; its meaning is then ours to read, not to change.
        with contextlib.suppress(ValueError):
            group.addoption(name, **settings)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each item."""
    if "conformance_item" not in metafunc.fixturenames:
        return
    from .cli import UsageError, choose_devices, choose_ops, expected_failures
    from .expectations import FULL, full_list
    from .survey import survey

    option = metafunc.config.getoption
    try:
        devices = choose_devices(option("--device"))
        lists = {"run": (option("--level"), choose_ops(option("--ops")))}
        # Opened in other processes: what cannot be opened does not end the collection.
        surveyed = survey(devices, {**lists, **(FULL if option("--expect") else {})})
        found = [item for one in surveyed for item in one.items.get("run", ())]
        file = option("--expect")
        expected = expected_failures(Path(file) if file else None)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None
    absent = [one.line for one in surveyed if not one.line.available]
    if absent:
        raise pytest.UsageError(
            "; ".join(f"{d.name} is unavailable: {d.cause}. To fix it: {d.fix}" for d in absent)
        )
    if declared := [f"{s.info.name}: {p}" for s in surveyed for p in s.contradictions]:
        raise pytest.UsageError("; ".join(declared))
    if expected is not None:
        wrong = expected.unmatched(full_list(surveyed), [d.name for d in devices])
        if wrong := [*wrong, *expected.expired()]:
            raise pytest.UsageError("\n".join(f"{expected.file}: {line}" for line in wrong))
    metafunc.config.stash[EXPECTED] = expected
    metafunc.parametrize(
        "conformance_item",
        [
            pytest.param(i, id=i.name, marks=pytest.mark.xdist_group(f"{i.device}/{i.op}"))
            for i in found
        ],
    )


@pytest.fixture
def conformance_expected(request: pytest.FixtureRequest) -> Expectations | None:
    """The known failures of ``--expect``."""
    return request.config.stash.get(EXPECTED, None)


@pytest.fixture
def conformance_cells(
    conformance_item: Any, request: pytest.FixtureRequest, record_property: Any
) -> list[dict[str, Any]]:
    """Outcomes of the item's cells, also recorded as properties of the test (JUnit)."""
    import tensorbus as tb

    from .worker import judge_item

    option = request.config.getoption
    answers: list[dict[str, Any]] = []
    judge_item(
        {
            "item": conformance_item.name,
            "level": option("--level"),
            "seed": option("--data-seed"),
        },
        answers.append,
    )
    cells = [a["outcome"] for a in answers if "outcome" in a]
    record_property("evidence", str(tb.get_device(conformance_item.device).info.evidence))
    for cell in cells:
        record_property(cell["property"], cell["state"])
    return cells
