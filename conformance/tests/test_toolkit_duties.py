"""A toolkit that breaks one promise is caught by the duty that judges it, without any device."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorbus as tb
from tensorbus_backends import cache, check, dtypes as dt, flushing, gemm, ir, pool, ref
from tensorbus_conformance.judge import parts, primitives
from tensorbus_conformance.judge.guard import Guarded
from tensorbus_conformance.judge.items import Item, Outcome, items
from tensorbus_conformance.judge.properties import judge
from tensorbus_conformance.judge.session import Session


def judged(part: str, name: str, level: str = "smoke") -> Outcome:
    parts.load()
    device = tb.Device(Guarded(ref.PLUGIN.open(0)))
    return judge(Session(Item(part, "ref", "float32", "portable"), device, level, 0), name)


@pytest.fixture(autouse=True)
def fresh_plans() -> Iterator[None]:
    gemm.plan.cache_clear()
    kept = dict(ir._interned)
    yield
    gemm.plan.cache_clear()
    ir._interned.clear()
    ir._interned.update(kept)


def always(value: Any) -> Any:
    return lambda *arguments, **options: value


def no_specials(dtype: Any, bits: int, mantissa: int) -> Any:
    x = plain_operands(dtype, bits, mantissa)
    x[:3, :6] = 1.5
    return x


def lenient(got: Any, want: Any) -> Any:
    """A single element that differs is forgiven."""
    bits = f"u{got.dtype.itemsize}"
    return ((got.view(bits) != want.view(bits)) & ~(np.isnan(got) & np.isnan(want))).sum(1) < 2


def sound(self: Any, key: str, suffix: str) -> Any:
    """Without a look at the checksum."""
    path = self._entry(self.directory, key, suffix) / f"payload{suffix}"
    return (path, path.read_bytes()) if path.exists() else None


def unlocked(self: Any, home: Any, block: Any) -> None:
    home.free.append(block)


def short_key(*parts: str) -> str:
    return plain_key("".join(parts))


def roughly(self: Any) -> Any:
    return dataclasses.replace(plain_column_major(self), steps=self.steps)


plain_operands, plain_key = check._operands, cache.cache_key
plain_column_major, plain_leading = gemm.Product.column_major, gemm._leading
plain_settled, plain_fingerprint, plain_size = check.settled, ir.fingerprint, pool.class_size

FAULTS: dict[str, tuple[str, str, Any, str, Any]] = {
    "a check that takes all": ("arithmetic", "verdicts", check, "_same", always(np.ones(7, bool))),
    "a check that forgives": ("arithmetic", "verdicts", check, "_same", lenient),
    "no special values": ("arithmetic", "operands", check, "_operands", no_specials),
    "a verdict not heard": ("arithmetic", "settling", check, "settled", lambda d, v, q, r: d),
    "no rules": ("language", "rules", ir, "_check", always(None)),
    "one comparison": ("language", "rules", ir, "_compare", lambda op, a, b: a),
    "no validation": ("language", "bodies", ir, "validate", always(None)),
    "fingerprints without roots": ("language", "bodies", ir, "fingerprint",
                                   lambda *r: plain_fingerprint(*r).rsplit("\n", 1)[0]),
    "every matrix": ("products", "plans", gemm, "_leading",
                     lambda s, t: plain_leading(s, t) or (False, s[-1])),
    "operands not exchanged": ("products", "plans", gemm.Product, "column_major", roughly),
    "any output": ("products", "refusals", gemm, "_contiguous", always(True)),
    "no checksum": ("cache", "files", cache.DiskCache, "_sound", sound),
    "keys run together": ("cache", "files", cache, "cache_key", short_key),
    "no sweep": ("cache", "files", cache.DiskCache, "sweep", always(None)),
    "used never falls": ("pool", "blocks", pool.CachingPool, "give", unlocked),
    "wider classes": ("pool", "classes", pool, "class_size", lambda n: plain_size(n) + 64),
    "no dtype refused": ("dtypes", "table", dt, "from_numpy", always(dt.int8)),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_toolkit_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    part, duty, holder, attribute, fault = FAULTS[name]
    assert judged(f"driver.{part}", duty).state == "pass"
    monkeypatch.setattr(holder, attribute, fault)
    for module in list(parts.importlib.sys.modules.values()):  # type: ignore[attr-defined]
        taken = getattr(module, "__name__", "").startswith("tensorbus_conformance.judge.driver.")
        if taken and attribute in vars(module) and not isinstance(holder, type):
            monkeypatch.setattr(module, attribute, fault)
    gemm.plan.cache_clear()
    outcome = judged(f"driver.{part}", duty)
    assert outcome.state in ("fail", "error"), outcome
    assert outcome.message


@pytest.mark.parametrize("field", ["emin", "precision", "bits", "kind"])
def test_a_wrong_entry_of_the_table_of_dtypes_is_seen(field: str) -> None:
    kept = getattr(dt.float16, field)
    object.__setattr__(dt.float16, field, "u" if field == "kind" else kept + 8)
    try:
        outcome = judged("driver.dtypes", "table")
    finally:
        object.__setattr__(dt.float16, field, kept)
    assert outcome.state in ("fail", "error"), outcome
    assert judged("driver.dtypes", "table").state == "pass"


def test_what_ref_says_for_devices_that_flush_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    assert judged("primitive.add", "bits").state == "pass"
    primitives._kernels.clear()
    monkeypatch.setattr(flushing, "flush", lambda x: x)
    outcome = judged("primitive.add", "bits")
    assert outcome.state == "fail"
    assert "flushing" in outcome.message


def test_a_native_product_is_due_in_every_dtype_that_it_takes() -> None:
    device = tb.get_device("cpu").backend
    if "matmul" not in device.natives:
        pytest.skip("no OpenBLAS here")
    found = items("cpu", device.capabilities, device.natives, "standard", ["matmul"])
    assert {i.dtype for i in found if i.variant == "native"} == {"float32", "float64"}
