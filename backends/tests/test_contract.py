"""What the contract's exceptions say."""

from __future__ import annotations

import pytest
from tensorbus_backends.contract import CompileError

SOURCE = "\n".join(f"line {k};" for k in range(1, 10))


@pytest.mark.parametrize(
    "log",
    [
        "kernel.c: In function 'f':\nkernel.c:7:12: error: 'x' undeclared",
        "kernel.cu(2): warning: unused\n\nkernel.cu(7): error: identifier x is undefined",
        "program_source:7:1: error: a kernel's parameter has no attribute",
    ],
)
def test_a_compile_error_shows_the_lines_around_the_first_error(log: str) -> None:
    shown = str(CompileError("kernel 'f' was rejected", log, SOURCE))
    head, *_, before, at, after, last = shown.splitlines()
    assert head == "kernel 'f' was rejected"
    assert log in shown
    assert (before, at) == ("   6 line 6;", "   7 line 7;")
    assert (after, last) == ("   8 line 8;", "   9 line 9;")
    assert "line 4;" not in shown


@pytest.mark.parametrize("log", ["", "internal error", "k.c:99:1: error: not of this source"])
def test_a_compile_error_without_a_line_shows_no_source(log: str) -> None:
    assert str(CompileError("rejected", log, SOURCE)) == "\n".join(filter(None, ["rejected", log]))
