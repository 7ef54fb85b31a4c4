"""`Case`, a call of an op, and `Sampler`, which makes arrays for the cases of one op and dtype."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data import specials
from ..ulp import format_of
from . import arrays, cover

__all__ = ["LEVELS", "Case", "Kinds", "Sampler", "Samples", "axis_of", "axes_of"]

Array = NDArray[Any]
Shape = tuple[int, ...]
Kinds = Sequence[str]

LEVELS = ("smoke", "standard", "exhaustive")


@dataclass(frozen=True)
class Case:
    """One call, as a user writes it, on NumPy arrays.

    Attributes:
        args: Positional arguments: arrays, None, Python scalars, dtypes, or lists of arrays.
        options: Keyword options; arrays among them are tensors too.  Dtypes are NumPy's.
        label: What is particular about it.
        random: Whether the data is random enough for statistics of errors.
        smooth: Whether the derivative exists at the data (no ties, no kinks, no special values).
    """

    args: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)
    label: str = ""
    random: bool = True
    smooth: bool = True


class Sampler:
    """Makes the arrays of one op's cases, all seeded by the run's seed, the op and the dtype.

    Attributes:
        op: The op's name.
        dtype: NumPy dtype of the operands that carry data.
        level: ``"smoke"``, ``"standard"`` or ``"exhaustive"``.
        domain: Open interval of ordinary data, for each tensor argument.
    """

    def __init__(
        self,
        op: str,
        dtype: Any,
        level: str,
        seed: int,
        domain: Sequence[tuple[float, float]] = ((-4.0, 4.0),),
        purpose: str = "values",
    ) -> None:
        self.op, self.dtype, self.level = op, np.dtype(dtype), level
        self.domain = tuple(domain) or ((-4.0, 4.0),)
        label = zlib.crc32(f"{op}|{self.dtype.name}|{purpose}".encode())
        self.rng = np.random.default_rng([seed, label])

    @property
    def deep(self) -> bool:
        """Whether more than the smoke sample is wanted."""
        return self.level != "smoke"

    @property
    def floating(self) -> bool:
        return format_of(self.dtype) is not None

    def rows(
        self,
        strong: Mapping[str, Any] | None = None,
        free: Mapping[str, Any] | None = None,
        *,
        smoke: int = 4,
        standard: int = 0,
        allowed: Callable[[cover.Row], bool] | None = None,
    ) -> list[cover.Row]:
        """Rows of the sample: see `cover.rows`; `smoke` and `standard` are the least there."""
        return cover.rows(
            strong or {},
            free or {},
            self.rng,
            deep=self.deep,
            most=standard if self.deep else smoke,
            allowed=allowed,
        )

    def array(
        self,
        shape: Shape,
        at: int = 0,
        *,
        data: str = "ordinary",
        layout: str = "contiguous",
        dtype: Any = None,
        keep: bool = False,
    ) -> Array:
        """An array for tensor argument `at`, of a kind of `data` and in a `layout` of `arrays`."""
        low, high = self.domain[min(at, len(self.domain) - 1)]
        chosen = self.dtype if dtype is None else np.dtype(dtype)
        values = arrays.DATA[data](self.rng, shape, chosen, low, high)
        return arrays.laid_out(self.rng, np.asarray(values).reshape(shape), layout, keep)

    def index(
        self, size: int, shape: Shape, layout: str = "contiguous", negative: bool = True
    ) -> Array:
        """Valid int64 indices into a dimension of `size`, both ends and negative ones too."""
        low = -size if negative and size else 0
        values = self.rng.integers(low, max(size, 1), shape, dtype=np.int64)
        flat = values.reshape(-1)
        for k, v in enumerate((0, size - 1, low)[: flat.size]):
            flat[int(self.rng.integers(flat.size)) if k else 0] = v
        return arrays.laid_out(self.rng, values, layout, keep=True)

    def shape(self, rank: int, size: int) -> Shape:
        """A shape of a rank with one dimension of `size`; see `arrays.ranked_shape`."""
        return arrays.ranked_shape(self.rng, rank, size)

    def sizes(self) -> list[int]:
        """Sizes at the constants of skeletons: all of them, or a few that the seed chooses."""
        if self.deep:
            return list(arrays.LIMITS)
        small = [n for n in arrays.LIMITS if n < 64]
        middle = [n for n in arrays.LIMITS if 64 <= n < 1024]
        large = [n for n in arrays.LIMITS if n >= 1024]
        return [int(self.rng.choice(part)) for part in (small, middle, middle, large)]

    def pick(self, values: Sequence[Any]) -> Any:
        """One of the values."""
        return values[int(self.rng.integers(len(values)))]

    def some(self, values: Sequence[Any], smoke: int = 3) -> list[Any]:
        """All values; at smoke the first and others that the seed chooses, `smoke` of them."""
        if self.deep or len(values) <= smoke:
            return list(values)
        others = self.rng.permutation(len(values) - 1)[: smoke - 1] + 1
        return [values[0], *(values[k] for k in sorted(others))]

    def specials(self) -> Array:
        """The dtype's special values."""
        return specials(self.dtype)

    def layouts(self) -> list[str]:
        """Layouts of an operand: all, or three that the seed chooses beside the plain one."""
        return self.some(list(arrays.LAYOUTS), 4)


Samples = Callable[[Sampler], list[Case]]


def axis_of(form: str, ndim: int, rng: np.random.Generator) -> int:
    """An int axis of a form: first, last, its negative spelling, or one between."""
    if not ndim:
        raise ValueError("an array without dimensions has no axis")
    return {
        "first": 0,
        "last": ndim - 1,
        "-1": -1,
        "-ndim": -ndim,
        "middle": int(rng.integers(-ndim, ndim)),
    }[form]


AXIS_FORMS = ("first", "last", "-1", "-ndim", "middle")


def axes_of(form: str, ndim: int, rng: np.random.Generator) -> Any:
    """Axes of a form: those of `axis_of`, ``"none"``, ``"()"``, ``"one"``, ``"two"``, ``"all"``."""
    if form == "none":
        return None
    if form == "()":
        return ()
    if form in AXIS_FORMS:
        return axis_of(form, ndim, rng)
    count = {"one": 1, "two": 2, "three": 3, "all": ndim}[form]
    chosen = rng.permutation(ndim)[:count]
    return tuple(int(k) - (ndim if rng.random() < 0.5 else 0) for k in chosen)


AXES_FORMS = ("none", "()", *AXIS_FORMS, "one", "two", "three", "all")


def least_rank(form: str) -> int:
    """Dimensions that an array needs for axes of a form."""
    return {"none": 0, "()": 0, "two": 2, "three": 3, "all": 0}.get(form, 1)


def elements(shape: Shape) -> int:
    """Number of elements."""
    return math.prod(shape)


__all__ += ["AXES_FORMS", "AXIS_FORMS", "elements", "least_rank"]
