"""Settings: gradient mode, tracing, fallback policy, reproducibility, default device.

One context variable holds one immutable record of them, so every thread and every asyncio task has
its own: a new thread starts from the environment variables, a task (and `asyncio.to_thread`) from
what holds where it is made.  Nothing but the environment variables sets them for a process.

A block ``with tb.no_grad():`` is one `_Block` of the record that it made.  What holds is the start
with the changes of all blocks that are open, the innermost last; a block that ends takes itself
out, wherever it stands.  So blocks may end in any order, as those of generators do, and in another
thread or task than they began in: there, too, nothing stays but what is open.
"""

from __future__ import annotations

import functools
import inspect
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from tensorbus_backends.contract import BackendError
from tensorbus_backends.environment import switch

from ._recent import Recent, forget

if TYPE_CHECKING:
    from ._devices import Device

from ._shown import shown

__all__ = [
    "Change",
    "Policy",
    "Record",
    "Settings",
    "Trace",
    "current",
    "deeper",
    "enable_grad",
    "enter",
    "fallback_policy",
    "forget_plans",
    "is_grad_enabled",
    "no_grad",
    "reproducible",
    "settings",
    "tables",
    "trace",
    "watching",
]

T = TypeVar("T")

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
        depth: 0 for what the user called, more for what a decomposed or fallen-back call made.
        stays: The device on which a result stays because `device` cannot hold it, where fallback.
    """

    op: str
    device: str
    dtypes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    variant: str
    library: str
    seconds: float
    depth: int
    stays: str = ""


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
            + (f"  result stays on {r.stays}" if r.stays else "")
            for r in self.records
        )


# -- the record -------------------------------------------------------------------------------

Plans = Recent[Any, Any]

_KEPT_PLANS = 1 << 10

tables: dict[tuple[bool, Policy], Plans] = {}
"""Plans by the settings that they depend on; all threads share them."""

_NONE: Plans = Recent(0)
"""What operators look into where no plan may be used unseen; stays empty."""


def _table(reproducible: bool, policy: Policy) -> Plans:
    """The plans that serve under these settings."""
    found = tables.get((reproducible, policy))
    if found is None:
        found = tables.setdefault((reproducible, policy), Recent(_KEPT_PLANS))
    return found


def _looked_into(plans: Plans, trace: Trace | None) -> Plans:
    """The table that operators look into first: none while tracing, for it goes around traces."""
    return _NONE if trace is not None else plans


def forget_plans() -> None:
    """Make all plans, and what they were made of, again when they are needed."""
    forget()


class _Fields:
    """What `Settings` holds, while it is made: a frozen dataclass takes three times as long."""

    __slots__ = (
        "__weakref__", "blocks", "depth", "device", "fast", "grad", "named", "plans", "policy",
        "reproducible", "stale", "start", "trace",
    )  # fmt: skip

    def __init__(
        self,
        grad: bool,
        trace: Trace | None,
        depth: int,
        policy: Policy,
        reproducible: bool,
        device: Device | None,
        named: str | None,
        plans: Plans,
        fast: Plans,
        blocks: tuple[_Block, ...],
        start: Settings | None,
        stale: bool,
    ) -> None:
        self.grad, self.trace, self.depth, self.policy = grad, trace, depth, policy
        self.reproducible, self.device, self.named = reproducible, device, named
        self.plans, self.fast = plans, fast
        self.blocks, self.start, self.stale = blocks, start, stale


class Settings(_Fields):
    """What is set in one context; a change makes another record.

    Attributes:
        grad: Whether calls are recorded for reverse mode.
        trace: Where calls are noted, if anywhere.
        depth: How many traced calls are under way.
        policy: What to do when a device cannot serve an op.
        reproducible: Whether native kernels are left out.
        device: The default device; None: that of `named`.
        named: ``TENSORBUS_DEVICE`` when the context began, None if that was empty.
        plans: Plans that serve under these settings.
        fast: The same, but empty while tracing and once `stale`; what operators look into first.
        blocks: The open blocks that were entered since the context began, innermost last.
        start: What held before these; None in that itself.
        stale: Whether one of `blocks` ended in another context; `settings` then makes it new.
            With `fast` all that ever changes.
    """

    __slots__ = ()

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"settings are never changed; {name} is set by a block")


def _record(*fields: Any) -> Settings:
    made: Any = _Fields(*fields)
    made.__class__ = Settings
    return made  # type: ignore[no-any-return]


class _Block:
    """One time that a block was entered: what it changes, and whether it ended elsewhere."""

    __slots__ = ("ended", "field", "made", "token", "value")

    made: Settings | None
    token: Token[Settings] | None

    def __init__(self, field: str, value: Any) -> None:
        self.field, self.value, self.ended = field, value, False
        self.made = self.token = None

    def entered_here(self) -> bool:
        """Whether the present context is the one that entered; to be asked once.

        The context then has the settings from before the block, whatever came since.
        """
        if self.token is None:
            return False
        try:
            _current.reset(self.token)
        except ValueError:  # "was created in a different Context"
            return False
        self.token = None
        return True


_scoped: set[weakref.ref[Settings]] = set()
"""Every record that has blocks."""


def _made(start: Settings, blocks: tuple[_Block, ...]) -> Settings:
    """The record of a start and open blocks."""
    now = start
    for k, block in enumerate(blocks):
        now = _with(now, block, blocks[: k + 1])
    return now


def _with(now: Settings, block: _Block, blocks: tuple[_Block, ...]) -> Settings:
    """The record of `blocks`, given that of all but the last."""
    grad, trace, depth = now.grad, now.trace, now.depth
    policy, reproducible, device = now.policy, now.reproducible, now.device
    field, value = block.field, block.value
    if field == "grad":
        grad = value
    elif field == "trace":
        trace = value
    elif field == "depth":
        depth = value
    elif field == "policy":
        policy = value
    elif field == "reproducible":
        reproducible = value
    else:
        device = value
    plans = _table(reproducible, policy)
    fast = _looked_into(plans, trace)
    made = _record(
        grad, trace, depth, policy, reproducible, device, now.named, plans, fast, blocks,
        now.start or now, False,
    )  # fmt: skip
    _scoped.add(weakref.ref(made, _scoped.discard))
    # First known, then looked at; who ends a block elsewhere marks it first, then looks.
    for one in blocks:
        if one.ended:
            _spoil(made)
    return made


_UNSET = _record(True, None, 0, "error", False, None, None, _NONE, _NONE, (), None, True)
_current: ContextVar[Settings] = ContextVar("tensorbus_settings", default=_UNSET)

current = _current.get
"""The record of this context, perhaps stale or not yet made: for a look into `fast` alone."""


def settings() -> Settings:
    """What is set in this context.

    Raises:
        BackendError: It is the first use in this thread, and an environment variable is wrong.
    """
    now = _current.get()
    return now if not now.stale else _renewed(now)


def _renewed(now: Settings) -> Settings:
    """A record in place of one that is stale, or of none."""
    if now is _UNSET:
        made = _start()
    else:
        kept = []
        for block in now.blocks:
            if not block.ended:
                kept.append(block)
            elif not block.entered_here():
                # This context is a copy from inside the block: for it the block has no end.
                kept.append(_Block(block.field, block.value))
        made = _made(now.start or now, tuple(kept))
    _current.set(made)
    return made


_starts: dict[tuple[Policy, bool, str | None], Settings] = {}


def _start() -> Settings:
    """What the environment variables say now."""
    key = (
        _policy_from_environment(),
        switch("TENSORBUS_REPRODUCIBLE"),
        os.environ.get("TENSORBUS_DEVICE") or None,
    )
    found = _starts.get(key)
    if found is None:
        policy, reproducible, named = key
        plans = _table(reproducible, policy)
        made = _record(
            True, None, 0, policy, reproducible, None, named, plans, plans, (), None, False
        )
        found = _starts.setdefault(key, made)
    return found


def _policy_from_environment() -> Policy:
    value = os.environ.get("TENSORBUS_FALLBACK") or "error"
    if value not in get_args(Policy):
        raise BackendError(
            f"TENSORBUS_FALLBACK={value!r} is no policy; set it to one of "
            f"{', '.join(get_args(Policy))}, or unset it"
        )
    return value  # type: ignore[return-value]


class _Watching(threading.local):
    """Who watches the call that this thread makes, if anybody: see `_inline`."""

    by: Any = None


watching = _Watching()


# -- blocks -----------------------------------------------------------------------------------


def enter(field: str, value: Any) -> _Block:
    """Begin a block that sets a field of the settings."""
    now = settings()
    block = _Block(field, value)
    block.made = made = _with(now, block, (*now.blocks, block))
    block.token = _current.set(made)
    return block


def _leave(block: _Block) -> None:
    now = _current.get()
    made, block.made = block.made, None  # which would hold the block in turn
    if block.entered_here():
        if now is not made:
            _without(now, block)
        return
    block.ended = True
    if block in now.blocks:
        _without(now, block)
    for reference in _known():
        one = reference()
        if one is not None and block in one.blocks:
            _spoil(one)


def _without(now: Settings, block: _Block) -> None:
    """Set what held in this context but for one block."""
    _current.set(_made(now.start or now, tuple([b for b in now.blocks if b is not block])))


def _spoil(record: Settings) -> None:
    object.__setattr__(record, "stale", True)
    object.__setattr__(record, "fast", _NONE)


def _known() -> Sequence[weakref.ref[Settings]]:
    while True:
        try:
            return list(_scoped)
        except RuntimeError:  # another thread has just entered a block
            continue


class Change:
    """Context manager and decorator that sets one field of the settings.

    It may be entered more than once, also by several threads and tasks at a time.

    Args:
        field: Name of the field.
        value: Its value inside the block.
    """

    def __init__(self, field: str, value: Any) -> None:
        self._field, self._value = field, value
        self._entered: list[_Block] = []

    def __enter__(self) -> Any:
        self._entered.append(enter(self._field, self._value))

    def __exit__(self, *exception: object) -> None:
        # The latest one that this context is in; it is in none that was entered elsewhere.
        here, entered = _current.get().blocks, self._entered
        block = entered[-1]
        if not here or block is not here[-1]:
            block = next((b for b in reversed(list(entered)) if b in here), block)
        entered.remove(block)
        _leave(block)

    def _again(self) -> Change:
        """One of its own for each call of a decorated function."""
        return Change(self._field, self._value)

    def __call__(self, function: Callable[..., T]) -> Callable[..., T]:
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*args: Any, **options: Any) -> Any:
                with self._again():
                    return await function(*args, **options)

            return awaited  # type: ignore[return-value]

        @functools.wraps(function)
        def wrapped(*args: Any, **options: Any) -> T:
            with self._again():
                return function(*args, **options)

        return wrapped


class _Tracing(Change):
    def __init__(self) -> None:
        super().__init__("trace", None)
        self._outer: list[tuple[Trace, Trace | None]] = []

    def __enter__(self) -> Trace:
        made = Trace()
        self._outer.append((made, settings().trace))
        self._entered.append(enter("trace", made))
        return made

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        made, outer = self._outer.pop()
        if outer is not None:
            outer.records += made.records

    def _again(self) -> Change:
        return _Tracing()


def trace() -> _Tracing:
    """Record how every op call of this thread or task is served::

    with tb.trace() as t:
        y = tb.exp(x)
    print(t)
    """
    return _Tracing()


def deeper() -> Change:
    """The calls inside the block are made by a call that is traced."""
    return Change("depth", settings().depth + 1)


def reproducible(enabled: bool = True) -> Change:
    """Use portable kernels only: the same bits on every device (also a decorator).

    The environment variable ``TENSORBUS_REPRODUCIBLE=1`` sets it for the whole process.
    """
    return Change("reproducible", enabled)


def fallback_policy(policy: Policy) -> Change:
    """What to do when a device cannot serve an op: ``"error"``, ``"warn"`` or ``"allow"``.

    With the last two the op runs on another device, and the trace says ``fallback``.  Results come
    back if the device can hold them; others stay on the other device, as the record tells, and may
    meet tensors of the first one again: such calls fall back as well.  ``TENSORBUS_FALLBACK`` sets
    the policy of the process.

    Raises:
        ValueError: For any other policy.
    """
    if policy not in get_args(Policy):
        raise ValueError(f"fallback policy {shown(policy)}: choose error, warn or allow")
    return Change("policy", policy)


def no_grad() -> Change:
    """Record nothing for reverse mode inside the block (also a decorator)."""
    return Change("grad", False)


def enable_grad() -> Change:
    """Record again inside a `no_grad` block."""
    return Change("grad", True)


def is_grad_enabled() -> bool:
    """Whether operations are recorded for reverse mode in this thread or task."""
    return settings().grad


settings()  # a variable that is not understood is told at import
