"""What goes wrong on a device, provoked in the simulated driver: one clear line for each."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from children import run


def absent(cuda: str, *words: str, setup: str = "") -> None:
    """Every line of a machine is unavailable, with these words in its cause and fix."""
    run(
        f"""
        {setup}
        for line in lines():
            print(line)
            assert not line.available and line.fix
            for word in {words!r}:
                assert word in line.cause + " // " + line.fix, (word, line.cause, line.fix)
        raises(DeviceUnavailableError, lambda: tensorbus_cuda.PLUGIN.open(0), *{words[:1]!r})
        """,
        cuda=cuda,
    )


# -- probing ----------------------------------------------------------------------------------


def test_a_driver_that_is_too_old():
    absent("driver=11.4", "knows CUDA 11.4, and 11.8 is needed", "install a newer driver")


def test_a_driver_without_a_device():
    absent("devices=0", "finds no GPU", "CUDA_VISIBLE_DEVICES")


def test_a_driver_that_does_not_start():
    absent("init=803", "does not start", "reboot")


def test_too_little_memory():
    absent("memory=8KiB", "finds no room in its memory", "of 8.0 KiB", "nvidia-smi")


def test_a_compiler_that_knows_no_such_old_device():
    absent("capability=6.1", "does not compile for its compute capability 6.1", "cu12")


def test_a_compiler_that_fails():
    setup = "from tensorbus_backends import check; check._LINES += ' nonsense;'"
    absent(
        "", "its compiler fails on a small kernel: tensorbus.cu", "'nonsense' was not", setup=setup
    )


def test_a_compiler_that_does_not_start_is_not_the_drivers_fault():
    reject = "CompileError('NVRTC 13.0 rejected it', 'cannot start /nonexistent')"
    setup = (
        "from tensorbus_cuda.compiler import Nvrtc; from unittest.mock import Mock; "
        f"Nvrtc.compile = Mock(side_effect={reject})"
    )
    said = "its compiler fails on a small kernel: NVRTC 13.0 rejected it (cannot start /nonexistent"
    absent("", said, "update its driver and NVRTC together", setup=setup)


def test_a_device_that_computes_wrong():
    wrong = "check._LINES.replace('{a} + {b}', '{a}')"
    setup = f"from tensorbus_backends import check; check._LINES = {wrong}"
    absent("", "gave wrong results on it (add f32, add f64)", setup=setup)


def test_a_compiler_that_is_newer_than_the_driver():
    words = ("the driver, for CUDA 12.4, does not take what NVRTC 13.0 compiles", "nvrtc-cu12")
    absent("driver=12.4,nvrtc=13.0", *words)


def test_one_broken_device_does_not_hide_the_other():
    run(
        """
        first, second = lines()
        assert not first.available and second.available
        assert tensorbus_cuda.PLUGIN.open(1).info.name == "cuda:1"
        """,
        cuda="devices=2,memory=8KiB/1GiB",
    )


def test_ptx_where_the_compiler_is_older_than_the_device():
    run(
        """
        (line,) = lines()
        assert line.available, line.cause
        assert line.details["target"] == "compute_80", line.details["target"]
        assert line.description.endswith("kernels as PTX for compute_80"), line.description
        x = tb.asarray([1.0, 2.0], device="cuda:0")
        assert (tb.sqrt(x * x).numpy() == [1, 2]).all()
        """,
        cuda="capability=9.0,archs=75/80",
    )


def test_ptx_where_the_driver_refuses_machine_code():
    run(
        """
        from tensorbus_cuda.driver import CudaDriver
        take = CudaDriver.load
        def load(self, image):
            if b".version" not in image[:300]:
                raise CompileError("no machine code today")
            return take(self, image)
        CudaDriver.load = load
        (line,) = lines()
        assert line.available, line.cause
        assert line.details["target"] == "compute_90", line.details["target"]
        """
    )


def test_a_slightly_newer_compiler_does():
    run("assert lines()[0].details['target'] == 'sm_90'", cuda="driver=12.2,nvrtc=12.8")


def test_a_group_that_the_device_does_not_have():
    for value in ("2000", "x"):
        words = f"TENSORBUS_CUDA_GROUP='{value}'", "from 1 to 1024"
        run(
            f"""
            assert lines()[0].available
            raises(DeviceUnavailableError, lambda: tensorbus_cuda.PLUGIN.open(0), *{words!r})
            """,
            TENSORBUS_CUDA_GROUP=value,
        )


# -- running ----------------------------------------------------------------------------------


def test_out_of_memory_gives_back_what_is_kept_and_leaves_the_device_usable():
    run(
        """
        device = tb.get_device("cuda:0").backend
        kept = device.allocate(40 << 20)
        del kept
        assert device.memory().cached >= 40 << 20
        buffer = device.allocate(50 << 20)  # for which the kept block has to go
        assert device.memory().cached == 0
        del buffer
        driver.arm("alloc", 1)
        device.allocate(60 << 20)  # pycuda tries again
        raises(OutOfMemoryError, lambda: device.allocate(1 << 40), "cuda:0: out of memory")
        blocks = []
        def fill():
            while True:
                blocks.append(device.allocate(8 << 20))
        raises(OutOfMemoryError, fill, "out of memory", "drop tensors")
        assert len(blocks) >= 4
        blocks.clear()
        x = tb.ones(1000, device="cuda:0") + 1
        assert (x.numpy() == 2).all()
        """,
        cuda="memory=64MiB",
    )


def test_a_launch_that_is_refused_leaves_the_device_usable():
    run(
        """
        x = tb.ones(1000, device="cuda:0")
        (x + 1).numpy()
        driver.arm("launch", 1)
        words = "launching kernel 'tb_add", "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "registers"
        raises(LaunchError, lambda: x + 1, *words)
        assert ((x + 1).numpy() == 2).all()
        """
    )


@pytest.mark.parametrize("kind", ["illegal", "kernel", "lost"])
def test_a_device_that_is_lost_says_so_from_then_on(kind):
    run(
        f"""
        device = tb.get_device("cuda:0")
        other = tb.ones(10, device="cuda:1")
        x = tb.ones(1000, device=device)
        (x + 1).numpy()
        driver.arm({kind!r}, 1)
        def work():
            (x + 1).numpy()
        first = raises(DeviceLostError, work, "cuda:0 was lost while", "start a new process")
        raises(DeviceLostError, work)
        raises(DeviceLostError, device.synchronize)
        raises(DeviceLostError, lambda: device.backend.record().wait())
        raises(DeviceLostError, lambda: tb.asarray(np.ones(5), device=device))
        assert ((other + 1).numpy() == 2).all()  # the other device goes on
        """,
        cuda="devices=2",
    )


def test_a_copy_that_fails():
    run(
        """
        x = tb.ones(1000, device="cuda:0")
        x.numpy()
        driver.arm("copy", 1)
        raises(LaunchError, x.numpy, "copying from it", "CUDA_ERROR_OPERATING_SYSTEM")
        driver.arm("copy", 1)
        raises(LaunchError, lambda: tb.asarray(np.ones(9), device="cuda:0"), "copying to it")
        assert (x.numpy() == 1).all()
        """
    )


def test_a_kernel_that_does_not_compile_shows_log_and_numbered_source():
    run(
        """
        from dataclasses import dataclass

        @dataclass(frozen=True)
        class Broken:
            name: str = "broken"
            buffers: int = 1
            words: int = 1

            def source(self, dialect):
                meta = dialect.meta.format(name=self.name, words=1)
                head = dialect.kernel.format(name=self.name, args=f"i32 *y, {meta}", words=1)
                return head + " {\\n    y[0] = undeclared;\\n}\\n"

            def local_bytes(self, dialect):
                return 0

        @dataclass(frozen=True)
        class Large(Broken):
            def local_bytes(self, dialect):
                return 1 << 20

        device = tensorbus_cuda.PLUGIN.open(0)
        error = raises(CompileError, lambda: device.compile([Broken()]), "'broken'", "rejected")
        assert "undeclared" in error.log
        assert "y[0] = undeclared;" in error.numbered_source()
        line = next(l for l in error.numbered_source().splitlines() if "y[0] = und" in l)
        number = line.split()[0]
        assert f"tensorbus.cu:{number}" in error.log or f"tensorbus.cu({number})" in error.log
        raises(CompileError, lambda: device.compile([Large()]), "shared by a group", "49152")
        """
    )


def test_a_program_that_the_driver_does_not_take():
    run(
        """
        device = tensorbus_cuda.PLUGIN.open(0)
        raises(CompileError, lambda: device.driver.load(b"no image"), "loading a program")
        assert (tb.ones(3, device="cuda:0").numpy() == 1).all()
        """
    )


def test_misuse_is_refused_before_the_driver_sees_it():
    run(
        """
        from tensorbus_backends.check import Check
        device = tensorbus_cuda.PLUGIN.open(0)
        (kernel,) = device.compile([Check(True)])
        buffers = [device.allocate(64) for _ in range(4)]
        def launch(groups, count):
            device.launch(kernel, groups, buffers[:count], bytes(16))
        raises(LaunchError, lambda: launch(1 << 31, 4), "2147483647")
        raises(LaunchError, lambda: launch(1, 1), "4 buffers")
        """
    )


# -- processes --------------------------------------------------------------------------------


def test_a_forked_child_gets_a_clear_error_and_ends_silently():
    run(
        """
        x = tb.ones(1000, device="cuda:0")
        y = tb.matmul(tb.ones((4, 4), device="cuda:0"), tb.ones((4, 4), device="cuda:0"))
        event = x.device.backend.record()
        # As if another thread multiplied meanwhile.
        from tensorbus_backends import dtypes as dt
        native = x.device.backend.natives["matmul"].run
        case = NativeCase("matmul", (dt.float32,) * 3, ((4, 4),) * 3, ((4, 1),) * 3)
        product = lambda: native(case, [y._buffer] * 3, [0] * 3)
        product()
        blas = next(c.cell_contents for c in native.__closure__)
        blas._lock.acquire()
        child = os.fork()
        if not child:
            new = lambda: tb.ones(5, device="cuda:0")
            for call in (lambda: x + 1, x.numpy, new, lambda: y @ y, product):
                raises(BackendError, call, "does not survive a fork", "spawn")
            del x, y, event
            gc.collect()
            sys.exit(7)  # with all of Python's and pycuda's own cleaning up
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        blas._lock.release()
        assert ((x + 1).numpy() == 2).all()
        """
    )


@pytest.mark.parametrize("how", ["pass", "gc.collect()", "del x, y, event", "os._exit(0)"])
def test_the_end_of_a_process_is_silent(how):
    run(
        f"""
        x = tb.ones(1000, device="cuda:0") + 1
        y = tb.ones((4, 4), device="cuda:1")
        y = y @ y
        event = y.device.backend.record()
        thread = threading.Thread(target=lambda: (x + 1).numpy())
        thread.start()
        thread.join()
        {how}
        """,
        cuda="devices=2",
    )


def test_the_end_of_a_process_with_a_lost_device_is_silent():
    run(
        """
        x = tb.ones(1000, device="cuda:0") + 1
        event = x.device.backend.record()
        driver.arm("lost", 1)
        raises(DeviceLostError, lambda: (x + 1).numpy())
        """
    )


def test_what_runs_after_the_device_was_closed_gets_an_error():
    printed = run(
        """
        import atexit
        tensors = []
        def late():
            x = tensors[0]
            for call in (x.numpy, lambda: x + 1, x.device.synchronize, x.device.backend.record):
                raises(DeviceLostError, call, "closed at the end of the process")
            raises(DeviceLostError, lambda: x.device.backend.allocate(1 << 25))
            print("late")
        atexit.register(late)
        tensors.append(tb.ones(1000, device="cuda:0") + 1)
        """
    )
    assert printed == "late\n"
