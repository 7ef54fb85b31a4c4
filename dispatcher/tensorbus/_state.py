"""What is set for the current thread: gradient mode, tracing, policies, default device."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from tensorbus_backends.contract import BackendError
from tensorbus_backends.environment import switch

from ._recent import Recent

__all__ = [
    "Policy",
    "Record",
    "Trace",
    "fallback_policy",
    "no_grad",
    "enable_grad",
    "is_grad_enabled",
    "reproducible",
    "state",
    "trace",
]

Policy = Literal["error", "warn", "allow"]

_KEPT_PLANS = 1 << 10


@dataclass(frozen=True)
class Record:
    """How one call of an op was served.

    Attributes:
        op: Name of the op.
        device: Canonical device name.
        dtypes: Names of the operands' dtypes.
        shapes: Shapes of the operands.
        variant: ``"native"``, ``"portable"`` or ``"fallback"``.
        library: Whose kernel it was, where native; the other device, where fallback.
        seconds: Host time from call to return; launches may still be running.
        depth: 0 for what the user called, more for what a decomposition called.
    """

    op: str
    device: str
    dtypes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    variant: str
    library: str
    seconds: float
    depth: int


@dataclass
class Trace:
    """The calls made while `trace` was active, in the order in which they returned."""

    records: list[Record] = field(default_factory=list)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def variants(self) -> set[str]:
        """The set of variants that served the calls."""
        return {r.variant for r in self.records}

    def __str__(self) -> str:
        return "\n".join(
            f"{'  ' * r.depth}{r.op:<20} {r.device:<10} {','.join(r.dtypes):<20} {r.variant:<10} "
            f"{r.library or '-':<24} {r.seconds * 1e6:9.1f} us"
            for r in self.records
        )


class _State(threading.local):
    """Thread-local settings; `fast` is the table that operators look into first."""

    def __init__(self) -> None:
        self.grad = True
        self.trace: Trace | None = None
        self.depth = 0
        self.watch: Any = None
        self.policy: Policy = _policy_from_environment()
        self.reproducible = switch("TENSORBUS_REPRODUCIBLE")
        self.device: Any = None
        self.tables: dict[Any, Recent[Any, Any]] = {}
        self.fast: dict[Any, Any] = {}
        self.refresh()

    def refresh(self) -> None:
        """Choose the plan table for the present settings; none is consulted while tracing."""
        key = (self.reproducible, self.policy)
        self.plans = self.tables.setdefault(key, Recent(_KEPT_PLANS))
        self.fast = {} if self.trace is not None else self.plans


def _policy_from_environment() -> Policy:
    value = os.environ.get("TENSORBUS_FALLBACK") or "error"
    if value not in get_args(Policy):
        raise BackendError(
            f"TENSORBUS_FALLBACK={value!r} is no policy; set it to one of "
            f"{', '.join(get_args(Policy))}, or unset it"
        )
    return value  # type: ignore[return-value]


state = _State()


@contextmanager
def trace() -> Iterator[Trace]:
    """Record how every op call of this thread is served::

    with tb.trace() as t:
        y = tb.exp(x)
    print(t)
    """
    outer, state.trace = state.trace, Trace()
    state.refresh()
    try:
        yield state.trace
    finally:
        if outer is not None:
            outer.records += state.trace.records
        state.trace = outer
        state.refresh()


@contextmanager
def reproducible(enabled: bool = True) -> Iterator[None]:
    """Use portable kernels only: the same bits on every device.

    The environment variable ``TENSORBUS_REPRODUCIBLE=1`` sets it for the whole process.
    """
    outer, state.reproducible = state.reproducible, enabled
    state.refresh()
    try:
        yield
    finally:
        state.reproducible = outer
        state.refresh()


@contextmanager
def fallback_policy(policy: Policy) -> Iterator[None]:
    """What to do when a device cannot serve an op: ``"error"``, ``"warn"`` or ``"allow"``.

    With the last two the op runs on another device and the result comes back; the trace says
    ``fallback``.  ``TENSORBUS_FALLBACK`` sets the policy of the process.

    Raises:
        ValueError: For any other policy.
    """
    if policy not in get_args(Policy):
        raise ValueError(f"fallback policy {policy!r}: choose error, warn or allow")
    outer, state.policy = state.policy, policy
    state.refresh()
    try:
        yield
    finally:
        state.policy = outer
        state.refresh()


class _GradMode:
    """Context manager and decorator that sets gradient recording."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._outer: list[bool] = []

    def __enter__(self) -> None:
        self._outer.append(state.grad)
        state.grad = self._enabled

    def __exit__(self, *exception: object) -> None:
        state.grad = self._outer.pop()

    def __call__(self, function: Any) -> Any:
        import functools

        @functools.wraps(function)
        def wrapped(*args: Any, **options: Any) -> Any:
            with _GradMode(self._enabled):
                return function(*args, **options)

        return wrapped


def no_grad() -> _GradMode:
    """Record nothing for reverse mode inside the block (also a decorator)."""
    return _GradMode(False)


def enable_grad() -> _GradMode:
    """Record again inside a `no_grad` block."""
    return _GradMode(True)


def is_grad_enabled() -> bool:
    """Whether operations are recorded for reverse mode in this thread."""
    return state.grad
