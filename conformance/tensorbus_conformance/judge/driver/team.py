"""The cpu device's threads and its calls from Python: who takes part, what is kept, what leaks.

Kernels of the judge's own note which thread runs which group and wait for each other, so that
threads are counted and nothing is timed.
"""

from __future__ import annotations

import functools
import gc
import os
import resource
import signal
import sys
import threading
import time
import tracemalloc
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt, ir
from tensorbus_backends.contract import Buffer, Device
from tensorbus_backends.dialect import Dialect
from tensorbus_backends.kernels import Map, Operand
from tensorbus_backends.kernels.base import Strided, pack

from ..session import Session
from .apart import afresh, changed, forked
from .base import Checks, affine, duty, filled, integers, numbers

Array = NDArray[np.int64]

_THREADS, _GROUPS = 4, 64
_MANY = 56  # threads, each of which gets one of 64 groups
_ROUNDS = 12  # of blocks that come and go: a quarter of them lost adds up to three rounds' worth
_END = 60  # seconds after which what hangs is ended; a busy machine takes one or two
_MISSING, _COUNT, _GO = 0, 1, 2  # words of a job's state
_SEATS, _MASKS, _WORDS = 8, 80, 160  # threads that came, the signals that they do not take, all

_TEXT = """
    volatile i64 *const state = (volatile i64 *)tb_buffers[0];
    i64 *const times = (i64 *)tb_buffers[1];
    const i64 me = (i64)pthread_self(), count = __atomic_load_n(&state[1], 5);
    i64 seat = -1;
    for (i64 k = 0; k < count; ++k) if (state[8 + k] == me) seat = k;
    if (seat < 0) {
        seat = __atomic_load_n(&state[1], 5);
        while (!__atomic_compare_exchange_n(&state[1], &seat, seat + 1, 0, 5, 5)) ;
        u64 set[16] = {0};
        pthread_sigmask(1, 0, set); /* how: ignored where nothing is set */
        if (seat < 60) { state[80 + seat] = (i64)set[0]; state[8 + seat] = me; }
    }
    /* Until all have come and it is told to go on, 3 s at most. */
    for (i64 k = 0; (state[1] < M(0) || state[2] < M(2)) && !state[0]; ++k) {
        if (k == 10000) state[0] = 1;
        usleep(300);
    }
    if (me != M(1)) usleep(10000);
    for (i64 g = tb_first; g < tb_end; ++g) times[g] += 1;
"""


@dataclass(frozen=True)
class _Meeting:
    """Threads that run it wait until ``M(0)`` have come, and others than ``M(1)`` are slow."""

    name: str = "tb_judge_meeting"
    buffers: int = 2
    words: int = 3

    def source(self, dialect: Dialect) -> str:
        """C that calls the system."""
        heads = (
            "extern void *pthread_self(void);\nextern int usleep(unsigned);\n"
            "extern int pthread_sigmask(int, const void *, void *);\n"
        )
        return f"{heads}{dialect.kernel.format(name=self.name)} {{{_TEXT}}}\n"

    def local_bytes(self, dialect: Dialect) -> int:
        """None."""
        return 0

    def arguments(self) -> Sequence[Any]:
        """Not asked for."""
        return ()

    def interpret(self, arrays: Sequence[Any], meta: Any, groups: int) -> None:
        """Not interpreted."""
        raise NotImplementedError


class _Team:
    """A cpu device that runs jobs on `_THREADS` threads, as a process of its own would have it."""

    def __init__(self, session: Session, checks: Checks, threads: int = _THREADS) -> None:
        signal.alarm(_END)
        package = type(session.guard.real).__module__.partition(".")[0]
        with changed(os.environ, TENSORBUS_NUM_THREADS=str(threads)):
            self.device: Device = afresh(package).PLUGIN.open(0)
        self.checks = checks
        (self.kernel,) = self.device.compile([_Meeting()])

    def shared(self, n: int) -> tuple[Array, Buffer]:
        """Zeros that the host and kernels see at the same time."""
        array: Array = np.zeros(n, np.int64)
        return array, self.device.import_pointer(array.ctypes.data, array.nbytes, array)

    def meet(self, what: str, due: int, groups: int = _GROUPS) -> dict[int, int]:
        """One job in which `due` threads have to take part; what signals each of them blocks."""
        if self.checks.outcome.state != "pass":
            return {}  # what is missing once would be waited for each time
        state, a = self.shared(_WORDS)
        times, b = self.shared(groups)
        me = threading.get_ident()
        self.device.launch(self.kernel, groups, [a, b], pack([due, me, 0]))
        done = times.copy()
        came = [int(x) for x in state[_SEATS : _SEATS + min(int(state[_COUNT]), 60)]]
        that = self.checks.that
        that(bool((done == 1).all()), f"{what}: {int((done != 1).sum())} groups did not run once")
        that(len(came) == due and not state[_MISSING], f"{what}: {len(came)} threads of {due} came")
        that(me in came or 1 < due < _THREADS, f"{what}: the caller does nothing")
        return {t: int(state[_MASKS + k]) for k, t in enumerate(came)}


def _come(state: Array, due: int) -> bool:
    return bool(state[_COUNT] >= due)


def _wait(holds: Callable[[], bool], seconds: float = 2.0) -> bool:
    limit = time.monotonic() + seconds
    while not holds() and time.monotonic() < limit:
        time.sleep(0.001)
    return holds()


def _grandchild(checks: Checks, work: Callable[[], object], who: str) -> None:
    """Run `work` in another forked child; what it finds is this one's finding."""
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(_END)
            work()
        except BaseException as error:
            checks.that(False, f"{type(error).__name__}: {error}")
        finally:
            failed = checks.outcome.state != "pass"
            if failed:
                print(f"{who}: {checks.outcome.message}", file=sys.stderr)
            os._exit(9 if failed else 0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    words = {9: "does not work as its parent", -signal.SIGALRM: "hangs"}
    checks.that(code == 0, f"{who} {words.get(code, f'ends with status {code}')}")


@forked
def together(checks: Checks, folder: Path, session: Session) -> None:
    """All threads take part in every large job: one after another, after a rest, after a fork."""
    team = _Team(session, checks)
    told = team.device.info.details.get("threads")
    checks.that(told == str(_THREADS), f"a device of {_THREADS} threads says {told}")
    for k in range(3):
        team.meet(f"job {k}", _THREADS)
    for k in range(3):
        time.sleep(0.02)
        team.meet(f"job {k} after a rest", _THREADS)
    for groups in (1, 2, 3):
        team.meet(f"a job of {groups} groups", groups, groups)
    for k in range(20):
        team.meet(f"job {k} of many", _THREADS, 20 + k)
    if checks.outcome.state == "pass":
        _grandchild(checks, lambda: team.meet("in the child", _THREADS), "a child of a busy parent")
    if checks.outcome.state == "pass":
        team.meet("after a fork", _THREADS)
        _Team(session, checks, 1).meet("a device of one thread", 1)


@forked
def rivals(checks: Checks, folder: Path, session: Session) -> None:
    """A job beside another thread's runs at once, on its caller; both let Python go on."""
    team = _Team(session, checks)
    team.meet("alone", _THREADS)
    for groups in (_GROUPS, 1, _GROUPS):
        if checks.outcome.state != "pass":
            return
        state, a = team.shared(_WORDS)
        times, b = team.shared(groups)
        meta = pack([min(groups, _THREADS), 0, 1])
        job = (team.kernel, groups, [a, b], meta)
        first = threading.Thread(target=team.device.launch, args=job, daemon=True)
        first.start()
        came = _wait(functools.partial(_come, state, min(groups, _THREADS)))
        checks.that(came, f"a job of {groups} groups has {state[_COUNT]} threads")
        checks.that(not state[_MISSING], "a job keeps Python's other threads from running")
        beside = threading.Thread(target=team.meet, args=("beside another", 1), daemon=True)
        if groups > 1:
            beside.start()
            beside.join(2.5)
            checks.that(not beside.is_alive(), "a job waits for another thread's")
        checks.that(bool((times == 0).all()), "the first job has ended by itself")
        state[_GO] = 1
        first.join(10.0)
        checks.that(not first.is_alive(), "a job does not end")
        checks.that(bool((times == 1).all()), "groups of a job did not run once")
        if groups > 1 and beside.is_alive():
            beside.join(10.0)
        team.meet("after two at once", _THREADS)


_SIGNALS = ("HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "ALRM", "VTALRM", "PROF", "CHLD",
            "PIPE", "XCPU", "XFSZ", "IO", "SYS", "TSTP", "TTIN", "TTOU", "URG", "WINCH",
            "CONT")  # fmt: skip


@forked
def masks(checks: Checks, folder: Path, session: Session) -> None:
    """Signals are the program's threads' to take: those of the device take none of them."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGWINCH])
    team = _Team(session, checks)  # threads are started by its first kernel
    blocked = team.meet("at first", _THREADS)
    now = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    checks.that(now == {signal.SIGWINCH}, "starting threads changed what signals the caller takes")
    for name in _SIGNALS if blocked else ():
        bit = 1 << (int(getattr(signal, f"SIG{name}", signal.SIGINT)) - 1)
        takes = [t for t, mask in blocked.items() if not mask & bit]
        due = [] if name == "WINCH" else [threading.get_ident()]
        checks.that(takes == due, f"{len(takes)} threads take SIG{name}, due is the caller alone")


@forked
def few(checks: Checks, folder: Path, session: Session) -> None:
    """Where the system gives no more threads, jobs run on those that there are."""
    if not Path("/proc/self/statm").exists():
        return
    team = _Team(session, checks)
    runtime: Any = team.device
    team.meet("with all threads", _THREADS)
    first = len(os.listdir("/proc/self/task"))  # others than the team's among them
    runtime._runtime.lib.tb_configure(_MANY)  # the next job starts what is missing
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as statm:
        room = int(statm.read().split()[0]) * resource.getpagesize() + (2 << 20)
    (_, a), (_, b) = team.shared(_WORDS), team.shared(_GROUPS)
    resource.setrlimit(resource.RLIMIT_AS, (room, hard))
    team.device.launch(team.kernel, _GROUPS, [a, b], pack([1, 0, 0]))
    # Stacks that ended threads left behind make one or another, 40 MiB of them in glibc.
    there = _THREADS + len(os.listdir("/proc/self/task")) - first
    checks.that(_THREADS <= there <= _MANY, f"there are {there} threads")
    for k in range(2):
        team.meet(f"job {k} without more threads", there)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    team.meet("a job after that", there)


def _wide(count: int) -> Map:
    """The sum of `count` - 1 operands."""
    total = ir.input_(0, dt.int32)
    for k in range(1, count - 1):
        total = total + ir.input_(k, dt.int32)
    operands = (Operand(dt.int32),) * (count - 1)
    return Map(f"driver_wide{count}", operands, (Operand(dt.int32),), (total,))


_FAST = 16


@forked
def calls(checks: Checks, folder: Path, session: Session) -> None:
    """A prepared launch is the device's built-in function, and refuses what it cannot take."""
    device, n = session.guard.real, 100
    ships = Path(sys.modules[type(device).__module__].__file__ or "").with_name("fastcall.c")
    fast = ships.exists() and sys.implementation.name == "cpython"
    kernel: Any
    for count in (2, 3, 8, _FAST - 1, _FAST, _FAST + 1, _FAST + 4):
        spec = _wide(count)
        (kernel,) = device.compile([spec])
        meta = pack(spec.meta(n, [], [Strided.words(0, 1, [])] * count))
        groups = spec.groups(device.dialect, n, 1)
        launch = kernel.prepare(groups, meta)
        if fast and count <= _FAST:
            built_in = isinstance(launch, types.BuiltinFunctionType)
            checks.that(built_in, f"a launch of {count} buffers takes the slow way")
        data = [integers(n, k) for k in range(count - 1)]
        buffers: list[Any] = [filled(device, d) for d in data] + [device.allocate(4 * n)]
        held = [b.address for b in buffers]
        before = [sys.getrefcount(a) for a in held]
        for _ in range(50):
            launch(*buffers)
        after = [sys.getrefcount(a) for a in held]
        checks.that(after == before, f"{count} buffers: references to addresses went astray")
        want = np.sum(data, axis=0, dtype=np.int64).astype(np.int32)
        right = bool((numbers(device, buffers[-1], n) == want).all())
        checks.that(right, f"a prepared launch of {count} buffers is wrong")
        if not (fast and count <= _FAST):
            continue
        for bad in (buffers[1:], [*buffers, buffers[0]], []):
            checks.raises(TypeError, f"{len(bad)} buffers of {count}", launch, *bad)
        for other, kind in (
            (None, AttributeError), (types.SimpleNamespace(address="x"), TypeError),
            (types.SimpleNamespace(address=1 << 80), OverflowError),
        ):  # fmt: skip
            checks.raises(kind, f"{other!r} for a buffer", launch, *buffers[:-1], other)
        launch(*buffers)  # and none of that is left behind
    references = sys.getrefcount(None)
    for _ in range(1000):
        launch(*buffers)
    lost = references - sys.getrefcount(None)
    checks.that(abs(lost) < 100, f"{lost} references to None are lost in 1,000 launches")


@forked
def growth(checks: Checks, folder: Path, session: Session) -> None:
    """A thousand launches, and blocks that come and go, leave memory as it was."""
    device, n = _Team(session, checks).device, 100
    spec = affine(82)
    kernel: Any
    (kernel,) = device.compile([spec])
    x: Any = filled(device, integers(n, 1))
    y: Any = device.allocate(4 * n)

    def work(times: int) -> None:
        for p in range(times):
            meta = pack(spec.meta(n, [], [Strided.words(0, 1, [])] * 2, [p]))
            kernel.prepare(1, meta)(x, y)
            device.launch(kernel, 1, [x, y], meta)

    work(10)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    work(300)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    checks.that(grown < 10_000, f"{grown:,} bytes are kept of 600 launches")
    if not Path("/proc/self/statm").exists():
        return

    def room() -> int:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[0]) * resource.getpagesize()

    unit, seen = 1 << 20, list[int]()
    for nbytes, count in ((unit, 40), (60_000, 500), (3 * unit, 24)):
        seen.clear()
        for _ in range(_ROUNDS):
            held = [device.allocate(nbytes) for _ in range(count)]
            during = room()
            del held
            device.empty_cache()
            seen.append(room())
        # The system's allocator keeps a round's worth, or gives it back, as it likes.
        most = seen[-1] - min(seen)
        kept = most >= 2 * count * nbytes
        checks.that(not kept, f"{most:,} bytes of blocks of {nbytes:,} never come back")
    extra = during - seen[-1] - count * nbytes  # of the largest, which the system maps one by one
    checks.that(extra < 8 * unit, f"{count} blocks of {nbytes:,} take {extra:,} bytes more")


duty("team", together, rivals, masks, few, calls, growth, plugins=("cpu",), smoke=False)
