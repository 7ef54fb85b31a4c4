"""Notes of items whose kernels are compiled: when they hold, and that nothing depends on them."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorbus as tb
from tensorbus_conformance.judge import marks, warm
from tensorbus_conformance.judge.items import Item
from tensorbus_conformance.judge.session import Session, fenced


class Counted:
    """Stands for `needed`: how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, session: Session, names: list[str]) -> list[object]:
        self.calls += 1
        return []


@pytest.fixture
def collecting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counted:
    monkeypatch.setenv("TENSORBUS_CACHE", str(tmp_path))
    counted = Counted()
    monkeypatch.setattr(warm, "needed", counted)
    return counted


def made(level: str = "smoke", seed: int = 0, device: str = "ref") -> Session:
    """A session whose device looks like one that runs groups of threads."""
    session = Session(
        Item("add", device, "float32", "portable"),
        fenced(tb.get_device(device).backend),
        level,
        seed,
    )

    class Dialect:
        style = "simt"

    session.guard.dialect = Dialect()  # type: ignore[assignment]
    return session


def test_kernels_are_collected_once_for_what_decides_them(
    collecting: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        warm.warm(made(), ["values"])
    assert collecting.calls == 1
    warm.warm(made(seed=1), ["values"])
    assert collecting.calls == 2  # and this note takes the place of the first one
    for other in (made(), made(level="standard")):
        warm.warm(other, ["values"])
    warm.warm(made(), ["values", "special"])
    assert collecting.calls == 5
    monkeypatch.setattr(marks, "_sources", lambda package: "changed")
    warm.warm(made(), ["values", "special"])
    assert collecting.calls == 6
    monkeypatch.setattr(marks, "_sources", lambda package: "")
    for _ in range(2):
        warm.warm(made(), ["values", "special"])
    assert collecting.calls == 8


def test_another_compiler_is_another_note(
    collecting: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm.warm(made(), ["values"])
    session = made()
    monkeypatch.setitem(session.guard.real.info.details, "driver", "2")
    warm.warm(session, ["values"])
    assert collecting.calls == 2


def test_a_note_goes_with_the_cache(collecting: Counted, tmp_path: Path) -> None:
    warm.warm(made(), ["values"])
    (note,) = [p for p in tmp_path.rglob("*") if p.is_file()]
    for torn in (b"", note.read_bytes()[:9], b"\xff"):
        note.write_bytes(torn)
        before = collecting.calls
        warm.warm(made(), ["values"])
        assert collecting.calls == before + 1
    note.unlink()
    note.mkdir()  # nothing can be written in its place
    for _ in range(2):
        before = collecting.calls
        warm.warm(made(), ["values"])
        assert collecting.calls == before + 1
    assert list(note.parent.iterdir()) == [note]


def test_a_kernel_that_does_not_compile_leaves_no_note(
    collecting: Counted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(self: tb.Device, specs: list[object]) -> None:
        raise tb.BackendError("no")

    monkeypatch.setattr(tb.Device, "warm", fails)
    warm.warm(made(), ["values"])
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_digest_of_sources_sees_every_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "made_up"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "inner" / "part.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("made_up")
    marks._sources.cache_clear()
    first = marks._sources("made_up")
    (package / "inner" / "part.py").write_text("x = 2\n")
    marks._sources.cache_clear()
    assert first != marks._sources("made_up") != ""
    assert marks._sources("no_such_package") == ""
