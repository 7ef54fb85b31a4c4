"""Finding and loading AMD's libraries: libamdhip64, hiprtc, comgr, rocBLAS."""

from __future__ import annotations

import functools
import os
import re
import sysconfig
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cffi
from tensorbus_backends.contract import BackendError
from tensorbus_backends.loading import loader_words

__all__ = ["CrowdedError", "LIBRARY", "OLDEST", "Hip", "attempts", "ffi", "find", "has"]

LIBRARY = "TENSORBUS_ROCM_LIBRARY"
"""Environment variable: the HIP library to use, instead of searching for one."""

OLDEST = (5, 0)
"""The first HIP whose device attributes have the numbers that 6 and 7 have too."""

_MAJORS = (7, 6, 5)

_DECLARATIONS = """
int hipInit(unsigned int flags);
int hipRuntimeGetVersion(int *version);
const char *hipGetErrorName(int status);
const char *hipGetErrorString(int status);
int hipGetDeviceCount(int *count);
int hipGetDevice(int *device);
int hipSetDevice(int device);
int hipDeviceGetName(char *name, int length, int device);
int hipDeviceGetPCIBusId(char *name, int length, int device);
int hipDeviceGetAttribute(int *value, int attribute, int device);
int hipGetDeviceProperties(void *properties, int device);
int hipGetDevicePropertiesR0600(void *properties, int device);
int hipDeviceCanAccessPeer(int *answer, int device, int peer);
int hipMemGetInfo(size_t *free, size_t *total);
int hipMalloc(void **address, size_t nbytes);
int hipFree(void *address);
int hipHostMalloc(void **address, size_t nbytes, unsigned int flags);
int hipMemcpyAsync(void *to, const void *from, size_t nbytes, int kind, void *stream);
int hipMemcpyPeerAsync(void *to, int to_device, const void *from, int from_device, size_t nbytes,
                       void *stream);
int hipStreamCreateWithFlags(void **stream, unsigned int flags);
int hipStreamSynchronize(void *stream);
int hipStreamWaitEvent(void *stream, void *event, unsigned int flags);
int hipEventCreateWithFlags(void **event, unsigned int flags);
int hipEventRecord(void *event, void *stream);
int hipEventSynchronize(void *event);
int hipEventQuery(void *event);
int hipEventDestroy(void *event);
int hipModuleLoadData(void **module, const void *image);
int hipModuleUnload(void *module);
int hipModuleGetFunction(void **function, void *module, const char *name);
int hipModuleLaunchKernel(void *function, unsigned int grid_x, unsigned int grid_y,
                          unsigned int grid_z, unsigned int block_x, unsigned int block_y,
                          unsigned int block_z, unsigned int shared, void *stream,
                          void **parameters, void **extra);

int hiprtcVersion(int *major, int *minor);
const char *hiprtcGetErrorString(int status);
int hiprtcCreateProgram(void **program, const char *source, const char *name, int headers,
                        const char **texts, const char **names);
int hiprtcDestroyProgram(void **program);
int hiprtcCompileProgram(void *program, int count, const char **options);
int hiprtcGetProgramLogSize(void *program, size_t *size);
int hiprtcGetProgramLog(void *program, char *log);
int hiprtcGetCodeSize(void *program, size_t *size);
int hiprtcGetCode(void *program, char *code);

void amd_comgr_get_version(size_t *major, size_t *minor);
int amd_comgr_get_isa_count(size_t *count);
int amd_comgr_get_isa_name(size_t index, const char **name);

int rocblas_get_version_string(char *text, size_t length);
const char *rocblas_status_to_string(int status);
int rocblas_create_handle(void **handle);
int rocblas_destroy_handle(void *handle);
int rocblas_set_stream(void *handle, void *stream);
int rocblas_set_atomics_mode(void *handle, int mode);
int rocblas_gemm_ex(void *handle, int trans_a, int trans_b, int m, int n, int k,
                    const void *alpha, const void *a, int a_type, int lda,
                    const void *b, int b_type, int ldb, const void *beta,
                    const void *c, int c_type, int ldc, void *d, int d_type, int ldd,
                    int compute_type, int algo, int32_t solution, uint32_t flags);
int rocblas_gemm_strided_batched_ex(
    void *handle, int trans_a, int trans_b, int m, int n, int k,
    const void *alpha, const void *a, int a_type, int lda, long long stride_a,
    const void *b, int b_type, int ldb, long long stride_b, const void *beta,
    const void *c, int c_type, int ldc, long long stride_c,
    void *d, int d_type, int ldd, long long stride_d, int batch,
    int compute_type, int algo, int32_t solution, uint32_t flags);
"""


@functools.cache
def ffi() -> Any:
    """The declarations of everything that the plugin calls."""
    made = cffi.FFI()
    made.cdef(_DECLARATIONS)
    return made


def has(library: Any, symbol: str) -> bool:
    """Whether a loaded library exports a function of the declarations."""
    try:
        getattr(library, symbol)
    except AttributeError:
        return False
    return True


# -- where they may lie -----------------------------------------------------------------------


def _roots() -> list[Path]:
    """Library folders of ROCm installations: those that were named, then /opt, newest first."""
    named = [Path(os.environ[k]) for k in ("ROCM_PATH", "HIP_PATH") if os.environ.get(k)]
    found = sorted(Path("/opt").glob("rocm*"), key=_numbers, reverse=True)
    folders = [root / lib for root in (*named, *found) for lib in ("lib", "lib64")]
    return [f for f in dict.fromkeys(folders) if f.is_dir()]


def _numbers(path: Path) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", path.name)))


def attempts(stem: str, beside: str = "", majors: Sequence[int] = _MAJORS) -> list[str]:
    """What to give to dlopen for a library, best first.

    Args:
        stem: ``"libamdhip64"``.
        beside: A library that it should come with: its folder is looked at first.
        majors: Versions in the file names, newest first.
    """
    names = [f"{stem}.so", *(f"{stem}.so.{n}" for n in majors)]
    folders = [Path(beside).parent] if "/" in beside else []
    files = [str(f / n) for f in [*folders, *_roots()] for n in names if (f / n).exists()]
    return list(dict.fromkeys([*files, *names[1:], names[0]]))


_SYSTEM = Path("/usr/lib", sysconfig.get_config_var("MULTIARCH") or "")
"""Where Debian has its libraries."""

_loaded: dict[str, Any] = {}
_lock = threading.Lock()


class CrowdedError(OSError):
    """A library is here and would end this process."""


def _load(name: str) -> Any:
    with _lock:
        if name not in _loaded:
            if words := crowded(name, _maps()):
                raise CrowdedError(words)
            _loaded[name] = ffi().dlopen(name)
        return _loaded[name]


def crowded(name: str, maps: str) -> str:
    """Why a library cannot be loaded beside those that a process has; empty if it can.

    Debian's HIP brings LLVM as a shared library; PoCL brings the same, and Intel's OpenCL runtime
    one of its own. LLVM ends a process in which its options are registered twice.

    Args:
        name: Name or path of the library.
        maps: Text of ``/proc/self/maps``.
    """
    other = re.search(r"/((?:libcommon_clang|libpocl|libLLVM)\S*)", maps)
    if other is None or "/libamd_comgr." in maps:
        return ""
    file = Path(name) if "/" in name else _SYSTEM / name
    shared = any(_mentions(f, b"libLLVM") for f in _SYSTEM.glob("libamd_comgr.so.*"))
    if not (shared and _mentions(file, b"amd_comgr")):
        return ""
    return (
        f"its LLVM would end this process, which has loaded the one of an OpenCL runtime, "
        f"{other[1]}"
    )


def _mentions(file: Path, words: bytes) -> bool:
    try:
        return words in file.read_bytes()
    except OSError:
        return False


def _maps() -> str:
    try:
        return Path("/proc/self/maps").read_text()
    except OSError:
        return ""


def find(names: Sequence[str], symbol: str) -> tuple[str, Any]:
    """The first library of `names` that loads and has `symbol`.

    Raises:
        OSError: There is none; says why for each file that exists, else for the first name.
    """
    problems: dict[str, str] = {}
    for name in names:
        try:
            library = _load(name)
        except CrowdedError:
            raise
        except OSError as error:
            problems[name] = loader_words(error)
            continue
        if has(library, symbol):
            return name, library
        problems[name] = f"{name} has no {symbol}"
    files = [text for name, text in problems.items() if "/" in name]
    raise OSError("; ".join(files or list(problems.values())[:1]) or "no name to try")


# -- HIP ---------------------------------------------------------------------------------------


class Hip:
    """A loaded libamdhip64.

    Attributes:
        path: What it was loaded as.
        chosen: It was named explicitly (`LIBRARY`), rather than found.
        lib: Its functions.
        version: (major, minor, patch) of the runtime; zeros if it does not say.
        simulated: Kernels run on this machine's processor.
        kind: ``"HIP"``, or what stands in for it: ``"simulated HIP"``, or for the tests' own
            ``"HIP over CUDA forwarder"``.
    """

    def __init__(self, path: str, lib: Any, chosen: bool = False) -> None:
        self.path, self.lib, self.chosen = path, lib, chosen
        self._process = os.getpid()
        number = ffi().new("int *")
        status = lib.hipRuntimeGetVersion(number)
        self.version: tuple[int, int, int] = split_version(number[0] if status == 0 else 0)
        self.simulated = exports(path, "tensorbus_simulator")
        self.kind: str = "simulated HIP" if self.simulated else "HIP"
        if exports(path, "tensorbus_forwarder"):
            over = "a simulated CUDA" if self.simulated else "CUDA"
            self.kind = f"HIP over {over} forwarder"

    @property
    def stand_in(self) -> bool:
        """Whether it is not AMD's."""
        return self.kind != "HIP"

    @property
    def text(self) -> str:
        """``"HIP 6.1.40091"``."""
        return "{} {}.{}.{}".format(self.kind, *self.version)

    def words(self, status: int) -> str:
        """Name and explanation of a status code."""
        string = ffi().string
        name = string(self.lib.hipGetErrorName(status)).decode(errors="replace")
        meaning = string(self.lib.hipGetErrorString(status)).decode(errors="replace")
        return f"{name}: {meaning}" if meaning and meaning != name else f"{name} = {status}"

    def check_process(self) -> None:
        """Refuse to go on in a child of fork, where HIP would hang or crash.

        Raises:
            BackendError: This is not the process that loaded the library.
        """
        if os.getpid() != self._process:
            raise BackendError(
                f"process {self._process} loaded HIP and forked this one, which HIP does not "
                "survive; start worker processes with multiprocessing's 'spawn', or use rocm only "
                "in the child"
            )


def split_version(number: int) -> tuple[int, int, int]:
    """(5, 2, 21153) for 50221153, as HIP_VERSION is composed."""
    return number // 10_000_000, number // 100_000 % 100, number % 100_000


def exports(path: str, symbol: str) -> bool:
    """Whether the library loaded as `path` exports a symbol of its own, of any type."""
    probe = cffi.FFI()
    probe.cdef(f"extern int {symbol};")
    library = probe.dlopen(path)
    try:
        probe.addressof(library, symbol)
    except AttributeError:
        return False
    return True


@functools.cache
def open_hip(path: str | None) -> Hip:
    """The HIP library at `path`, or the best that is installed.

    Raises:
        OSError: It cannot be loaded.
    """
    names = [path] if path is not None else attempts("libamdhip64")
    name, lib = find(names, "hipGetDeviceCount")
    return Hip(name, lib, path is not None)
