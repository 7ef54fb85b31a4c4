"""Programs that the simulator's tests run in processes of their own: ``python FILE NAME``.

Each speaks to the simulated driver as any program does, through unmodified pycuda, or through the
C functions where pycuda has no word for it.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import threading
from ctypes import byref, c_float, c_int, c_size_t, c_uint64, c_void_p

import numpy as np
import pytest
from tensorbus_backends.simulator import Control
from tensorbus_cuda.simulator import load

LIBRARY = str(load())
C = ctypes.CDLL(LIBRARY)

import pycuda.driver as cuda  # noqa: E402  the simulator has to be loaded first

CONTROL = Control(LIBRARY)
INVALID_VALUE, NO_MEMORY, NOT_INITIALIZED, INVALID_CONTEXT = 1, 2, 3, 201
INVALID_IMAGE, NO_BINARY, INVALID_PTX, OLD_PTX = 200, 209, 218, 222
INVALID_HANDLE, NOT_FOUND, NOT_READY = 400, 500, 600
ILLEGAL_ADDRESS, TOO_MANY_RESOURCES, LAUNCH_FAILED, UNKNOWN = 700, 701, 719, 999
OPERATING_SYSTEM = 304

KERNELS = """
extern "C" __global__ void add(const float *a, const float *b, float *c, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) c[i] = a[i] + b[i];
}
// __global__ void not_a_kernel(int);
extern "C" __global__ void __launch_bounds__(2 * 64, 1) total(const float *x, float *out) {
    __shared__ float part[128];
    const int l = threadIdx.x;
    part[l] = x[l];
    __syncthreads();
    for (int half = 64; half > 0; half /= 2) {
        if (l < half) part[l] += part[l + half];
        __syncthreads();
    }
    if (l == 0) *out = part[0];
}
struct Numbers { char first; long long second; float third; };
extern "C" __global__ void fields(char c, const __grid_constant__ Numbers n, double *out) {
    out[0] = c; out[1] = n.first; out[2] = double(n.second); out[3] = n.third;
}
extern "C" __global__ void reverse(int *out) {
    extern __shared__ int own[];
    own[threadIdx.x] = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = own[blockDim.x - 1 - threadIdx.x];
}
extern "C" __global__ void past_the_end(float *x, int n) { x[n] = 1.0f; }
extern "C" __global__ void lockstep(float *out) {
    __shared__ float part[32];
    part[threadIdx.x] = 1.0f;
    for (int half = 16; half > 0; half /= 2)
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    if (threadIdx.x == 0) *out = part[0];
}
"""


class Refused(Exception):
    """NVRTC's status and log."""


def nvrtc(source: str, *options: str) -> bytes:
    program, size = c_void_p(), c_size_t()
    assert C.nvrtcCreateProgram(byref(program), source.encode(), b"kernels.cu", 0, None, None) == 0
    given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    status = C.nvrtcCompileProgram(program, len(options), given)
    C.nvrtcGetProgramLogSize(program, byref(size))
    log = ctypes.create_string_buffer(size.value)
    C.nvrtcGetProgramLog(program, log)
    if status:
        raise Refused(status, log.value.decode())
    real = any("sm_" in option for option in options)
    measure, fetch = (
        (C.nvrtcGetCUBINSize, C.nvrtcGetCUBIN) if real else (C.nvrtcGetPTXSize, C.nvrtcGetPTX)
    )
    assert measure(program, byref(size)) == 0
    image = ctypes.create_string_buffer(size.value)
    assert fetch(program, image) == 0
    assert C.nvrtcDestroyProgram(byref(program)) == 0
    return image.raw


def module(arch: str = "sm_90", source: str = KERNELS):
    return cuda.module_from_buffer(nvrtc(source, f"--gpu-architecture={arch}", "--fmad=false"))


def context(device: int = 0):
    cuda.init()
    own = cuda.Device(device).retain_primary_context()
    own.push()
    return own


def fails(status: int, call, *arguments) -> str:
    """The words of the error that has to come."""
    words = ctypes.c_char_p()
    assert C.cuGetErrorString(status, byref(words)) == 0
    with pytest.raises((cuda.Error, MemoryError), match=re.escape(words.value.decode())) as caught:
        call(*arguments)
    return str(caught.value)


def device_array(values: np.ndarray):
    memory = cuda.mem_alloc(max(1, values.nbytes))
    cuda.memcpy_htod(memory, values)
    return memory


def host(memory, shape, dtype=np.float32) -> np.ndarray:
    out = np.empty(shape, dtype)
    cuda.memcpy_dtoh(out, memory)
    return out


def handle(value) -> c_void_p:
    return c_void_p(int(value))


def launch_c(function, pointers, groups=(1, 1, 1), threads=(1, 1, 1), dynamic=0, stream=None):
    """cuLaunchKernel with kernelParams, which pycuda does not use; takes C values."""
    array = (c_void_p * max(1, len(pointers)))(
        *(ctypes.cast(ctypes.pointer(p), c_void_p) for p in pointers)
    )
    return C.cuLaunchKernel(function, *groups, *threads, dynamic, stream, array, None)


def function_c(image: bytes, name: str) -> c_void_p:
    loaded, function = c_void_p(), c_void_p()
    assert C.cuModuleLoadData(byref(loaded), image) == 0
    assert C.cuModuleGetFunction(byref(function), loaded, name.encode()) == 0
    return function


# -- kernels ----------------------------------------------------------------------------------


def vector_add():
    own = context()
    n = 1000
    a, b = np.arange(n, dtype=np.float32), np.full(n, 0.5, np.float32)
    out = cuda.mem_alloc(a.nbytes)
    module().get_function("add")(
        cuda.In(a), cuda.In(b), out, np.int32(n), grid=(4, 1, 1), block=(256, 1, 1)
    )
    assert (host(out, n) == a + b).all()
    own.pop()


def kernel_params():
    own = context()
    image = nvrtc(KERNELS, "-arch=sm_90")
    x = device_array(np.ones(8, np.float32))
    out = cuda.mem_alloc(32)
    pointers = [c_uint64(int(x)), c_uint64(int(x)), c_uint64(int(out)), c_int(8)]
    add = function_c(image, "add")
    assert launch_c(add, pointers, threads=(8, 1, 1)) == 0
    pointers[3].value = -1  # the launch has taken its own copy
    assert (host(out, 8) == 2).all()
    own.pop()


def reduction():
    own = context()
    x = np.arange(128, dtype=np.float32)
    out = cuda.mem_alloc(4)
    kernels = module()
    total = kernels.get_function("total")
    total(cuda.In(x), out, grid=(1, 1, 1), block=(128, 1, 1))
    assert host(out, 1)[0] == x.sum()
    assert total.shared_size_bytes == 512
    assert total.max_threads_per_block == 128
    assert kernels.get_function("add").shared_size_bytes == 0
    fails(TOO_MANY_RESOURCES, lambda: total(out, out, grid=(1, 1, 1), block=(256, 1, 1)))
    own.pop()


def struct_parameter():
    own = context()
    out = cuda.mem_alloc(32)
    packed = np.zeros(
        1, np.dtype([("first", "i1"), ("second", "<i8"), ("third", "<f4")], align=True)
    )
    packed[0] = (-3, 1 << 40, 2.5)
    fields = function_c(nvrtc(KERNELS, "-arch=sm_90"), "fields")
    block = (ctypes.c_char * packed.nbytes)(*packed.tobytes())
    assert launch_c(fields, [ctypes.c_int8(7), block, c_uint64(int(out))]) == 0
    assert host(out, 4, np.float64).tolist() == [7, -3, float(1 << 40), 2.5]
    own.pop()


def dynamic_memory():
    own = context()
    reverse = module().get_function("reverse")
    out = cuda.mem_alloc(4 * 64)
    reverse(out, grid=(1, 1, 1), block=(64, 1, 1), shared=256)
    assert host(out, 64, np.int32).tolist() == list(range(63, -1, -1))
    fails(INVALID_VALUE, lambda: reverse(out, grid=(1, 1), block=(64, 1, 1), shared=49153))
    reverse.set_attribute(cuda.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES, 65536)
    reverse(out, grid=(1, 1), block=(64, 1, 1), shared=65536)
    own.pop()


def no_lockstep():
    """Code that relies on the threads of a warp running together gives a wrong sum."""
    own = context()
    out = cuda.mem_alloc(4)
    module().get_function("lockstep")(out, grid=(1, 1), block=(32, 1, 1))
    assert host(out, 1)[0] != 32
    own.pop()


def contraction():
    """Fused unless forbidden, as NVRTC does."""
    own = context()
    text = 'extern "C" __global__ void f(float *x) { x[3] = x[0] * x[1] + x[2]; }'
    a = np.float32(1 + 2.0**-12)
    x = np.array([a, a, -(1 + 2.0**-11), 0], np.float32)
    found = []
    for options in (["--fmad=false"], []):
        memory = device_array(x)
        made = cuda.module_from_buffer(nvrtc(text, "-arch=sm_90", *options))
        made.get_function("f")(memory, grid=(1, 1), block=(1, 1, 1))
        found.append(host(memory, 4)[3])
    assert found == [0, 2.0**-24], found
    own.pop()


# -- lateness ---------------------------------------------------------------------------------


def new_stream(flags: int) -> c_void_p:
    stream = c_void_p()
    assert C.cuStreamCreate(byref(stream), flags) == 0
    return stream


def missing_synchronization():
    own = context()
    memory = device_array(np.zeros(4, np.int32))
    apart, blocking = new_stream(1), new_stream(0)
    assert C.cuMemsetD32Async(handle(memory), 7, c_size_t(4), apart) == 0
    assert host(memory, 4, np.int32).tolist() == [0] * 4  # nobody waited for that stream
    assert C.cuStreamQuery(apart) in (0, NOT_READY)
    assert C.cuStreamSynchronize(apart) == 0
    assert host(memory, 4, np.int32).tolist() == [7] * 4
    assert C.cuMemsetD32Async(handle(memory), 8, c_size_t(4), blocking) == 0
    assert host(memory, 4, np.int32).tolist() == [8] * 4  # the legacy stream did
    own.pop()


def blocking_waits_for_legacy():
    own = context()
    memory = device_array(np.zeros(4, np.int32))
    blocking = new_stream(0)
    pinned = cuda.pagelocked_empty(4, np.int32)
    assert C.cuMemsetD32_v2(handle(memory), 5, c_size_t(4)) == 0
    target = c_void_p(pinned.ctypes.data)
    pinned[:] = 0
    assert C.cuMemcpyDtoHAsync_v2(target, handle(memory), c_size_t(16), blocking) == 0
    assert C.cuStreamSynchronize(blocking) == 0
    assert pinned.tolist() == [5] * 4
    own.pop()


def free_waits():
    own = context()
    apart = new_stream(1)
    x = device_array(np.ones(8, np.float32))
    out = cuda.mem_alloc(32)
    pointers = [c_uint64(int(x)), c_uint64(int(x)), c_uint64(int(out)), c_int(8)]
    add = function_c(nvrtc(KERNELS, "-arch=sm_90"), "add")
    assert launch_c(add, pointers, threads=(8, 1, 1), stream=apart) == 0
    x.free()
    assert (host(out, 8) == 2).all()
    own.pop()


def late_copies():
    own = context()
    apart = new_stream(1)
    memory = device_array(np.zeros(4, np.int32))
    for pinned, seen in ((False, 1), (True, 2)):
        source = cuda.pagelocked_empty(4, np.int32) if pinned else np.empty(4, np.int32)
        source[:] = 1
        at = c_void_p(source.ctypes.data)
        assert C.cuMemcpyHtoDAsync_v2(handle(memory), at, c_size_t(16), apart) == 0
        source[:] = 2
        assert C.cuStreamSynchronize(apart) == 0
        assert host(memory, 4, np.int32).tolist() == [seen] * 4, pinned
    late = cuda.pagelocked_zeros(4, np.int32)
    at = c_void_p(late.ctypes.data)
    assert C.cuMemcpyDtoHAsync_v2(at, handle(memory), c_size_t(16), apart) == 0
    assert late.tolist() == [0] * 4
    assert C.cuStreamSynchronize(apart) == 0
    assert late.tolist() == [2] * 4
    own.pop()


def events():
    own = context()
    one, two = new_stream(1), new_stream(1)
    memory = device_array(np.zeros(4, np.int32))
    start, end, quiet = c_void_p(), c_void_p(), c_void_p()
    for event, flags in ((start, 0), (end, 0), (quiet, 2)):
        assert C.cuEventCreate(byref(event), flags) == 0
        assert C.cuEventQuery(event) == 0
    elapsed = c_float()
    assert C.cuEventElapsedTime_v2(byref(elapsed), start, end) == INVALID_HANDLE
    assert C.cuEventRecord(start, one) == 0
    assert C.cuMemsetD32Async(handle(memory), 3, c_size_t(4), one) == 0
    assert C.cuEventRecord(end, one) == 0
    assert C.cuEventElapsedTime_v2(byref(elapsed), start, end) == NOT_READY
    assert C.cuStreamWaitEvent(two, end, 0) == 0
    copied = cuda.mem_alloc(16)
    assert C.cuMemcpyDtoDAsync_v2(handle(copied), handle(memory), c_size_t(16), two) == 0
    assert C.cuStreamSynchronize(two) == 0
    assert host(copied, 4, np.int32).tolist() == [3] * 4
    assert C.cuEventSynchronize(end) == 0
    assert C.cuEventElapsedTime_v2(byref(elapsed), start, end) == 0
    assert elapsed.value >= 0
    assert C.cuEventRecord(quiet, one) == 0
    assert C.cuEventElapsedTime_v2(byref(elapsed), start, quiet) == INVALID_HANDLE
    assert C.cuStreamDestroy_v2(one) == 0
    assert C.cuEventQuery(quiet) == 0
    assert C.cuStreamSynchronize(one) == INVALID_HANDLE
    own.pop()


# -- refusals ---------------------------------------------------------------------------------


def out_of_memory():
    """With memory=1MiB."""
    own = context()
    assert cuda.mem_get_info() == (1 << 20, 1 << 20)
    half = cuda.mem_alloc(1 << 19)
    fails(NO_MEMORY, cuda.mem_alloc, (1 << 19) + 1)
    assert cuda.mem_get_info()[0] == 1 << 19
    half.free()
    cuda.mem_alloc(1 << 20)
    own.pop()


def images():
    own = context()
    fails(NO_BINARY, module, "sm_80")
    fails(NO_BINARY, module, "sm_100")
    fails(INVALID_PTX, module, "compute_100")
    fails(INVALID_PTX, cuda.module_from_buffer, b".version 8.0\n\0")
    fails(INVALID_IMAGE, cuda.module_from_buffer, b"\x7fELF" + bytes(64))
    older = module("compute_80")
    add = older.get_function("add")
    assert add.get_attribute(cuda.function_attribute.PTX_VERSION) == 80
    assert add.get_attribute(cuda.function_attribute.BINARY_VERSION) == 90
    fails(NOT_FOUND, older.get_function, "not_a_kernel")
    own.pop()


def old_driver():
    """With driver=12.4."""
    own = context()
    assert cuda.get_driver_version() == 12040
    fails(OLD_PTX, module, "compute_90")
    fails(INVALID_IMAGE, module, "sm_90")
    own.pop()


def compile_errors():
    def refused(status: int, *options: str, source: str = "int x;") -> str:
        with pytest.raises(Refused) as caught:
            nvrtc(source, *options)
        assert caught.value.args[0] == status
        return caught.value.args[1]

    log = refused(6, "-arch=sm_90", source="int x;\nint y = z;\n")
    assert "kernels.cu:2" in log, log
    assert "z" in log, log
    assert "--foo" in refused(5, "--foo")
    assert "--gpu-architecture" in refused(5, "--gpu-architecture=sm_12")
    refused(5, "--fmad=perhaps")
    large = 'struct S { char c[4097]; }; extern "C" __global__ void f(S s) {}'
    assert "parameter space" in refused(6, source=large)
    count = c_int()
    assert C.nvrtcGetNumSupportedArchs(byref(count)) == 0
    archs = (c_int * count.value)()
    assert C.nvrtcGetSupportedArchs(archs) == 0
    assert 90 in list(archs)
    assert sorted(archs) == list(archs)


def bad_arguments():
    cuda.init()
    value = c_int()
    assert C.cuDeviceGet(byref(value), 5) == 101
    assert C.cuMemAlloc_v2(byref(c_uint64()), c_size_t(16)) == INVALID_CONTEXT
    own = context()
    assert C.cuMemAlloc_v2(byref(c_uint64()), c_size_t(0)) == INVALID_VALUE
    memory = device_array(np.zeros(4, np.float32))
    text = ctypes.create_string_buffer(64)
    assert C.cuMemcpyDtoH_v2(text, handle(memory), c_size_t(17)) == INVALID_VALUE
    assert C.cuMemcpyHtoD_v2(text, text, c_size_t(4)) == INVALID_VALUE
    assert C.cuMemFree_v2(handle(int(memory) + 4)) == INVALID_VALUE
    image = nvrtc(KERNELS, "-arch=sm_90")
    add = function_c(image, "add")
    pointers = [handle(memory)] * 3 + [c_int(4)]
    for groups, threads in (
        ((0, 1, 1), (1, 1, 1)),
        ((1, 65536, 1), (1, 1, 1)),
        ((1, 1, 1), (1025, 1, 1)),
        ((1, 1, 1), (1, 1, 65)),
        ((1, 1, 1), (64, 32, 1)),
    ):
        assert launch_c(add, pointers, groups, threads) == INVALID_VALUE, (groups, threads)
    assert launch_c(add, pointers, threads=(4, 1, 1)) == 0
    assert launch_c(c_void_p(4096), pointers) == INVALID_HANDLE
    assert launch_c(add, pointers, stream=c_void_p(4096)) == INVALID_HANDLE
    assert C.cuLaunchKernel(add, 1, 1, 1, 1, 1, 1, 0, None, None, None) == INVALID_VALUE
    assert C.cuTexRefCreate(byref(c_void_p())) == 801
    assert C.cuCtxSynchronize() == 0
    own.pop()
    assert C.cuCtxPopCurrent_v2(None) == INVALID_CONTEXT


def start_refused():
    """With devices=0, or init=803."""
    expected = int(sys.argv[2])
    assert C.cuInit(0) == expected
    assert C.cuDeviceGetCount(byref(c_int())) == NOT_INITIALIZED
    fails(expected, cuda.init)


def out_of_bounds():
    own = context()
    x = device_array(np.zeros(64, np.float32))
    kernel = module().get_function("past_the_end")
    kernel(x, np.int32(63), grid=(1, 1), block=(1, 1, 1))
    own.synchronize()
    kernel(x, np.int32(64), grid=(1, 1), block=(1, 1, 1))
    fails(ILLEGAL_ADDRESS, own.synchronize)
    fails(ILLEGAL_ADDRESS, cuda.mem_alloc, 4)  # for good
    assert "behind a block of 256 bytes" in CONTROL.message(), CONTROL.message()
    own.pop()


def host_memory():
    own = context()
    buffer = np.zeros(4096, np.uint8)
    at, size = c_void_p(buffer.ctypes.data), c_size_t(buffer.nbytes)
    inside = c_void_p(buffer.ctypes.data + 64)
    assert C.cuMemHostUnregister(at) == 713
    assert C.cuMemHostRegister_v2(at, size, 0) == 0
    assert C.cuMemHostRegister_v2(inside, c_size_t(64), 0) == 712
    there = c_uint64()
    assert C.cuMemHostGetDevicePointer_v2(byref(there), inside, 0) == 0
    assert C.cuMemsetD8_v2(there, 9, c_size_t(64)) == 0
    own.synchronize()
    assert buffer[60:132].tolist() == [0] * 4 + [9] * 64 + [0] * 4
    assert C.cuMemHostUnregister(at) == 0
    managed = cuda.managed_zeros(16, np.float32, mem_flags=cuda.mem_attach_flags.GLOBAL)
    add = module().get_function("add")
    add(cuda.In(np.ones(16, np.float32)), managed, managed, np.int32(16), block=(16, 1, 1))
    own.synchronize()
    assert managed.tolist() == [1] * 16
    del managed
    pitched, pitch = cuda.mem_alloc_pitch(20, 4, 4)
    copy = cuda.Memcpy2D()
    rows = np.arange(20, dtype=np.float32).reshape(4, 5)
    copy.set_src_host(rows)
    copy.set_dst_device(pitched)
    copy.dst_pitch, copy.width_in_bytes, copy.height, copy.src_pitch = pitch, 20, 4, 20
    copy(aligned=False)
    assert (host(pitched, (4, pitch // 4))[:, :5] == rows).all()
    kind, device = ctypes.c_uint(), c_int(-1)
    assert C.cuPointerGetAttribute(byref(kind), 2, handle(pitched)) == 0
    assert C.cuPointerGetAttribute(byref(device), 9, handle(pitched)) == 0
    assert (kind.value, device.value) == (2, 0)
    assert C.cuPointerGetAttribute(byref(kind), 2, at) == INVALID_VALUE
    own.pop()


def lookups():
    own = context()
    found = c_void_p()
    assert C.cuGetProcAddress_v2(b"cuMemAlloc", byref(found), 12000, c_uint64(0), None) == 0
    assert found.value == ctypes.cast(C.cuMemAlloc_v2, c_void_p).value
    assert C.cuGetProcAddress_v2(b"cuNothing", byref(found), 12000, c_uint64(0), None) == NOT_FOUND
    name = ctypes.c_char_p()
    assert C.cuGetErrorName(700, byref(name)) == 0
    assert name.value == b"CUDA_ERROR_ILLEGAL_ADDRESS"
    assert C.cuGetErrorName(12345, byref(name)) == INVALID_VALUE
    total = function_c(nvrtc(KERNELS, "-arch=sm_90"), "total")
    blocks, grid, block = c_int(), c_int(), c_int()
    occupancy = C.cuOccupancyMaxActiveBlocksPerMultiprocessor
    assert occupancy(byref(blocks), total, 128, c_size_t(0)) == 0
    assert blocks.value == 16
    assert occupancy(byref(blocks), total, 128, c_size_t(100_000)) == 0
    assert blocks.value == 2
    best = C.cuOccupancyMaxPotentialBlockSize
    assert best(byref(grid), byref(block), total, None, c_size_t(0), 0) == 0
    assert (grid.value, block.value) == (16 * 8, 128)
    own.pop()


def old_launch():
    """The launch functions of CUDA 3, which pycuda still offers."""
    own = context()
    memory = device_array(np.full(128, 2, np.float32))
    total = module().get_function("total")
    total._param_set_size(16)
    total._param_setv(0, np.array([int(memory)] * 2, np.uint64))
    total._set_block_shape(128, 1, 1)
    total._launch_grid(1, 1)
    assert host(memory, 1)[0] == 256
    own.pop()


def kernel_traps():
    """A kernel that goes wrong takes its context along; a new context works again."""
    text = """
    extern "C" __global__ void divergent(int *x) { if (threadIdx.x) __syncthreads(); }
    extern "C" __global__ void division(int *x) { x[1] = x[1] / x[0]; }
    extern "C" __global__ void null(int *x) { *(int *)(unsigned long long)x[0] = 1; }
    """
    for name, code in (("divergent", 719), ("division", 719), ("null", ILLEGAL_ADDRESS)):
        own = context()
        x = device_array(np.zeros(4, np.int32))
        kernel = module(source=text).get_function(name)
        kernel(x, grid=(1, 1), block=(2, 1, 1))
        fails(code, own.synchronize)
        own.pop()
        del x, kernel
        own.detach()
    own = context()
    assert host(device_array(np.ones(4, np.float32)), 4).tolist() == [1] * 4
    own.pop()


def threads():
    cuda.init()
    own = cuda.Device(0).retain_primary_context()
    wrong = []

    def work(number):
        own.push()
        add = module().get_function("add")
        for k in range(20):
            x = np.full(300, number * 100 + k, np.float32)
            out = cuda.mem_alloc(x.nbytes)
            add(cuda.In(x), cuda.In(x), out, np.int32(300), grid=(3, 1), block=(128, 1, 1))
            if (host(out, 300) != 2 * x).any():
                wrong.append((number, k))
        own.pop()

    workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong, wrong


# -- processes, devices, contexts -------------------------------------------------------------


def fork():
    own = context()
    memory = device_array(np.zeros(4, np.float32))
    child = os.fork()
    if child == 0:
        codes = [
            C.cuInit(0),
            C.cuCtxSynchronize(),
            C.cuMemAlloc_v2(byref(c_uint64()), c_size_t(16)),
            C.cuMemcpyDtoH_v2(ctypes.create_string_buffer(4), handle(memory), c_size_t(4)),
        ]
        os._exit(0 if codes == [NOT_INITIALIZED] * 4 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert host(memory, 4).tolist() == [0] * 4  # the parent goes on
    own.pop()


def two_devices():
    """With devices=2,capability=9.0/7.5,memory=2MiB/1MiB,name=Big/Small."""
    cuda.init()
    assert cuda.Device.count() == 2
    devices = [cuda.Device(k) for k in range(2)]
    assert [d.name() for d in devices] == ["Big", "Small"]
    assert [d.compute_capability() for d in devices] == [(9, 0), (7, 5)]
    assert [d.total_memory() for d in devices] == [2 << 20, 1 << 20]
    assert devices[0].pci_bus_id() != devices[1].pci_bus_id()
    assert devices[0].get_attribute(cuda.device_attribute.UNIFIED_ADDRESSING) == 1
    first, second = context(0), context(1)
    fails(NO_BINARY, module, "sm_90")
    module("sm_75")
    there = device_array(np.zeros(4, np.float32))
    second.pop()
    module("sm_90")
    here = device_array(np.arange(4, dtype=np.float32))
    # Not cuda.memcpy_peer, which takes the current context for both ends.
    ends = (handle(there), c_void_p(second.handle), handle(here), c_void_p(first.handle))
    assert C.cuMemcpyPeer(*ends, c_size_t(17)) == INVALID_VALUE
    assert C.cuMemcpyPeer(*ends, c_size_t(16)) == 0
    peer = c_int()
    assert C.cuDeviceCanAccessPeer(byref(peer), 0, 1) == 0
    codes = [C.cuCtxEnablePeerAccess(ends[1], 0), C.cuCtxEnablePeerAccess(ends[1], 0)]
    codes += [C.cuCtxDisablePeerAccess(ends[1]), C.cuCtxDisablePeerAccess(ends[1])]
    assert codes == ([0, 704, 0, 705] if peer.value else [217, 217, 705, 705])
    first.pop()
    second.push()
    assert host(there, 4).tolist() == [0, 1, 2, 3]
    second.pop()


def other_user():
    """Another library holds the primary context, and pycuda lets its own hold go."""
    cuda.init()
    theirs, active, flags = c_void_p(), c_int(), c_int()
    assert C.cuDevicePrimaryCtxRetain(byref(theirs), 0) == 0
    own = context()
    memory = device_array(np.arange(4, dtype=np.float32))
    assert own.handle == theirs.value
    own.pop()
    assert C.cuCtxSetCurrent(theirs) == 0
    out = np.empty(4, np.float32)
    cuda.memcpy_dtoh(out, memory)
    assert out.tolist() == [0, 1, 2, 3]
    memory.free()
    own.detach()
    assert C.cuDevicePrimaryCtxGetState(0, byref(flags), byref(active)) == 0
    assert active.value == 1
    assert C.cuDevicePrimaryCtxRelease_v2(0) == 0
    assert C.cuDevicePrimaryCtxGetState(0, byref(flags), byref(active)) == 0
    assert active.value == 0
    assert C.cuCtxSynchronize() == INVALID_CONTEXT


def own_context():
    cuda.init()
    own = cuda.Device(0).make_context()
    x = device_array(np.ones(4, np.float32))
    assert host(x, 4).tolist() == [1] * 4
    own.pop()
    own.detach()


def left_open():
    """Nothing is put away at the end of the process but the stack of contexts."""
    own = context()
    x = device_array(np.ones(128, np.float32))
    module().get_function("total")(x, x, grid=(1, 1), block=(128, 1, 1))
    own.pop()


def arrays():
    own = context()
    from pycuda import gpuarray
    from pycuda.tools import DeviceMemoryPool

    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    pool = DeviceMemoryPool()
    there = gpuarray.to_gpu(x, allocator=pool.allocate)
    assert (there.get() == x).all()
    assert (there[1:3].get() == x[1:3]).all()
    del there
    pool.stop_holding()
    own.pop()


# -- failures on demand -----------------------------------------------------------------------


def compiler_fault():
    CONTROL.arm("compile", 2)
    nvrtc(KERNELS)
    with pytest.raises(Refused, match="the compiler failed"):
        nvrtc(KERNELS)
    nvrtc(KERNELS)


def allocation_fault():
    """pycuda tries again after a collection, which is served: the failure came in between."""
    own = context()
    address = c_uint64()
    CONTROL.arm("alloc", 2)
    found = [C.cuMemAlloc_v2(byref(address), c_size_t(4)) for _ in range(3)]
    assert found == [0, NO_MEMORY, 0]
    own.pop()


def fault():
    kind = sys.argv[2]
    own = context()
    x = device_array(np.ones(128, np.float32))
    total = module().get_function("total")

    def launch():
        total(x, x, grid=(1, 1), block=(128, 1, 1))
        own.synchronize()

    action, code, sticks = {
        "load": (module, NO_MEMORY, False),
        "launch": (launch, TOO_MANY_RESOURCES, False),
        "copy": (lambda: host(x, 4), OPERATING_SYSTEM, False),
        "kernel": (launch, LAUNCH_FAILED, True),
        "illegal": (launch, ILLEGAL_ADDRESS, True),
        "lost": (launch, UNKNOWN, True),
    }[kind]
    action()
    CONTROL.arm(kind, 2)
    action()
    fails(code, action)
    if sticks:
        fails(code, cuda.mem_alloc, 4)
        fails(code, own.synchronize)
    else:
        action()
        launch()
    own.pop()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    print("finished")
