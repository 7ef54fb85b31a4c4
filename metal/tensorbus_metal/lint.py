"""What MSL forbids and a C++ front end does not see.

The heads of kernels (attributes, buffer places, address spaces), recursion, reserved words,
threadgroup memory.  It reads the text that this package generates: helper functions and kernels at
file scope, one declaration a line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

__all__ = ["Finding", "blanked", "lint"]

LARGEST_INDEX = 30
THREADGROUP_BYTES = 32 * 1024

# MSL specification, 1.5 and 2: words that are no names, beyond C++'s.
RESERVED = frozenset(
    {
        *("access", "and", "and_eq", "array", "bfloat", "bitand", "bitor", "compl", "constant"),
        *("device", "fragment", "half", "imageblock", "intersection", "kernel", "mesh", "not"),
        *("not_eq", "object", "object_data", "or", "or_eq", "patch_control_point", "ptrdiff_t"),
        *("ray_data", "sampler", "size_t", "texture", "thread", "threadgroup"),
        *("threadgroup_imageblock", "uchar", "uint", "ulong", "ushort", "vec", "vertex"),
        *("visible", "xor", "xor_eq"),
    }
)

# Features of C++ that MSL leaves out (specification, 1.5.4), and types that it does not have.
_FORBIDDEN = {
    "double": "MSL has no double",
    "new": "MSL has no new and delete",
    "delete": "MSL has no new and delete",
    "dynamic_cast": "MSL has no dynamic_cast",
    "typeid": "MSL has no type identification",
    "virtual": "MSL has no virtual functions",
    "try": "MSL has no exceptions",
    "catch": "MSL has no exceptions",
    "throw": "MSL has no exceptions",
    "noexcept": "MSL has no exceptions",
    "goto": "MSL has no goto",
    "thread_local": "MSL has no thread_local",
    "__int128": "MSL has no 128-bit integers",
    "std": "MSL has no standard library of C++",
}

# What a thread may ask about itself; one-dimensional, all of these are ushort or uint.
_POSITIONS = frozenset(
    {
        *("thread_position_in_grid", "thread_position_in_threadgroup"),
        *("thread_index_in_threadgroup", "thread_index_in_simdgroup"),
        *("threadgroup_position_in_grid", "threadgroups_per_grid", "threads_per_grid"),
        *("threads_per_threadgroup", "threads_per_simdgroup", "simdgroup_index_in_threadgroup"),
    }
)

_SIZES = {
    **dict.fromkeys(("bool", "b8", "char", "uchar", "i8", "u8"), 1),
    **dict.fromkeys(("short", "ushort", "i16", "u16", "half"), 2),
    **dict.fromkeys(("int", "uint", "float", "i32", "u32", "f32"), 4),
    **dict.fromkeys(("long", "ulong", "i64", "u64"), 8),
}
_TYPES = "|".join(sorted(_SIZES, key=len, reverse=True))


@dataclass(frozen=True)
class Finding:
    """What is wrong in which line, counted from 1."""

    line: int
    words: str


@dataclass(frozen=True)
class _Function:
    name: str
    kernel: bool
    line: int
    head: str
    body: str
    body_line: int


def blanked(source: str) -> str:
    """The text without comments and the attributes of parameters, in the same lines."""
    blank = re.compile(r"//[^\n]*|/\*.*?\*/|\[\[.*?\]\]", re.DOTALL)
    return blank.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), source)


def lint(source: str) -> list[Finding]:
    """Everything wrong in a program, in the order of its lines."""
    text = re.sub(
        r"//[^\n]*|/\*.*?\*/", lambda m: re.sub(r"[^\n]", " ", m[0]), source, flags=re.DOTALL
    )
    functions = list(_functions(text))
    found = [*_words(text), *_missing(text), *_recursion(functions), *_stray(text, functions)]
    for function in functions:
        found += _threadgroup(function)
        if function.kernel:
            found += _head(function)
    return sorted(set(found), key=lambda f: (f.line, f.words))


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _code(text: str) -> str:
    """The text with preprocessor lines blanked."""
    joined = re.compile(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", re.MULTILINE)
    return joined.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)


def _words(text: str) -> Iterator[Finding]:
    code = _code(text)
    for match in re.finditer(r"\b\w+\b", code):
        if match[0] in _FORBIDDEN:
            yield Finding(_line(text, match.start()), _FORBIDDEN[match[0]])
    for match in re.finditer(r"\blong\s+long\b", code):
        yield Finding(_line(text, match.start()), "MSL has no long long")
    # A macro of that name makes it another one.
    renamed = set(re.findall(r"^\s*#define\s+(\w+)", text, re.MULTILINE))
    declared = re.compile(rf"\b(?:{_TYPES})\b[\s*]*\b(\w+)\s*(?=[=;,\[(){{])")
    for match in declared.finditer(code):
        if match[1] in RESERVED - renamed:
            words = f"{match[1]!r} is a reserved word of MSL and no name"
            yield Finding(_line(text, match.start(1)), words)


def _missing(text: str) -> Iterator[Finding]:
    if "#include <metal_stdlib>" not in text:
        yield Finding(1, "#include <metal_stdlib> is missing")
    if not re.search(r"^#pragma METAL fp contract\(off\)", text, re.MULTILINE):
        yield Finding(1, "#pragma METAL fp contract(off) is missing: a * b + c would be fused")


def _functions(text: str) -> Iterator[_Function]:
    """Definitions at file scope."""
    code = _code(text)
    start = re.compile(r"\b(\w+)\s*\(")
    at = 0
    while match := start.search(code, at):
        close = _matching(code, match.end() - 1, "()")
        rest = re.compile(r"\s*\{").match(code, close + 1)
        if rest is None:
            at = close + 1
            continue
        end = _matching(code, rest.end() - 1, "{}")
        before = code[: match.start()].rsplit(";", 1)[-1].rsplit("}", 1)[-1]
        yield _Function(
            match[1],
            re.search(r"\bkernel\b", before) is not None,
            _line(code, match.start()),
            text[match.end() : close],
            code[rest.end() : end],
            _line(code, rest.end()),
        )
        at = end + 1


def _matching(text: str, at: int, pair: str) -> int:
    """Position of the bracket that closes the one at `at`."""
    depth = 0
    for k in range(at, len(text)):
        depth += (text[k] == pair[0]) - (text[k] == pair[1])
        if depth == 0:
            return k
    return len(text) - 1


def _parameters(head: str) -> Iterator[tuple[int, str]]:
    depth, start = 0, 0
    for k, c in enumerate(head + ","):
        depth += (c in "([") - (c in ")]")
        if c == "," and depth <= 0:
            text = head[start:k]
            blank = len(text) - len(text.lstrip())
            yield head.count("\n", 0, start + blank), text.strip()
            start = k + 1


def _head(kernel: _Function) -> Iterator[Finding]:
    taken: set[int] = set()
    for offset, parameter in _parameters(kernel.head):
        line = kernel.line + offset
        match = re.search(r"\[\[\s*(\w+)\s*(?:\(\s*(\d+)\s*\))?\s*\]\]", parameter)
        if match is None:
            yield Finding(line, f"kernel {kernel.name}: {parameter!r} has no attribute")
        elif match[1] == "buffer":
            yield from _buffer(kernel, line, parameter, match[2], taken)
        elif match[1] not in _POSITIONS:
            yield Finding(line, f"kernel {kernel.name}: no attribute {match[1]!r}")
        elif parameter.split()[0] not in ("ushort", "uint"):
            words = f"kernel {kernel.name}: {match[1]} is a ushort or a uint here"
            yield Finding(line, words)


def _buffer(
    kernel: _Function, line: int, parameter: str, text: str | None, taken: set[int]
) -> Iterator[Finding]:
    index = int(text) if text else -1
    if not 0 <= index <= LARGEST_INDEX:
        words = f"buffer index {text} is not in 0 .. {LARGEST_INDEX}"
        yield Finding(line, f"kernel {kernel.name}: {words}")
    elif index in taken:
        yield Finding(line, f"kernel {kernel.name}: buffer index {index} is there twice")
    taken.add(index)
    if "*" not in parameter or not re.match(r"(?:const\s+)?(?:device|constant)\b", parameter):
        words = f"{parameter!r} is no pointer to device or constant memory"
        yield Finding(line, f"kernel {kernel.name}: {words}")


def _recursion(functions: list[_Function]) -> Iterator[Finding]:
    names = {f.name for f in functions}
    calls: Mapping[str, set[str]] = {
        f.name: names & set(re.findall(r"\b(\w+)\s*\(", f.body)) for f in functions
    }
    for function in functions:
        reached, waiting = set[str](), list(calls[function.name])
        while waiting:
            name = waiting.pop()
            if name not in reached:
                reached.add(name)
                waiting += calls[name]
        if function.name in reached:
            yield Finding(function.line, f"{function.name} calls itself: MSL has no recursion")


_ARRAY = re.compile(r"\b(?:threadgroup|LOCAL)\s+(\w+)\s+(\w+)\s*(?:\[\s*(\d+)\s*\])?\s*;")


def _threadgroup(function: _Function) -> Iterator[Finding]:
    total = 0
    for match in _ARRAY.finditer(function.body):
        before = function.body[: match.start()]
        line = function.body_line + before.count("\n")
        if not function.kernel or before.count("{") != before.count("}"):
            yield Finding(line, f"threadgroup memory {match[2]!r} is not at the scope of a kernel")
        if match[1] not in _SIZES:
            yield Finding(line, f"threadgroup memory of a type without known size, {match[1]!r}")
        total += _SIZES.get(match[1], 0) * int(match[3] or 1)
    if total > THREADGROUP_BYTES:
        words = f"{total} bytes of threadgroup memory; {THREADGROUP_BYTES} are there"
        yield Finding(function.line, f"{function.name}: {words}")


def _stray(text: str, functions: list[_Function]) -> Iterator[Finding]:
    """Variables at file scope that are not in constant memory."""
    code = _code(text)
    for function in functions:
        code = code.replace(function.body, re.sub(r"[^\n]", " ", function.body))
    variable = re.compile(rf"^(?:static\s+)?(?:const\s+)?(?:{_TYPES})\s+(\w+)\s*[\[=;]", re.M)
    for match in variable.finditer(code):
        words = f"{match[1]!r} at file scope is not in constant memory"
        yield Finding(_line(code, match.start()), words)
