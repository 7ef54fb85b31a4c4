"""Numbers and message types of the plugin against Apple's own.

Only a Mac has Apple's headers, so the numbers are pinned here as the SDK of macOS 26 has them, read
through bindings that objc2 generates of it, and metal-cpp of macOS 14.  On a Mac the Objective-C
runtime itself tells the type of every method.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import cffi
import pytest
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import DeviceUnavailableError
from tensorbus_metal import compiler, driver, errors, natives, system
from tensorbus_metal.objc import SIGNATURES, ObjC

# -- enumerations ---------------------------------------------------------------------------------


def test_numbers_of_metal() -> None:
    # MTLResource.h: MTLResourceStorageModeShared = MTLStorageModeShared << 4.
    assert driver._STORAGE_SHARED == 0 << 4
    # MTLCommandBuffer.h, MTLCommandBufferStatus: NotEnqueued 0, ... Scheduled 3.
    assert (driver._COMPLETED, driver._ERROR) == (4, 5)
    # MTLLibrary.h: MTLMathModeSafe, MTLMathFloatingPointFunctionsPrecise, MTLLanguageVersion2_2.
    assert (compiler._SAFE, compiler._PRECISE) == (0, 1)
    assert compiler._VERSION_2_2 == (2 << 16) + 2
    # MPSCoreTypes.h: MPSDataTypeFloatBit | 32, | 16.
    assert {dt.float32: 0x10000020, dt.float16: 0x10000010} == natives._TYPES


def test_families() -> None:
    """MTLDevice.h, MTLGPUFamily: Apple1 is 1001, Mac2 2002, Metal3 5001."""
    apple = {f"Apple{k}": 1000 + k for k in range(1, 11)}
    assert {**apple, "Mac2": 2002, "Metal3": 5001, "Metal4": 5002} == system._FAMILIES
    # Metal feature set tables: 64-bit integer math from Apple3 and Mac2 on.
    assert system._WITH_INT64 == (1003, 2002, 5001)


def test_errors_of_command_buffers() -> None:
    """MTLCommandBuffer.h, MTLCommandBufferError; 4 was named Blacklisted before."""
    assert errors._NAMES == {
        1: "Internal",
        2: "Timeout",
        3: "PageFault",
        4: "AccessRevoked",
        7: "NotPermitted",
        8: "OutOfMemory",
        9: "InvalidResource",
        10: "Memoryless",
        11: "DeviceRemoved",
        12: "StackOverflow",
    }


# -- types of messages ----------------------------------------------------------------------------

# Objective-C Runtime Programming Guide, type encodings; an enumeration is encoded as its integer.
ENCODINGS = {
    "void": {"v"},
    "id": {"@", "#"},
    "SEL": {":"},
    "BOOL": {"B", "c"},
    "NSUInteger": {"Q"},
    "NSInteger": {"q"},
    "uint64_t": {"Q"},
    "uint32_t": {"I"},
    "double": {"d"},
    "const char *": {"r*"},
    "const void *": {"r^v"},
    "void *": {"^v", "@?"},
    "id *": {"^@"},
    "MTLSize": {"{?=QQQ}", "{MTLSize=QQQ}"},
}

_TYPE = re.compile(r'[nNoORVA]*(r?\^?(?:\{[^{}]*\}|@\?|@"[^"]*"|[v@#:BcQqILldfi*]))\d*')


def parts(encoding: str) -> list[str]:
    """Result and arguments of a method, without receiver and selector; no names, no offsets."""
    found = [re.sub('"[^"]*"', "", part) for part in _TYPE.findall(encoding)]
    assert found[1:3] == ["@", ":"] or found[1:3] == ["#", ":"], encoding
    return [found[0], *found[3:]]


def agrees(selector: str, encoding: str) -> bool:
    """Whether a method has the type by which the plugin sends it messages."""
    result, _, rest = SIGNATURES[selector].removesuffix(")").partition("(")
    types, own = [result, *(rest.split(", ") if rest else [])], parts(encoding)
    return len(types) == len(own) and all(
        code in ENCODINGS[text] for text, code in zip(types, own, strict=True)
    )


@pytest.mark.parametrize(
    ("selector", "encoding"),
    [
        ("contents", "^v16@0:8"),
        ("supportsFamily:", "B24@0:8q16"),
        ("UTF8String", "r*16@0:8"),
        ("setBuffer:offset:atIndex:", "v40@0:8@16Q24Q32"),
        ("setBytes:length:atIndex:", "v40@0:8r^v16Q24Q32"),
        ("newLibraryWithSource:options:error:", "@40@0:8@16@24o^@32"),
        (
            "newBufferWithBytesNoCopy:length:options:deallocator:",
            "@48@0:8^v16Q24Q32@?40",
        ),
        (
            "dispatchThreadgroups:threadsPerThreadgroup:",
            "v64@0:8{?=QQQ}16{?=QQQ}40",
        ),
        (
            "initWithDevice:transposeLeft:transposeRight:resultRows:resultColumns:interiorColumns:"
            "alpha:beta:",
            "@72@0:8@16B24B28Q32Q40Q48d56d64",
        ),
        ("matrixDescriptorWithRows:columns:rowBytes:dataType:", "@44@0:8Q16Q24Q32I40"),
    ],
)
def test_encodings_that_agree(selector: str, encoding: str) -> None:
    assert agrees(selector, encoding)


@pytest.mark.parametrize(
    ("selector", "encoding"),
    [
        ("supportsFamily:", "B20@0:8I16"),
        ("setBuffer:offset:atIndex:", "v36@0:8@16Q24I32"),
        ("setBuffer:offset:atIndex:", "v32@0:8@16Q24"),
        ("dispatchThreadgroups:threadsPerThreadgroup:", "v40@0:8{?=III}16{?=III}28"),
    ],
)
def test_encodings_that_do_not(selector: str, encoding: str) -> None:
    assert not agrees(selector, encoding)


def _objects(objc: ObjC, device: Any) -> list[Any]:
    """One object, or class, of every kind that is sent messages; unencoded commands are dropped."""
    send, error = objc.send, objc.ffi.new("id *")
    queue = objc.own(send(device, "newCommandQueue"))
    commands = objc.keep(send(queue, "commandBuffer"))
    text = objc.string("#include <metal_stdlib>\nkernel void f(device int *x [[buffer(0)]]) {}")
    library = objc.own(send(device, "newLibraryWithSource:options:error:", text, objc.nil, error))
    function = objc.own(send(library, "newFunctionWithName:", objc.string("f")))
    state = send(device, "newComputePipelineStateWithFunction:error:", function, error)
    found = [device, queue, commands, text, library, objc.own(state)]
    found.append(objc.own(send(device, "newBufferWithLength:options:", 16, 0)))
    found.append(objc.own(send(objc.find_class("MTLCompileOptions"), "new")))
    for maker in ("computeCommandEncoder", "blitCommandEncoder"):
        encoder = objc.keep(send(commands, maker))
        send(encoder, "endEncoding")
        found.append(encoder)
    send(commands, "commit")
    return found


def test_every_method_of_the_system_has_the_type_that_is_sent() -> None:
    if sys.platform != "darwin":
        pytest.skip("Apple's Objective-C runtime and Metal are on macOS only")
    try:
        found = system.find_metal()
    except DeviceUnavailableError as unavailable:
        pytest.skip(unavailable.cause)
    ffi = cffi.FFI()
    ffi.cdef(
        "void *object_getClass(void *object); void *class_getInstanceMethod(void *, void *);"
        "const char *method_getTypeEncoding(void *method);"
    )
    lib, objc = ffi.dlopen(system._RUNTIME), found.objc
    with objc.pool():
        objects = _objects(objc, found.devices[0])
        kinds = [lib.object_getClass(ffi.cast("void *", x)) for x in objects]
        for name in (
            *("NSString", "NSError", "NSArray", "MTLCompileOptions"),
            *("MPSMatrix", "MPSMatrixDescriptor", "MPSMatrixMultiplication"),
        ):
            named = objc.find_class(name)
            if named is not None:
                kind = ffi.cast("void *", named)
                kinds += [kind, lib.object_getClass(kind)]
        wrong, seen = [], set()
        for selector in SIGNATURES:
            for kind in kinds:
                method = lib.class_getInstanceMethod(
                    kind, ffi.cast("void *", objc.selector(selector))
                )
                if method != ffi.NULL:
                    encoding = ffi.string(lib.method_getTypeEncoding(method)).decode()
                    seen.add(selector)
                    if not agrees(selector, encoding):
                        wrong.append((selector, SIGNATURES[selector], encoding))
    assert not wrong
    assert {"dispatchThreadgroups:threadsPerThreadgroup:", "contents", "code"} <= seen
