"""The Objective-C bridge: arguments of every kind, ownership, mistakes."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from tensorbus_metal.objc import SIGNATURES, ObjC

Run = Callable[..., str]
Census = Callable[[], str]

START = """
from tensorbus_metal.simulator import library
from tensorbus_metal.objc import ObjC
objc = ObjC(str(library()), str(library()))
device = objc.own(objc.metal.MTLCreateSystemDefaultDevice())
send = objc.send
"""


def test_text_goes_there_and_back(objc: ObjC) -> None:
    with objc.pool():
        assert objc.text(objc.string("Größe\n2")) == "Größe\n2"


def test_a_message_to_nil_answers_zero(objc: ObjC) -> None:
    assert objc.send(objc.nil, "code") == 0
    assert objc.text(objc.nil) == ""


def test_an_absent_class_is_none(objc: ObjC) -> None:
    assert objc.find_class("NSNothing") is None


def test_methods_are_asked_for(objc: ObjC) -> None:
    device = objc.own(objc.metal.MTLCreateSystemDefaultDevice())
    assert objc.responds(device, "supportsFamily:")
    assert not objc.responds(device, "contents")


def test_every_signature_is_a_c_type(objc: ObjC) -> None:
    for selector in SIGNATURES:
        objc.call(selector)
        assert selector.count(":") == SIGNATURES[selector].count(",") + (
            not SIGNATURES[selector].endswith("()")
        ), selector


def test_floating_point_arguments_arrive(objc: ObjC) -> None:
    """alpha and beta of a product: C = 2.5 A B + 0.5 C, all 1 by 1."""
    device = objc.own(objc.metal.MTLCreateSystemDefaultDevice())
    send, f = objc.send, objc.ffi
    with objc.pool():
        make = "newBufferWithLength:options:"
        buffers = [objc.own(send(device, make, 4, 0)) for _ in range(3)]
        values = [f.cast("float *", send(b, "contents")) for b in buffers]
        values[0][0], values[1][0], values[2][0] = 3.0, 5.0, 7.0
        described = send(
            objc.find_class("MPSMatrixDescriptor"),
            "matrixDescriptorWithRows:columns:rowBytes:dataType:",
            *(1, 1, 4, 0x10000020),
        )
        empty = objc.find_class("MPSMatrix")
        init = "initWithBuffer:offset:descriptor:"
        matrices = [objc.own(send(send(empty, "alloc"), init, b, 0, described)) for b in buffers]
        product = objc.own(
            send(
                send(objc.find_class("MPSMatrixMultiplication"), "alloc"),
                "initWithDevice:transposeLeft:transposeRight:resultRows:resultColumns:"
                "interiorColumns:alpha:beta:",
                *(device, 0, 0, 1, 1, 1, 2.5, 0.5),
            )
        )
        queue = objc.own(send(device, "newCommandQueue"))
        commands = objc.keep(send(queue, "commandBuffer"))
        encode = "encodeToCommandBuffer:leftMatrix:rightMatrix:resultMatrix:"
        send(product, encode, commands, *matrices)
        send(commands, "commit")
        send(commands, "waitUntilCompleted")
    assert values[2][0] == 2.5 * 15 + 0.5 * 7


def test_references_return_to_the_baseline(objc: ObjC, census: Census) -> None:
    device = objc.own(objc.metal.MTLCreateSystemDefaultDevice())
    before = census()
    with objc.pool():
        objc.string("gone with the pool")
        kept = objc.own(objc.send(device, "newBufferWithLength:options:", 64, 0))
        again = objc.keep(kept)
    assert "MTLBuffer" in census()
    del kept
    assert "MTLBuffer" in census()
    del again
    assert census() == before


def test_pools_belong_to_threads(objc: ObjC, census: Census) -> None:
    before = census()

    def work() -> None:
        for _ in range(100):
            with objc.pool():
                objc.string("one")
                with objc.pool():
                    objc.string("two")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert census() == before


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("send(device, 'contents')", "-[MTLDevice contents]: unrecognized selector"),
        ("send(objc.find_class('NSString'), 'alloc')", "+[NSString alloc]: unrecognized"),
        (
            "b = send(device, 'newBufferWithLength:options:', 64, 0)\n"
            "send(b, 'release'); send(b, 'release')",
            "message 'release' to an object that was released too often",
        ),
        (
            "q = objc.own(send(device, 'newCommandQueue'))\n"
            "with objc.pool():\n"
            "    send(send(q, 'commandBuffer'), 'computeCommandEncoder')",
            "released without endEncoding",
        ),
        (
            "q = objc.own(send(device, 'newCommandQueue'))\n"
            "with objc.pool():\n"
            "    c = send(q, 'commandBuffer')\n"
            "    e = send(c, 'computeCommandEncoder')\n"
            "    send(e, 'setBytes:length:atIndex:', bytes(8), 8, 31)",
            "buffer index 31",
        ),
        (
            "q = objc.own(send(device, 'newCommandQueue'))\n"
            "with objc.pool():\n"
            "    c = send(q, 'commandBuffer')\n"
            "    e = send(c, 'computeCommandEncoder')\n"
            "    send(e, 'setBytes:length:atIndex:', bytes(4096), 4096, 0)",
            "setBytes takes 1 to 4095 bytes",
        ),
    ],
)
def test_a_mistake_ends_the_process_with_a_sentence(simulated: Run, line: str, words: str) -> None:
    assert words in simulated(START + line + "\n", code=-6)
