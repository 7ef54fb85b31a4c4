"""Small copies in: what the caller gave on the call arrives, however late the driver reads."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from tensorbus_backends.contract import LaunchError
from tensorbus_backends.staging import LARGEST, Staging


class Late:
    """A queue that does nothing before it is waited for."""

    def __init__(self, blocks: int = 9) -> None:
        self.left, self.waits, self.fails = blocks, 0, 0
        self.waiting: list[Callable[[], None]] = []
        self.memory: dict[int, bytes] = {}

    def obtain(self, nbytes: int) -> memoryview | None:
        self.left -= 1
        return memoryview(bytearray(nbytes)) if self.left >= 0 else None

    def send(self, place: int, source: memoryview) -> object:
        held = object()
        self.waiting.append(lambda: self.memory.update({place: bytes(source)}))
        return held

    def record(self) -> Mark:
        return Mark(self, len(self.waiting))

    def run(self, count: int) -> None:
        """Do what was begun first, until `count` pieces were."""
        for k, piece in enumerate(self.waiting[:count]):
            piece()
            self.waiting[k] = lambda: None

    def staging(self) -> Staging:
        return Staging(self.obtain, self.send, self.record)


class Mark:
    def __init__(self, queue: Late, end: int) -> None:
        self.queue, self.end = queue, end

    def wait(self) -> None:
        self.queue.waits += 1
        if self.queue.fails:
            self.queue.fails -= 1
            raise LaunchError("an earlier kernel failed")
        self.queue.run(self.end)

    def done(self) -> bool:
        return False


@pytest.mark.parametrize("blocks", [9, 2, 1])
def test_what_was_given_arrives_whatever_becomes_of_the_source(blocks: int) -> None:
    late, rng = Late(blocks), random.Random(5)
    staging, due = late.staging(), {}
    for place in range(200):
        size = rng.choice([1, 3, 64, 65, 4000, LARGEST - 1, LARGEST])
        source = bytearray(rng.randbytes(size))
        due[place] = bytes(source)
        assert staging.put(place, memoryview(source))
        source[:] = bytes(size)
    late.run(len(late.waiting))
    assert late.memory == due
    assert late.waits > 0


def test_nothing_is_waited_for_before_all_blocks_are_full() -> None:
    late = Late()
    staging = late.staging()
    for place in range(16):
        staging.put(place, memoryview(bytes(LARGEST)))
    assert late.waits == 0
    staging.put(16, memoryview(b"a"))
    assert late.waits == 1
    assert sorted(late.memory) == [0, 1, 2, 3]


def test_a_driver_without_such_memory_says_so_each_time() -> None:
    late = Late(0)
    staging = late.staging()
    assert not staging.put(0, memoryview(b"a"))
    assert not staging.put(0, memoryview(b"a"))
    assert not late.waiting


def test_a_failure_that_a_wait_meets_is_raised_and_later_copies_go_on() -> None:
    late = Late(1)
    staging = late.staging()
    for place in range(4):
        staging.put(place, memoryview(bytes([place]) * LARGEST))
    late.fails = 1
    with pytest.raises(LaunchError, match="earlier"):
        staging.put(4, memoryview(b"e"))
    assert staging.put(4, memoryview(b"e"))
    late.run(len(late.waiting))
    assert late.memory == {**{k: bytes([k]) * LARGEST for k in range(4)}, 4: b"e"}


def test_elements_of_any_width_are_bytes() -> None:
    late = Late()
    late.staging().put(0, memoryview(bytes(range(8))).cast("i"))
    late.run(1)
    assert late.memory[0] == bytes(range(8))
