"""A setting of a simulated driver that is not understood is never ignored."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorbus_backends import simulator
from tensorbus_backends.contract import DeviceUnavailableError
from tensorbus_backends.simulator import settings

FORMS = {"devices": settings.COUNT, "driver": settings.VERSION, "memory": settings.SIZE}
HEADER = Path(simulator.__file__).parent / "executor.h"


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FAULTS", "SEED", "PROBE"):
        monkeypatch.delenv(f"TENSORBUS_SIMULATE_{name}", raising=False)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("FAULTS", "alloc:3,lost:1"),
        ("FAULTS", ""),
        ("SEED", "17"),
        ("SEED", "0x1F"),
        ("PROBE", "devices=2,memory=8KiB/1GiB,driver=12.4"),
    ],
)
def test_understood(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"TENSORBUS_SIMULATE_{name}", text)
    settings.check("probe", FORMS)


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("FAULTS", "foo:1", "foo:1"),
        ("FAULTS", "alloc:3,aloc:2", "aloc:2"),
        ("FAULTS", "alloc", "alloc"),
        ("FAULTS", "alloc:0", "alloc:0"),
        ("FAULTS", "alloc:x", "alloc:x"),
        ("SEED", "abc", "abc"),
        ("PROBE", "nonsense", "nonsense"),
        ("PROBE", "devices=2,device=3", "device=3"),
        ("PROBE", "devices=abc", "devices=abc"),
        ("PROBE", "devices=-1", "devices=-1"),
        ("PROBE", "memory=8kb", "memory=8kb"),
        ("PROBE", "memory=8KiB/", "memory=8KiB/"),
        ("PROBE", "driver=12", "driver=12"),
    ],
)
def test_not_understood(name: str, text: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"TENSORBUS_SIMULATE_{name}", text)
    with pytest.raises(DeviceUnavailableError) as caught:
        simulator.library("probe", [], "libprobe.so", forms=FORMS)
    assert f"TENSORBUS_SIMULATE_{name}" in caught.value.cause
    assert repr(word) in caught.value.cause
    assert caught.value.fix


def test_every_failure_of_the_executor_is_known() -> None:
    text = HEADER.with_name("control.cpp").read_text()
    kinds = text[text.index("KINDS[] = {") : text.index("};", text.index("KINDS[] = {"))]
    assert sorted(settings.FAULTS) == sorted(kinds.split('"')[1::2])
