"""Which devices share a worker process."""

from __future__ import annotations

import pytest
from tensorbus._devices import registry
from tensorbus_backends.contract import DeviceInfo, Evidence
from tensorbus_backends.probing import Announcement
from tensorbus_conformance.process import isolation

ANNOUNCED = [
    Announcement("cpu", "tensorbus_cpu:PLUGIN", "tensorbus 1.0"),
    Announcement("opencl", "tensorbus_opencl:PLUGIN", "tensorbus 1.0"),
    Announcement("cuda", "tensorbus_cuda:PLUGIN", "tensorbus 1.0"),
    Announcement("other", "other:PLUGIN", "tensorbus-other 2.0"),
]
PLATFORMS = {"opencl": ["Intel", "PoCL", "Intel", "PoCL", "Third"], "cuda": ["", ""]}


def lines(refresh: bool = False, plugin: str | None = None) -> list[DeviceInfo]:
    assert plugin is not None  # no other plugin is asked
    return [
        DeviceInfo(
            f"{plugin}:{k}",
            plugin,
            k,
            details={"platform": p} if p else {},
            evidence=Evidence.UNSTATED,
        )
        for k, p in enumerate(PLATFORMS.get(plugin, []))
    ]


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "plugins", lambda: ANNOUNCED)
    monkeypatch.setattr(registry, "devices", lines)


def test_ours_share_a_process_and_others_have_their_own() -> None:
    assert {isolation(d) for d in ("cpu", "opencl:0", "cuda:0", "cuda:1")} == {""}
    assert isolation("other:0") == isolation("other:1") == "other"


def test_platforms_do_not_share_a_process() -> None:
    groups = [isolation(f"opencl:{k}") for k in range(5)]
    assert groups[0] == groups[2] == ""
    assert groups[1] == groups[3]
    assert len(set(groups)) == 3
