"""What a device declares: known words, figures that can be, no contradictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import tensorbus as tb
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import (
    FEATURES,
    Buffer,
    Capabilities,
    Device,
    DeviceInfo,
    Evidence,
    Feature,
    Native,
    NativeCase,
    UnsupportedError,
)
from tensorbus_backends.dialect import Dialect

from ..asked import names_of
from ..items import Outcome
from ..session import Session
from .base import Checks, duty, filled

_KNOWN = {d.name for d in dt.ALL}
_FLAGS = ("fp64", "fp16", "fma", "atomics", "ieee")


def _is_bound(text: str) -> bool:
    """Whether `text` is "correct" or a number of ulps."""
    if text == "correct":
        return True
    try:
        return 0 < float(text) < 1 << 20
    except ValueError:
        return False


def declared(session: Session) -> Outcome:
    """Every figure of the capabilities is one that the contract knows."""
    checks, device = Checks("declared"), session.guard.real
    c = device.capabilities
    checks.that(isinstance(c, Capabilities), f"capabilities are a {type(c).__name__}")
    unknown = sorted(set(c.dtypes) - _KNOWN)
    checks.that(not unknown, f"declares dtypes that do not exist: {', '.join(map(str, unknown))}")
    checks.that(bool(c.dtypes), "declares no dtype")
    checks.that(isinstance(c.dtypes, frozenset), "dtypes are no frozenset")
    for name in _FLAGS:
        checks.that(type(getattr(c, name)) is bool, f"{name} is {getattr(c, name)!r}, no bool")
    checks.that(
        c.subnormals in ("preserve", "flush"),
        f"subnormals is {c.subnormals!r}, which is neither preserve nor flush",
    )
    for name in ("division", "square_root"):
        text = getattr(c, name)
        checks.that(
            isinstance(text, str) and _is_bound(text),
            f"{name} is {text!r}, neither 'correct' nor a number of ulps",
        )
    for name, least in (("local_memory", 0), ("max_group", 1)):
        figure = getattr(c, name)
        checks.that(
            type(figure) is int and figure >= least, f"{name} is {figure!r}, due is {least} or more"
        )
    known = {f.name for f in fields(Capabilities)}
    checks.that(known <= set(dir(c)), "lacks figures of the contract")
    return checks.outcome


def agreement(session: Session) -> Outcome:
    """Declarations do not contradict each other, nor what the methods do."""
    checks, device = Checks("agreement"), session.guard.real
    c = device.capabilities
    checks.that(
        ("float64" in c.dtypes) == c.fp64,
        f"fp64 is {c.fp64}, and its dtypes are {', '.join(sorted(c.dtypes))}",
    )
    checks.that(not c.fp16 or "float16" in c.dtypes, "has fp16 arithmetic, but no dtype float16")
    if device.dialect is not None:
        checks.that(isinstance(device.dialect, Dialect), "its dialect is no Dialect")
        checks.that(
            device.dialect.fp64 or not c.fp64, "declares float64, which its dialect does not have"
        )
        checks.that(bool(device.dialect.name), "its dialect, a part of every key, has no name")
        checks.that(device.dialect.style in ("simt", "loop"), "its dialect has no known style")
    buffer = filled(device, bytes(range(64)))
    device.synchronize()
    if device.has(Feature.ADDRESS):
        checks.that(
            type(device.address(buffer)) is int and device.address(buffer) > 0,
            "states the feature address, but address gives none",
        )
    else:
        checks.raises(UnsupportedError, "address without the feature", device.address, buffer)
    if device.dlpack_type:
        checks.that(device.pointer(buffer) > 0, "dlpack_type is set, but pointer gives none")
    else:
        checks.raises(UnsupportedError, "pointer without a dlpack_type", device.pointer, buffer)
    _features(checks, device, buffer)
    checks.that(isinstance(device.natives, Mapping), "natives are no mapping")
    known = {n for op in tb.FUNCTIONS for n in names_of(op)}
    for op, native in device.natives.items():
        checks.that(isinstance(native, Native), f"native {op} is no Native")
        checks.that(bool(native.library), f"native {op} does not say whose code it is")
        listed = "`tensorbus natives` lists those that have"
        checks.that(op in known, f"native {op}: no calls have that name; {listed}")
    return checks.outcome


def _features(checks: Checks, device: Device, buffer: Buffer) -> None:
    """A feature that is stated has its methods; without it they say that they are not there."""
    unknown = sorted(set(device.features) - set(FEATURES))
    checks.that(not unknown, f"states features that do not exist: {', '.join(unknown)}")
    for feature, name, arguments in (
        (Feature.PARTS, "part", (buffer, 0, 8)),
        (Feature.PEERS, "copy_from", (buffer, 0, buffer, 32, 8)),
    ):
        checks.that(device.has(feature) == (feature in device.features), f"has({feature}) lies")
        call = getattr(device, name)
        if not device.has(feature):
            checks.raises(UnsupportedError, f"{name} without the feature", call, *arguments)
            continue
        try:
            call(*arguments)
        except UnsupportedError as error:
            checks.that(False, f"states the feature {feature}, and {name} says: {error}")


def identity(session: Session) -> Outcome:
    """The device says what it is, and how much its results prove."""
    checks, info = Checks("identity"), session.guard.real.info
    checks.that(isinstance(info, DeviceInfo), f"info is a {type(info).__name__}")
    checks.that(bool(info.name and info.plugin), "has no name or no plugin")
    checks.that(
        info.name.split(":")[0] == info.plugin, f"{info.name!r} is no name of {info.plugin!r}"
    )
    checks.that(info.available is True, "is open, but says that it is not available")
    checks.that(isinstance(info.evidence, Evidence), f"evidence is {info.evidence!r}")
    checks.that(bool(info.description), "does not describe itself")
    texts = all(isinstance(x, str) for pair in info.details.items() for x in pair)
    checks.that(texts, "has details that are no text")
    return checks.outcome


def records(session: Session) -> Outcome:
    """What a device hands out about itself is a value: equal to its copy, and it can be a key."""
    checks, device = Checks("records"), session.guard.real
    shapes, strides = ((2, 3),) * 2, ((3, 1),) * 2
    case = NativeCase(
        op="abs", dtypes=(dt.float32,) * 2, shapes=shapes, strides=strides, options={"axis": 0}
    )
    given: list[Any] = [device.capabilities, device.info, device.memory(), case]
    if device.dialect is not None:
        given.append(device.dialect)
    for record in given:
        kind = type(record).__name__
        copied = replace(record)
        checks.that(copied == record, f"a copy of its {kind} is not equal to it")
        try:
            kept = {record: 1}
        except TypeError as error:
            checks.that(False, f"its {kind} cannot be a key: {error}")
            continue
        checks.that(copied in kept, f"a copy of its {kind} is another key")
    info = device.info
    for other in (replace(info, name="another"), replace(info, description="another")):
        checks.that(other != info, f"a device that is {other.name} or told otherwise is this one")
    return checks.outcome


duty("capabilities", declared, agreement, identity, records, always=True)
