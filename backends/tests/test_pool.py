"""The caching allocator core, over a fake device."""

from __future__ import annotations

import threading

import pytest
from tensorbus_backends.contract import OutOfMemoryError
from tensorbus_backends.pool import CachingPool, class_size, format_bytes


class FakeMemory:
    """Raw memory of a given size; blocks are numbers."""

    def __init__(self, size: int) -> None:
        self.size, self.blocks, self.count, self.calls = size, {}, 0, 0

    def allocate(self, nbytes: int) -> int:
        self.calls += 1
        if sum(self.blocks.values()) + nbytes > self.size:
            raise MemoryError
        self.count += 1
        self.blocks[self.count] = nbytes
        return self.count

    def release(self, block: int, nbytes: int) -> None:
        assert self.blocks.pop(block) == nbytes


def make(size: int, **options: int) -> tuple[FakeMemory, CachingPool[int]]:
    memory = FakeMemory(size)
    return memory, CachingPool("fake", memory.allocate, memory.release, **options)


@pytest.mark.parametrize("nbytes", [0, 1, 63, 64, 65, 1000, 1024, 1025, 4097, 10**6, 10**9 + 7])
def test_size_classes_hold_requests_and_waste_little(nbytes):
    size = class_size(nbytes)
    assert size >= max(nbytes, 64)
    assert size % 64 == 0
    assert class_size(size) == size
    assert size - max(nbytes, 1) < max(64, nbytes / 8)


def test_size_classes_never_shrink():
    sizes = [class_size(n) for n in range(5000)]
    assert sizes == sorted(sizes)


def test_blocks_are_used_again_and_counted():
    memory, pool = make(10_000)
    home = pool.size_class(100)
    first = pool.take(home)
    second = pool.take(home)
    assert (pool.figures().used, pool.figures().cached) == (256, 0)
    pool.give(home, first)
    assert (pool.figures().used, pool.figures().cached) == (128, 128)
    assert pool.size_class(128) is home
    assert pool.take(home) == first
    pool.give(home, first)
    pool.give(home, second)
    figures = pool.figures()
    assert (figures.used, figures.cached, figures.peak) == (0, 256, 256)
    assert memory.calls == 2
    pool.empty()
    assert memory.blocks == {}
    assert pool.figures().cached == 0


def test_kept_blocks_are_released_before_memory_is_called_short():
    memory, pool = make(1000)
    small = pool.size_class(512)
    pool.give(small, pool.take(small))
    large = pool.size_class(896)
    block = pool.take(large)
    assert memory.blocks == {block: 896}


def test_out_of_memory_leaves_the_pool_usable():
    _, pool = make(1000, total=5000)
    home = pool.size_class(512)
    held = pool.take(home)
    with pytest.raises(OutOfMemoryError, match=r"fake: out of memory: 512 bytes asked for"):
        pool.take(home)
    assert (pool.figures().used, pool.figures().peak) == (512, 512)
    pool.give(home, held)
    assert pool.take(home) == held


def test_absurd_sizes_are_refused_without_asking_the_system():
    memory, pool = make(1 << 60, total=1 << 30)
    for nbytes in (1 << 31, 1 << 70):
        with pytest.raises(OutOfMemoryError, match="out of memory"):
            pool.size_class(nbytes)
    with pytest.raises(OutOfMemoryError, match="-1 bytes"):
        pool.size_class(-1)
    home = pool.size_class(1 << 29)
    pool.take(home)
    pool.take(home)
    with pytest.raises(OutOfMemoryError, match=r"1.0 GiB of 1.0 GiB are in use"):
        pool.take(home)
    assert memory.calls == 2


def test_blocks_held_by_reference_cycles_are_found():
    memory, pool = make(1000)
    home = pool.size_class(768)

    class Holder:
        def __init__(self) -> None:
            self.me, self.block = self, pool.take(home)

        def __del__(self) -> None:
            pool.give(home, self.block)

    Holder()
    assert pool.take(home) in memory.blocks


def test_a_limit_on_what_is_kept():
    memory, pool = make(10**6, keep=1000)
    for nbytes in (512, 448, 384, 320):
        home = pool.size_class(nbytes)
        pool.give(home, pool.take(home))
        assert sum(memory.blocks.values()) <= 1000


def test_threads_share_a_pool():
    memory, pool = make(10**9)
    live: set[int] = set()
    twice = []

    def work() -> None:
        for k in range(3000):
            home = pool.size_class(64 * (1 + k % 5))
            block = pool.take(home)
            if block in live:
                twice.append(block)
            live.add(block)
            live.discard(block)
            pool.give(home, block)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert twice == []
    assert pool.figures().used == 0
    assert pool.figures().cached == sum(memory.blocks.values())


def test_sizes_for_people():
    assert [format_bytes(n) for n in (5, 1536, 3 << 30)] == ["5 bytes", "1.5 KiB", "3.0 GiB"]
