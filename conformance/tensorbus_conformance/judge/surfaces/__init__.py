"""Surfaces that users touch and that are no ops, judged as parts."""

from __future__ import annotations

from . import getitem as getitem, inplace as inplace, setitem as setitem
