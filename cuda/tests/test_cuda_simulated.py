"""The plugin's own code over the simulated driver: what a device does when all is well."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from children import run

TWO = "devices=2,capability=9.0/7.5,memory=2GiB/1GiB"


def test_two_devices_of_different_capability():
    run(
        """
        first, second = lines()
        assert (first.name, second.name) == ("cuda:0", "cuda:1")
        assert first.available and second.available, (first.cause, second.cause)
        assert first.evidence is second.evidence is Evidence.SIMULATED
        assert "compute capability 7.5" in second.description
        assert "driver CUDA 12.4" in second.description and "NVRTC 12.4" in second.description
        assert (first.details["target"], second.details["target"]) == ("sm_90", "sm_75")
        devices = [tensorbus_cuda.PLUGIN.open(k) for k in (0, 1)]
        for device, line, gib in zip(devices, (first, second), (2, 1)):
            assert device.info.name == line.name
            assert device.memory().total == gib << 30
            assert device.capabilities.ieee and device.capabilities.fp64
            assert device.capabilities.subnormals == "preserve"
            assert device.capabilities.local_memory == 49152
            assert device.dlpack_type == 2
        raises(DeviceUnavailableError, lambda: tensorbus_cuda.PLUGIN.open(2), "sees 2 CUDA devices")
        """,
        cuda=TWO + ",driver=12.4,nvrtc=12.4",
    )


def test_the_same_bits_as_the_interpreter_on_both_devices_and_between_them():
    run(
        """
        x = np.random.default_rng(1).normal(size=(129, 70)).astype(np.float32)
        x[0, :6] = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45]
        def work(t):
            with tb.reproducible():
                product = tb.matmul(t[1:], tb.matrix_transpose(t[1:]))
                return [tb.exp(t), tb.sum(t[1:], axis=0), product, tb.sort(t[1:], axis=1),
                        tb.astype(t, tb.float16)]
        def bits(found):
            arrays = [f.numpy() for f in found]
            return [np.where(np.isnan(a), a.dtype.type(3), a).tobytes() for a in arrays]
        a = tb.asarray(x, device="cuda:0")
        want = bits(work(tb.asarray(x, device="ref")))
        assert bits(work(a)) == want
        tb.get_device("cuda:1")
        before = driver.count("copy")
        b = a.to_device("cuda:1")
        assert driver.count("copy") == before + 1  # from one to the other, not by way of the host
        assert bits(work(b)) == want
        assert a.numpy().tobytes() == b.to_device("cuda:0").numpy().tobytes() == x.tobytes()
        assert (a[::2, 1:].to_device("cuda:1").numpy()[2:] == x[::2, 1:][2:]).all()
        """,
        cuda=TWO,
    )


def test_memory_that_another_device_still_reads_is_not_changed():
    run(
        """
        first, second = (tb.get_device(f"cuda:{k}").backend for k in (0, 1))
        source, target = first.allocate(4000), second.allocate(4000)
        first.copy_in(source, 0, memoryview(b"a" * 4000))
        assert second.copy_from(target, 0, source, 0, 4000)
        first.copy_in(source, 0, memoryview(b"b" * 4000))
        first.synchronize()
        out = bytearray(4000)
        second.copy_out(target, 0, memoryview(out))
        assert out == b"a" * 4000
        host = tb.get_device("ref").backend
        assert not second.copy_from(target, 0, host.allocate(8), 0, 8)
        """,
        cuda=TWO,
    )


def test_pinned_host_memory_is_done_with_on_return():
    """The driver reads and writes it late, unlike ordinary memory."""
    run(
        """
        import pycuda.driver as cu
        device = tb.get_device("cuda:0").backend
        for size in (4000, 40000):
            with device.driver.context.pushed():
                pinned = cu.pagelocked_empty(size, np.uint8)
            buffer = device.allocate(size)
            pinned[:] = 1
            device.copy_in(buffer, 0, pinned.data)
            pinned[:] = 2
            out = bytearray(size)
            device.copy_out(buffer, 0, memoryview(out))
            assert out == bytes([1]) * size
            device.copy_out(buffer, 0, pinned.data)
            assert (pinned == 1).all()
            with device.driver.context.pushed():
                del pinned
        """
    )


def test_devices_without_peer_access_copy_by_way_of_the_host():
    run(
        """
        a = tb.arange(1000, dtype=tb.int32, device="cuda:0") * 2
        tb.get_device("cuda:1")
        before = driver.count("copy")
        b = a.to_device("cuda:1")
        assert driver.count("copy") == before + 2
        assert (b.numpy() == np.arange(1000) * 2).all()
        """,
        cuda=TWO + ",peer=0",
    )


def test_results_do_not_depend_on_the_group_or_the_order():
    script = """
        x = np.random.default_rng(1).normal(size=(65, 700)).astype(np.float32)
        t = tb.asarray(x, device="cuda:0")
        with tb.reproducible():
            found = [tb.sum(t), tb.mean(t, axis=0), tb.nn.softmax(t, axis=1),
                     tb.cumulative_sum(t, axis=1)]
        import hashlib
        digest = hashlib.sha256()
        for f in found:
            digest.update(f.numpy().tobytes())
        print(tb.get_device("cuda:0").backend.driver.group, digest.hexdigest())
    """
    groups, digests = [], set()
    for group, seed in [("", "0"), ("1", "1"), ("33", "2"), ("256", "3")]:
        variables = {"TENSORBUS_CUDA_GROUP": group, "TENSORBUS_SIMULATE_SEED": seed}
        number, digest = run(script, **variables).split()
        groups.append(int(number))
        digests.add(digest)
    assert groups == [128, 1, 33, 256]
    assert len(digests) == 1


def test_threads_share_a_device():
    run(
        """
        device = tb.get_device("cuda:0")
        x = tb.arange(5000, dtype=tb.float32, device=device)
        wrong = []
        def work(k):
            for i in range(20):
                y = (x * k + i).numpy()
                if not (y == np.arange(5000, dtype=np.float32) * k + i).all():
                    wrong.append((k, i))
            device.backend.record().wait()
        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        assert not wrong
        """
    )


def test_launches_are_asynchronous_and_events_mark_the_queue():
    run(
        """
        backend = tb.get_device("cuda:0").backend
        x = tb.zeros(4096, dtype=tb.int32, device="cuda:0") + 1
        backend.synchronize()
        event = backend.record()
        assert event.done()
        for _ in range(20):
            x = x + 1
        late = backend.record()
        late.wait()
        assert late.done()
        assert (x.numpy() == 21).all()
        spare = len(backend.driver._own.events)
        del event, late
        assert len(backend.driver._own.events) == spare + 2  # used again, not made again
        """
    )


def test_another_library_keeps_its_context():
    """Its context stays current around every call, and a thread that has none keeps ours."""
    run(
        """
        import pycuda.driver as cu
        device = tb.get_device("cuda:0")
        lib = device.backend.driver._cuda
        def current():
            slot = lib.ffi.new("uintptr_t *")
            lib.lib.cuCtxGetCurrent(slot)
            return slot[0]
        own = device.backend.driver.context.handle
        x, square = tb.ones(1000, device=device), tb.ones((3, 3), device=device)
        assert current() == own
        other = cu.Device(1).retain_primary_context()
        other.push()
        for call in (lambda: (x + 1).numpy(), device.backend.synchronize, device.backend.record,
                     lambda: tb.matmul(square, square), device.backend.empty_cache):
            call()
            assert current() == other.handle != own
        other.pop()
        assert current() == own
        other.detach()
        """,
        cuda=TWO,
    )


def test_metadata_that_is_no_argument_lies_in_memory():
    run(
        """
        from dataclasses import dataclass
        from tensorbus_backends import clike, dtypes as dt

        @dataclass(frozen=True)
        class Many:
            name: str = "many"
            buffers: int = 1
            words: int = 1000

            def source(self, dialect):
                body = "LANES(l, 500) { y[l] = M(l + 500) + g; }"
                return clike.assemble(dialect, self.name, [clike.Argument("y", dt.int64, True)],
                                      self.words, body, offsets=[0])

            def local_bytes(self, dialect):
                return 0

        device = tensorbus_cuda.PLUGIN.open(0)
        (kernel,) = device.compile([Many()])
        assert kernel.in_memory
        words = np.arange(1000, dtype=np.int64)
        words[0] = 0
        out = device.allocate(4000)
        def result():
            got = np.empty(500, np.int64)
            device.copy_out(out, 0, got.data.cast("B"))
            return got
        device.launch(kernel, 1, [out], words.tobytes())
        assert (result() == words[500:]).all()
        words[500:] = 7
        launch = kernel.prepare(1, words.tobytes())
        for _ in range(2):
            launch(out)
        assert (result() == 7).all()
        """
    )


def test_products_of_cublas_agree_with_portable_ones():
    run(
        """
        rng = np.random.default_rng(3)
        shapes = [((5, 7), (7, 3)), ((2, 4, 5, 7), (7, 3)), ((4, 5, 7), (4, 7, 3)),
                  ((3, 1, 5, 7), (2, 7, 3)), ((1, 9), (9, 1))]
        for dtype in (tb.float16, tb.bfloat16, tb.float32, tb.float64):
            for first, second in shapes:
                for transposed in (False, True):
                    a, b = rng.integers(-4, 5, first), rng.integers(-4, 5, second)
                    if transposed:
                        b = b.swapaxes(-1, -2).copy()
                    x = tb.astype(tb.asarray(a.astype(np.float32), device="cuda:0"), dtype)
                    y = tb.astype(tb.asarray(b.astype(np.float32), device="cuda:0"), dtype)
                    if transposed:
                        y, b = tb.matrix_transpose(y), b.swapaxes(-1, -2)
                    got = tb.astype(tb.matmul(x, y), tb.float64).numpy()
                    assert (got == a @ b).all(), (dtype, first, second, transposed)
        from tensorbus_backends.contract import NativeCase
        native = tensorbus_cuda.PLUGIN.open(0).natives["matmul"]
        assert native.library.startswith("cuBLAS ")
        from tensorbus_backends import dtypes as dt
        case = lambda d: NativeCase("matmul", (d,) * 3, ((2, 2),) * 3, ((2, 1),) * 3)
        assert [d.name for d in dt.ALL if native.when(case(d))] == [
            "float16", "bfloat16", "float32", "float64"]
        """
    )


@pytest.mark.parametrize(("tf32", "dtype"), [("", "float16"), ("", "bfloat16"), ("1", "float32")])
def test_uneven_batches_at_odd_places(tf32, dtype):
    """cublasGemmBatchedEx faults there: its kernels read 16 bytes at a time."""
    run(
        f"""
        dtype = tb.{dtype}
        a = np.arange(3 * 5 * 9).reshape(3, 1, 5, 9) % 7 - 3
        b = np.arange(2 * 8 * 3).reshape(2, 8, 3) % 5 - 2
        x = tb.astype(tb.asarray(a.astype(np.float32), device="cuda:0"), dtype)[..., 1:]
        y = tb.astype(tb.asarray(b.astype(np.float32), device="cuda:0"), dtype)
        before = driver.count("launch")
        got = tb.matmul(x, y)
        launched = driver.count("launch") - before
        assert (tb.astype(got, tb.float64).numpy() == a[..., 1:] @ b).all()
        assert launched == 6, launched
        even = tb.astype(tb.asarray(np.ones((3, 1, 8, 8), np.float32), device="cuda:0"), dtype)
        other = tb.astype(tb.asarray(np.ones((2, 8, 8), np.float32), device="cuda:0"), dtype)
        before = driver.count("launch")
        got = tb.matmul(even, other)
        assert driver.count("launch") == before + 1
        assert (tb.astype(got, tb.float64).numpy() == 8).all()
        """,
        TENSORBUS_CUDA_TF32=tf32,
    )


def test_tf32_only_on_request():
    script = """
        native = tensorbus_cuda.PLUGIN.open(0).natives["matmul"]
        print(native.library)
    """
    assert "TF32" not in run(script)
    assert "TF32" not in run(script, TENSORBUS_CUDA_TF32="false")
    assert "TF32" in run(script, TENSORBUS_CUDA_TF32="1")
    words = "TENSORBUS_CUDA_TF32='abc' is neither on nor off"
    run(
        f"raises(DeviceUnavailableError, lambda: tensorbus_cuda.PLUGIN.open(0), {words!r})",
        TENSORBUS_CUDA_TF32="abc",
    )


def test_a_device_that_nobody_uses_any_more_is_given_back():
    run(
        """
        device = tensorbus_cuda.PLUGIN.open(0)
        buffer = device.allocate(1 << 20)
        resources = device.driver._own
        assert resources.memory
        del buffer, device
        gc.collect()
        assert not resources.memory and not resources.modules and resources.stream is None
        again = tensorbus_cuda.PLUGIN.open(0)
        again.allocate(1 << 20)
        """
    )


_TRAINING = f"""
    sys.path.insert(0, {str(Path(__file__).parents[2] / "dispatcher" / "tests")!r})
    from training import Training
    want = Training("ref")
    want = [want.step(k).item() for k in range(3)]
    training = Training("cuda:0")
    before, launched = driver.count("wait"), driver.count("launch")
    losses = [training.step(k) for k in range(3)]
    waits = driver.count("wait") - before
    assert driver.count("launch") - launched > 60
    assert np.allclose([loss.item() for loss in losses], want, rtol=1e-5)
    assert driver.count("wait") > before + waits
    print(waits)
"""


def test_a_training_step_waits_for_nothing_before_the_loss_is_read():
    """Each with new keys, new numbers and new indices."""
    assert run(_TRAINING) == "0\n"
    assert int(run(_TRAINING, TENSORBUS_CHECK_INDICES="1")) > 3


def test_small_copies_from_the_host_wait_for_nothing():
    run(
        """
        tb.get_device("cuda:0")
        before = driver.count("wait")
        y = [tb.asarray(np.full(1000, k, np.float32), device="cuda:0") + (k % 5)
             for k in range(60)]
        assert driver.count("wait") == before
        large = tb.asarray(np.zeros(1 << 14, np.float32), device="cuda:0")
        assert driver.count("wait") > before
        for k in range(60, 200):
            y.append(tb.asarray(np.full(1000, k, np.float32), device="cuda:0") + (k % 5))
        for k, sum in enumerate(y):
            assert (sum.numpy() == k + k % 5).all(), k
        """
    )


def test_public_calls_of_pycuda_give_the_same_bits():
    run(
        """
        from functools import partial
        from tensorbus_cuda import driver as module
        used = []
        def public(function):
            used.append(function)
            return partial(module._run_prepared, function)
        module._runner = public
        x = np.random.default_rng(1).normal(size=(129, 70)).astype(np.float32)
        def bits(device):
            t = tb.asarray(x, device=device)
            with tb.reproducible():
                found = [tb.exp(t), tb.sum(t[1:], axis=0), tb.sort(t[1:], axis=1)]
            return [f.numpy().tobytes() for f in found]
        assert bits("cuda:0") == bits("ref")
        assert used
        """
    )
