"""Constants and prototypes against a vendor's own headers, where they are installed.

A plugin and the driver that simulates the vendor's are written by the same people, so a number that
is wrong in both goes unseen.  A C++ compiler that reads the vendor's header sees it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import pytest

CXX = shutil.which("g++") or shutil.which("clang++")

# Two types are passed alike if they are of one class (pointers, integers and enumerations; floats)
# and one size; two pointers, if what they point to is of one size where both say what it is.
_COMPARE = r"""
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <type_traits>
template <class T> constexpr bool word =
    std::is_pointer_v<T> || std::is_integral_v<T> || std::is_enum_v<T>;
template <class A, class B> constexpr bool alike_one() {
    if constexpr (std::is_void_v<A> || std::is_void_v<B>) {
        return std::is_void_v<A> && std::is_void_v<B>;
    } else if constexpr (sizeof(A) != sizeof(B) || word<A> != word<B>) {
        return false;
    } else if constexpr (std::is_pointer_v<A> && std::is_pointer_v<B>) {
        using P = std::remove_cv_t<std::remove_pointer_t<A>>;
        using Q = std::remove_cv_t<std::remove_pointer_t<B>>;
        if constexpr (std::is_scalar_v<P> && std::is_scalar_v<Q>) return alike_one<P, Q>();
        else return true;
    } else {
        return true;
    }
}
template <class A, class B> struct alike { static constexpr bool value = false; };
template <class R, class... P, class S, class... Q> struct alike<R (*)(P...), S (*)(Q...)> {
    static constexpr bool value = [] {
        if constexpr (sizeof...(P) != sizeof...(Q)) return false;
        else return alike_one<R, S>() && (alike_one<P, Q>() && ... && true);
    }();
};
#define NUMBER(x) printf("%s = %lld\n", #x, (long long)(x));
#define SAME(f) printf("%s = %d\n", #f, (int)alike<decltype(&ours::f), decltype(&::f)>::value);
"""


def folders() -> list[Path]:
    """Where headers may lie: toolkits that are named or installed, then packages of Python."""
    named = [
        Path(os.environ[k]) for k in ("CUDA_PATH", "CUDA_HOME", "ROCM_PATH") if k in os.environ
    ]
    roots = [*named, *sorted(Path("/usr/local").glob("cuda*"), reverse=True)]
    roots += sorted(Path("/opt").glob("rocm*"), reverse=True)
    found = [root / "include" for root in roots]
    found += sorted(Path(sysconfig.get_path("purelib"), "nvidia").glob("*/include"))
    return [folder for folder in [*found, Path("/usr/include")] if folder.is_dir()]


def header(name: str) -> Path:
    """An installed header; skips the test where there is none, or no compiler to read it."""
    if CXX is None:
        pytest.skip("no C++ compiler (g++ or clang++) reads the vendor's headers")
    for folder in folders():
        if (folder / name).is_file():
            return folder / name
    pytest.skip(f"{name} is not installed")


def declared(declarations: str) -> list[str]:
    """Names of the functions that C declarations have."""
    return re.findall(r"^(?:[\w ]+[ *])(\w+)\((?!\*)", declarations, re.MULTILINE)


def exported(folder: Path, mark: str) -> dict[str, str]:
    """Prototypes of the functions that C++ files define behind a word (``"CU_API"``), by name."""
    pattern = re.compile(rf"^{mark} ([\w ]+?[ *]+)(\w+)\(([^)]*)\)\s*\{{", re.MULTILINE)
    texts = [
        re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        for path in sorted(folder.glob("*.cpp"))
    ]
    found = (match for text in texts for match in pattern.finditer(text))
    return {m[2]: f"{m[1]}{m[2]}({' '.join(m[3].split())});" for m in found}


def spoken(name: str, before: str = "") -> str:
    """What is left of a header, and of all that it includes, behind the preprocessor."""
    text = f'{before}\n#include "{header(name)}"\n'
    include = [f"-I{folder}" for folder in folders() if folder != Path("/usr/include")]
    done = subprocess.run(
        [str(CXX), "-E", "-x", "c++", "-std=c++17", *include, "-"],
        input=text,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def numbers(
    name: str,
    constants: Iterable[str],
    *,
    declarations: str = "",
    functions: Collection[str] = (),
    before: str = "",
    after: str = "",
) -> Mapping[str, int]:
    """Values of a header's constant expressions, and 1 for each function that is declared alike.

    Args:
        name: The header, ``"cuda.h"``; the test is skipped without it.
        constants: Expressions.
        declarations: Prototypes to compare with the header's.
        functions: Which of them.
        before: Text that stands before the header is included.
        after: Text behind it.
    """
    home = header(name)
    text = [before, f'#include "{home}"', after, _COMPARE]
    text += ["namespace ours {", declarations, "}", "int main() {"]
    text += [f"NUMBER({x})" for x in constants] + [f"SAME({f})" for f in functions] + ["}"]
    with tempfile.TemporaryDirectory(prefix="tensorbus-test-") as folder:
        source, program = Path(folder, "x.cpp"), Path(folder, "x")
        source.write_text("\n".join(text))
        include = [f"-I{home.parent}", *(f"-I{f}" for f in folders() if f != Path("/usr/include"))]
        built = subprocess.run(
            [str(CXX), "-std=c++17", "-w", *include, str(source), "-o", str(program)],
            capture_output=True,
            text=True,
        )
        assert built.returncode == 0, built.stderr[-4000:]
        said = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout
    pairs = (line.rsplit(" = ", 1) for line in said.splitlines())
    return {name: int(value) for name, value in pairs}
