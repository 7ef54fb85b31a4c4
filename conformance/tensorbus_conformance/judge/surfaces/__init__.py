"""Surfaces that users touch and that are no ops, judged as parts."""

from __future__ import annotations

from . import (
    apart as apart,
    attributes as attributes,
    capsules as capsules,
    devices as devices,
    dlpack as dlpack,
    dtypes as dtypes,
    engine as engine,
    getitem as getitem,
    hosts as hosts,
    inplace as inplace,
    lacking as lacking,
    operators as operators,
    saved as saved,
    setitem as setitem,
    states as states,
    transfer as transfer,
)
