"""Memory of the cpu device."""

from __future__ import annotations

import gc

import pytest
from tensorbus_backends.contract import OutOfMemoryError


@pytest.fixture
def own(fresh_device, tmp_path_factory):
    """A device whose figures no other test changes, over a compile cache that all share."""
    return fresh_device(tmp_path_factory.getbasetemp() / "kernels")


@pytest.mark.parametrize("nbytes", [0, 1, 100, 4096, 100_000, 3 << 20, (5 << 20) + 1])
def test_blocks_are_aligned_writable_and_used_again(own, nbytes):
    buffer = own.allocate(nbytes)
    address = own.address(buffer)
    assert address % 64 == 0
    assert buffer.nbytes == nbytes
    own.copy_in(buffer, 0, memoryview(b"\xff" * nbytes))
    del buffer
    assert own.address(own.allocate(nbytes)) == address


def test_figures_follow_buffers(own):
    start = own.memory()
    assert start.total > 0
    a, b = own.allocate(1 << 20), own.allocate(1 << 20)
    assert own.memory().used == start.used + (2 << 20)
    del a
    figures = own.memory()
    assert figures.used == start.used + (1 << 20)
    assert figures.cached >= 1 << 20
    assert figures.peak >= start.used + (2 << 20)
    own.empty_cache()
    assert own.memory().cached == 0
    del b
    assert own.memory().used == start.used


def test_out_of_memory_and_then_usable(own):
    for nbytes in (own.memory().total * 2, 1 << 62, 1 << 64, 1 << 100):
        with pytest.raises(OutOfMemoryError, match="cpu: out of memory"):
            own.allocate(nbytes)
    with pytest.raises(OutOfMemoryError, match="-5 bytes"):
        own.allocate(-5)
    buffer = own.allocate(1000)
    own.copy_in(buffer, 0, memoryview(bytes(1000)))


def test_a_system_that_refuses_is_reported_after_kept_blocks_are_given_back(own, monkeypatch):
    held = own.allocate(1 << 20)
    del held
    assert own.memory().cached >= 1 << 20
    real, released = own._obtain, []

    def refuse_large(nbytes):
        released.append(own.memory().cached)
        if nbytes > 1 << 20:
            raise MemoryError
        return real(nbytes)

    monkeypatch.setattr(own._pool, "_allocate", refuse_large)
    with pytest.raises(OutOfMemoryError, match=r"2\.0 MiB"):
        own.allocate(2 << 20)
    assert released[-1] == 0
    assert own.allocate(1 << 20).nbytes == 1 << 20


def test_freed_blocks_do_not_pile_up(own):
    own.allocate(1 << 16)
    before = own.memory()
    for _ in range(20_000):
        own.allocate(1 << 16)
    gc.collect()
    after = own.memory()
    assert (after.used, after.cached) == (before.used, before.cached)


def test_an_imported_pointer_keeps_its_owner_and_costs_nothing(own):
    class Owner:
        alive = True

        def __del__(self) -> None:
            Owner.alive = False

    used = own.memory().used
    buffer = own.import_pointer(4096, 64, Owner())
    gc.collect()
    assert Owner.alive
    assert own.memory().used == used
    del buffer
    gc.collect()
    assert not Owner.alive
