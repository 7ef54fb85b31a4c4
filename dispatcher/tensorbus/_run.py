"""Running plans: kernels compiled, metadata packed, buffers allocated as steps need them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tensorbus_backends.contract import BackendError, Buffer, LaunchError
from tensorbus_backends.dtypes import DType
from tensorbus_backends.kernels import pack as pack_words
from tensorbus_backends.kernels.base import word_packer

from ._devices import Device
from ._plan import NativeStep, Plan, Step, Table, Value
from ._tensor import Tensor

__all__ = ["Launch", "runner"]

_KEPT_OFFSETS = 8

_SMALL = 1 << 16
"""Elements of the largest table that is kept: a larger one would outweigh the data."""


class Launch:
    """A step on a device; what its buffers are, and where they begin, is still open."""

    __slots__ = ("_backend", "_bound", "_compiled", "_step")

    def __init__(self, device: Device, step: Step) -> None:
        self._backend, self._step = device.backend, step
        self._compiled = device.kernel(step.kernel)
        self._bound: dict[tuple[int, ...], Callable[..., None]] = {}

    def bind(self, offsets: tuple[int, ...]) -> Callable[..., None]:
        """A function of the buffers that launches with these element offsets."""
        found = self._bound.get(offsets)
        if found is not None:
            return found
        words = list(self._step.words)
        for place, offset in zip(self._step.places, offsets, strict=True):
            words[place] = offset
        meta = pack_words(words)
        call = self._backend.prepare(self._compiled, self._step.groups, meta)
        if len(self._bound) >= _KEPT_OFFSETS:
            self._bound.clear()
        self._bound[offsets] = call
        return call


def runner(plan: Plan) -> Callable[..., Any]:
    """From operands to the result of a plan."""
    if plan.host is not None:
        return _hosted(plan.host)
    if plan.scalar is not None:
        return _with_number(plan, plan.scalar)
    if not plan.steps:
        return _moved(plan)
    count, (step, *others) = plan.operands, plan.steps
    straight = (
        not (others or plan.tables or any(step.offsets))
        and step.slots == tuple(range(count + 1))
        and plan.single
        and (plan.results[0].slot, plan.results[0].offset) == (count, 0)
    )
    if not straight:
        return _several(plan)
    if isinstance(step, Step):
        return _one(plan, Launch(plan.device, step))
    return _one_native(plan, step)


def _one_native(plan: Plan, step: NativeStep) -> Callable[..., Tensor]:
    """The shortest way through one native kernel."""
    (result,) = plan.results
    out, nbytes = result.spec, result.spec.nbytes
    allocate, launch, case = plan.device.backend.allocate, step.native.run, step.case

    def run(*tensors: Tensor) -> Tensor:
        buffer = allocate(nbytes)
        buffers = [t._buffer for t in tensors]
        buffers.append(buffer)
        try:
            made: object = launch(case, buffers, (*[t._offset for t in tensors], 0))
        except Exception as error:
            raise _failed(step, error) from error.__cause__
        if made is not None:
            raise _returned(step, made)
        return Tensor(buffer, out)

    return run


def _failed(step: NativeStep, error: Exception) -> BackendError:
    """The error of a call in which a native kernel raised; it says whose the kernel is."""
    whose = f"{step.case.op}: the native kernel of {step.native.library}"
    if isinstance(error, BackendError):
        error.args = (f"{whose}: {error}",)
        return error
    made = LaunchError(f"{whose} raised {type(error).__name__}: {error}")
    made.__cause__ = error
    return made


def _returned(step: NativeStep, made: object) -> LaunchError:
    return LaunchError(
        f"{step.case.op}: the native kernel of {step.native.library} returned a "
        f"{type(made).__name__}; it has to write its results into the buffers after those of the "
        "operands, and to return nothing"
    )


def _one(plan: Plan, launch: Launch) -> Callable[..., Tensor]:
    """The shortest way through one launch from all operands to the result."""
    (result,) = plan.results
    out, nbytes, count = result.spec, result.spec.nbytes, plan.operands
    allocate, bind = plan.device.backend.allocate, launch.bind
    zero = bind((0,) * (count + 1))
    if count == 1:

        def run1(a: Tensor) -> Tensor:
            buffer = allocate(nbytes)
            (zero if not a._offset else bind((a._offset, 0)))(a._buffer, buffer)
            return Tensor(buffer, out)

        return run1
    if count == 2:

        def run2(a: Tensor, b: Tensor) -> Tensor:
            buffer = allocate(nbytes)
            if a._offset or b._offset:
                bind((a._offset, b._offset, 0))(a._buffer, b._buffer, buffer)
            else:
                zero(a._buffer, b._buffer, buffer)
            return Tensor(buffer, out)

        return run2

    def run(*tensors: Tensor) -> Tensor:
        buffer = allocate(nbytes)
        bind((*(t._offset for t in tensors), 0))(*(t._buffer for t in tensors), buffer)
        return Tensor(buffer, out)

    return run


def _with_number(plan: Plan, dtype: DType) -> Callable[..., Tensor | None]:
    """One launch of a Python number, after a tensor or alone; None if `word_packer` refuses it."""
    (result,) = plan.results
    out = result.spec
    nbytes, allocate = out.nbytes, plan.device.backend.allocate
    if not plan.steps:
        return lambda *_: Tensor(allocate(nbytes), out)
    (step,) = plan.steps
    assert isinstance(step, Step)
    backend, groups = plan.device.backend, step.groups
    compiled = plan.device.kernel(step.kernel)
    prepare = backend.prepare
    pack = word_packer(dtype)
    head, place = pack_words(step.words[:-1]), 8 * step.places[0]

    if not plan.operands:

        def alone(value: float | int) -> Tensor | None:
            word = pack(value)
            if word is None:
                return None
            buffer = allocate(nbytes)
            prepare(compiled, groups, head + word)(buffer)
            return Tensor(buffer, out)

        return alone

    def run(a: Tensor, value: float | int) -> Tensor | None:
        word = pack(value)
        if word is None:
            return None
        meta = head + word
        if a._offset:
            meta = meta[:place] + pack_words((a._offset,)) + meta[place + 8 :]
        buffer = allocate(nbytes)
        prepare(compiled, groups, meta)(a._buffer, buffer)
        return Tensor(buffer, out)

    return run


def _moved(plan: Plan) -> Callable[..., Any]:
    """Results that no step makes: views of operands, empty or undefined memory."""
    buffers, results, single = _Buffers(plan), plan.results, plan.single

    def run(*tensors: Tensor) -> Any:
        known = buffers.of(tensors)
        out = [buffers.result(r, tensors, known) for r in results]
        return out[0] if single else tuple(out)

    return run


class _Buffers:
    """The buffers of a call by slot; what a plan allocates comes when it is first needed."""

    def __init__(self, plan: Plan) -> None:
        self.count, self.tables = plan.operands, plan.tables
        self.first = plan.operands + len(plan.tables)
        self.sizes = plan.buffers
        self.allocate = plan.device.backend.allocate

    def of(self, tensors: Sequence[Tensor]) -> list[Any]:
        known: list[Any] = [t._buffer for t in tensors]
        for table in self.tables:
            known.append(_table_buffer(table))
        known += [None] * len(self.sizes)
        return known

    def result(self, value: Value, tensors: Sequence[Tensor], known: list[Any]) -> Tensor:
        slot = value.slot
        if slot < self.count:
            return Tensor(known[slot], value.spec, tensors[slot]._offset + value.offset)
        if known[slot] is None:
            known[slot] = self.allocate(self.sizes[slot - self.first])
        return Tensor(known[slot], value.spec, value.offset)


def _several(plan: Plan) -> Callable[..., Any]:
    """Step by step; scratch memory is had when a step needs it and goes after its last use."""
    buffers, results, single, count = _Buffers(plan), plan.results, plan.single, plan.operands
    kept = {r.slot for r in results}
    last = {s: k for k, step in enumerate(plan.steps) for s in step.slots if s not in kept}
    begun: set[int] = set()
    bound = []
    for k, step in enumerate(plan.steps):
        fresh = [s for s in dict.fromkeys(step.slots) if s >= buffers.first and s not in begun]
        begun.update(fresh)
        done = [s for s in dict.fromkeys(step.slots) if last.get(s) == k]
        needs = [(s, plan.buffers[s - buffers.first]) for s in fresh]
        runner = Launch(plan.device, step) if isinstance(step, Step) else _Native(step)
        moves = [(i, s) for i, s in enumerate(step.slots) if s < count]
        bound.append((needs, runner, step.slots, step.offsets, moves, done))
    allocate = plan.device.backend.allocate

    def run(*tensors: Tensor) -> Any:
        known = buffers.of(tensors)
        for needs, runner, slots, offsets, moves, done in bound:
            for slot, nbytes in needs:
                known[slot] = allocate(nbytes)
            at = offsets
            for i, slot in moves:
                start = tensors[slot]._offset
                if start:
                    at = (*at[:i], at[i] + start, *at[i + 1 :])
            runner.bind(at)(*[known[s] for s in slots])
            for slot in done:
                known[slot] = None
        out = [buffers.result(r, tensors, known) for r in results]
        return out[0] if single else tuple(out)

    return run


class _Native:
    """A native step, bound as a launch is."""

    def __init__(self, step: NativeStep) -> None:
        self._step = step

    def bind(self, offsets: tuple[int, ...]) -> Callable[..., None]:
        step = self._step

        def call(*buffers: Buffer) -> None:
            try:
                made: object = step.native.run(step.case, buffers, offsets)  # type: ignore[func-returns-value]
            except Exception as error:
                raise _failed(step, error) from error.__cause__
            if made is not None:
                raise _returned(step, made)

        return call


def _table_buffer(table: Table) -> Buffer:
    device = table.device
    key = table.shape, table.strides
    kept = device.constants.find(key)
    if kept is None:
        made: Tensor = table.plan.run()
        kept = made._buffer
        if table.plan.results[0].size <= _SMALL:
            device.constants.keep(key, kept)
    return kept


def _hosted(host: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *tensors: host(*tensors)
