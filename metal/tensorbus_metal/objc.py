"""The Objective-C runtime through cffi: classes, typed messages, ownership.

A message is a call of ``objc_msgSend`` through a pointer of the method's own C type: it is not
variadic, and on ARM a variadic call would put the arguments elsewhere.  `SIGNATURES` holds the type
of every message that this package sends.  None returns a structure, which would need another entry
point on x86-64.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import cffi

__all__ = ["SIGNATURES", "ObjC"]

_DECLARATIONS = """
typedef struct objc_object *id;
typedef struct objc_selector *SEL;
typedef signed char BOOL;
typedef unsigned long NSUInteger;
typedef long NSInteger;
typedef struct { NSUInteger width, height, depth; } MTLSize;
id objc_getClass(const char *name);
SEL sel_registerName(const char *name);
void objc_msgSend(void);
void *objc_autoreleasePoolPush(void);
void objc_autoreleasePoolPop(void *pool);
id MTLCreateSystemDefaultDevice(void);
id MTLCopyAllDevices(void);
"""

SIGNATURES = {
    # NSObject
    "alloc": "id()",
    "new": "id()",
    "retain": "id()",
    "release": "void()",
    "respondsToSelector:": "BOOL(SEL)",
    "instancesRespondToSelector:": "BOOL(SEL)",
    # Foundation
    "stringWithUTF8String:": "id(const char *)",
    "UTF8String": "const char *()",
    "localizedDescription": "id()",
    "code": "NSInteger()",
    "count": "NSUInteger()",
    "objectAtIndex:": "id(NSUInteger)",
    # MTLDevice
    "name": "id()",
    "supportsFamily:": "BOOL(NSInteger)",
    "hasUnifiedMemory": "BOOL()",
    "maxBufferLength": "NSUInteger()",
    "maxThreadgroupMemoryLength": "NSUInteger()",
    "recommendedMaxWorkingSetSize": "uint64_t()",
    "currentAllocatedSize": "NSUInteger()",
    "newCommandQueue": "id()",
    "newBufferWithLength:options:": "id(NSUInteger, NSUInteger)",
    "newBufferWithBytes:length:options:": "id(const void *, NSUInteger, NSUInteger)",
    "newBufferWithBytesNoCopy:length:options:deallocator:": (
        "id(void *, NSUInteger, NSUInteger, void *)"
    ),
    "newLibraryWithSource:options:error:": "id(id, id, id *)",
    "newComputePipelineStateWithFunction:error:": "id(id, id *)",
    # MTLCompileOptions
    "setFastMathEnabled:": "void(BOOL)",
    "setMathMode:": "void(NSInteger)",
    "setMathFloatingPointFunctions:": "void(NSInteger)",
    "setLanguageVersion:": "void(NSUInteger)",
    # MTLLibrary, MTLComputePipelineState
    "newFunctionWithName:": "id(id)",
    "maxTotalThreadsPerThreadgroup": "NSUInteger()",
    # MTLBuffer
    "contents": "void *()",
    # MTLCommandQueue, MTLCommandBuffer
    "commandBuffer": "id()",
    "computeCommandEncoder": "id()",
    "blitCommandEncoder": "id()",
    "commit": "void()",
    "waitUntilCompleted": "void()",
    "status": "NSUInteger()",
    "error": "id()",
    # encoders
    "setComputePipelineState:": "void(id)",
    "setBuffer:offset:atIndex:": "void(id, NSUInteger, NSUInteger)",
    "setBytes:length:atIndex:": "void(const void *, NSUInteger, NSUInteger)",
    "dispatchThreadgroups:threadsPerThreadgroup:": "void(MTLSize, MTLSize)",
    "copyFromBuffer:sourceOffset:toBuffer:destinationOffset:size:": (
        "void(id, NSUInteger, id, NSUInteger, NSUInteger)"
    ),
    "endEncoding": "void()",
    # MetalPerformanceShaders
    "matrixDescriptorWithRows:columns:rowBytes:dataType:": (
        "id(NSUInteger, NSUInteger, NSUInteger, uint32_t)"
    ),
    "initWithBuffer:offset:descriptor:": "id(id, NSUInteger, id)",
    (
        "initWithDevice:transposeLeft:transposeRight:resultRows:resultColumns:interiorColumns:"
        "alpha:beta:"
    ): "id(id, BOOL, BOOL, NSUInteger, NSUInteger, NSUInteger, double, double)",
    "encodeToCommandBuffer:leftMatrix:rightMatrix:resultMatrix:": "void(id, id, id, id)",
}
"""Result, then arguments, of every message, without the receiver and the selector."""


class _Pool:
    """Objects that are returned without ownership live until the ``with`` block ends."""

    __slots__ = ("_lib", "_marks")

    def __init__(self, lib: Any) -> None:
        self._lib = lib
        self._marks: list[Any] = []

    def __enter__(self) -> None:
        self._marks.append(self._lib.objc_autoreleasePoolPush())

    def __exit__(self, *_: object) -> None:
        self._lib.objc_autoreleasePoolPop(self._marks.pop())


class ObjC:
    """A loaded Objective-C runtime.

    Attributes:
        ffi: cffi's interface object.
        metal: The Metal framework's functions.
        nil: The null object.
        alive: False in a child of fork, which may send no message.

    Args:
        runtime: File of the runtime.
        metal: File of the Metal framework.
        others: Frameworks whose classes are wanted; one that cannot be loaded is left out.

    Raises:
        OSError: `runtime` or `metal` cannot be loaded.
    """

    def __init__(self, runtime: str, metal: str, others: Sequence[str] = ()) -> None:
        self.ffi = cffi.FFI()
        self.ffi.cdef(_DECLARATIONS)
        self._lib = self.ffi.dlopen(runtime)
        self.metal = self.ffi.dlopen(metal)
        self._others = []
        for path in others:
            try:
                self._others.append(self.ffi.dlopen(path))
            except OSError:
                continue
        self.nil = self.ffi.NULL
        self._send = self.ffi.cast("void *", self.ffi.addressof(self._lib, "objc_msgSend"))
        self._calls: dict[str, Callable[..., Any]] = {}
        self.alive = True
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        # The runtime's locks may be held by threads that the child does not have.
        self.alive = False

    def call(self, selector: str) -> Callable[..., Any]:
        """The function ``f(receiver, *arguments)`` that sends a message of `SIGNATURES`."""
        known = self._calls.get(selector)
        if known is None:
            result, _, rest = SIGNATURES[selector].removesuffix(")").partition("(")
            arguments = ", ".join(["id", "SEL", *([rest] if rest else [])])
            send = self.ffi.cast(f"{result} (*)({arguments})", self._send)
            name = self.selector(selector)

            def known(receiver: Any, *values: Any) -> Any:
                return send(receiver, name, *values)

            self._calls[selector] = known
        return known

    def send(self, receiver: Any, selector: str, *arguments: Any) -> Any:
        """Send a message; a message to nil answers 0."""
        return self.call(selector)(receiver, *arguments)

    def selector(self, name: str) -> Any:
        """The registered selector of a name."""
        return self._lib.sel_registerName(name.encode())

    def responds(self, receiver: Any, selector: str) -> bool:
        """Whether an object or a class has a method."""
        return bool(self.send(receiver, "respondsToSelector:", self.selector(selector)))

    def find_class(self, name: str) -> Any:
        """A class, or None if no loaded framework has it."""
        found = self._lib.objc_getClass(name.encode())
        return None if found == self.nil else found

    # -- ownership ------------------------------------------------------------------------

    def pool(self) -> _Pool:
        """A context in which methods may return objects that the caller does not own."""
        return _Pool(self._lib)

    def own(self, new: Any) -> Any:
        """An object of a new, alloc or copy method: released with its last reference; or None."""
        return None if new == self.nil else self.ffi.gc(new, self.release)

    def keep(self, borrowed: Any) -> Any:
        """An object that somebody else owns, retained; or None."""
        return self.own(self.send(borrowed, "retain"))

    def release(self, owned: Any) -> None:
        """Give an object up that no reference owns."""
        if self.alive:
            self.send(owned, "release")

    # -- values ---------------------------------------------------------------------------

    def string(self, text: str) -> Any:
        """An NSString, of the present pool."""
        return self.send(self.find_class("NSString"), "stringWithUTF8String:", text.encode())

    def text(self, string: Any) -> str:
        """The text of an NSString; empty for nil."""
        found = self.send(string, "UTF8String")
        return "" if found == self.nil else self.ffi.string(found).decode(errors="replace")

    def size(self, width: int) -> Any:
        """An MTLSize of one dimension."""
        return self.ffi.new("MTLSize *", (width, 1, 1))[0]
