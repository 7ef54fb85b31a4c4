"""What is changed in C text: operators, constants, comparisons, operands, statements.

A tokenizer is enough: binary operators of the sources stand between spaces, and text that no
longer compiles is told apart when it is tried.  It reads whole files and pieces of templates
(``{name}`` of a format string is never touched).
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["CEdit", "changes", "compiled_lines", "file_edits", "looks_like_c", "probe_position"]

_TOKEN = re.compile(
    r"""
    (?P<comment>/\*.*?\*/|//[^\n]*)
  | (?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
  | (?P<include>\#[ \t]*(?:include|if|ifdef|ifndef|elif|else|endif|undef|error|pragma)[^\n]*)
  | (?P<define>\#[ \t]*define[ \t]+\w+)
  | (?P<hole>\{\w*(?:![rsa])?\})
  | (?P<number>0[xX][0-9a-fA-F]+(?:\.[0-9a-fA-F]*)?(?:[pP][+-]?\d+)?[uUlLfF]*
              |(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?[uUlLfF]*)
  | (?P<word>[A-Za-z_]\w*)
  | (?P<operator><<=|>>=|<=|>=|==|!=|&&|\|\||<<|>>|\+\+|--|->|[-+*/%&|^]=
              |[-+*/%&|^<>=!~?:;,.(){}\[\]])
  | (?P<space>\s+)
  | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)

_OTHER = {
    "<": ("<=",), "<=": ("<",), ">": (">=",), ">=": (">",), "==": ("!=",), "!=": ("==",),
    "+": ("-",), "-": ("+",), "*": ("+",), "/": ("*",), "%": ("/",), "<<": (">>",), ">>": ("<<",),
    "&": ("|",), "|": ("&",), "^": ("|",), "&&": ("||",), "||": ("&&",),
    "+=": ("-=",), "-=": ("+=",), "*=": ("+=",), "|=": ("&=",), "&=": ("|=",), "<<=": (">>=",),
    ">>=": ("<<=",),
}  # fmt: skip
_COMPARE = {"<", "<=", ">", ">=", "==", "!="}
_ORDERED = {"-", "/", "%", "<<", ">>"}
_DECLARES = {
    "const", "static", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "f32", "f64", "b8",
    "int", "char", "void", "double", "float", "size_t", "int64_t", "uint64_t", "struct", "typedef",
    "return", "for", "while", "if", "else", "enum", "extern", "case", "break", "continue", "u",
    "INLINE", "CONSTANT", "LOCAL", "pthread_t", "pthread_attr_t", "sigset_t", "unsigned", "API",
    "fp_mode", "union", "object", "method", "prepared", "thread_pool", "tb_job", "tb_gemm_job",
    "kernel_fn",
}  # fmt: skip


@dataclass(frozen=True)
class CEdit:
    """One change: text from `start` to `end` becomes `text`."""

    start: int
    end: int
    text: str
    operator: str


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


def _tokens(text: str) -> list[_Token]:
    return [
        _Token(m.lastgroup or "other", m.group(), m.start())
        for m in _TOKEN.finditer(text)
        if m.lastgroup not in ("space", "comment", "string", "include", "define")
    ]


def looks_like_c(text: str) -> bool:
    """Whether a string of a template is C rather than a name, a key or a message."""
    if text.strip() in _OTHER or text.strip() in ("&&", "||"):
        return True
    if not text.strip() or re.fullmatch(r"[\w.:-]+", text.strip()):
        return False
    if re.search(
        r"[;{}]|==|<=|>=|&&|\|\||<<|>>|\[|\]|[-+*/%&|<>=?] ?$| [-+*/%&|<>=?] |^ ?[-+*/%<>=&|?:]",
        text,
    ):
        # Sentences of an error have words side by side and no such marks but a comma or a bracket.
        return not re.search(r"[a-z]{2,} [a-z]{2,} [a-z]{2,}", text)
    return False


def _spaced(text: str, token: _Token) -> bool:
    before = text[token.start - 1 : token.start]
    after = text[token.end : token.end + 1]
    return before in ("", " ", "\n") and after in ("", " ", "\n")


def _numbers(token: _Token) -> Iterator[str]:
    match = re.fullmatch(r"(0[xX][0-9a-fA-F]+|\d+)([uUlL]*)", token.text)
    if match:
        value, suffix = int(match[1], 0), match[2]
        spell = hex if match[1][:2].lower() == "0x" else str
        for other in dict.fromkeys((value + 1, value - 1, 0, 2 * value)):
            if other != value and other >= 0:
                yield spell(other) + suffix
        return
    match = re.fullmatch(
        r"([\d.]+(?:[eE][+-]?\d+)?|0[xX][0-9a-fA-F.]+[pP][+-]?\d+)([fF]?)", token.text
    )
    if match:
        hexadecimal = match[1][:2].lower() == "0x"
        number = float.fromhex(match[1]) if hexadecimal else float(match[1])
        for changed in dict.fromkeys((2 * number, number + 1.0, 0.0)):
            if changed != number:
                yield (changed.hex() if hexadecimal else repr(changed)) + match[2]


def _operators(text: str, tokens: list[_Token]) -> Iterator[CEdit]:
    for k, token in enumerate(tokens):
        if token.kind == "number":
            for number in _numbers(token):
                yield CEdit(token.start, token.end, number, "constant")
        if token.kind != "operator":
            continue
        if token.text in _OTHER and _spaced(text, token):
            kind = "comparison" if token.text in _COMPARE else "arithmetic"
            for new in _OTHER[token.text]:
                yield CEdit(token.start, token.end, new, kind)
        if token.text in _ORDERED and _spaced(text, token) and 0 < k < len(tokens) - 1:
            left, right = tokens[k - 1], tokens[k + 1]
            if {left.kind, right.kind} <= {"word", "number", "hole"} and left.text != right.text:
                following = tokens[k + 2].text if k + 2 < len(tokens) else ""
                if following not in ("[", "(", ".", "->"):
                    between = text[left.end : right.start]
                    swapped = right.text + between + left.text
                    yield CEdit(left.start, right.end, swapped, "swapped operands")


def _conditions(text: str, tokens: list[_Token]) -> Iterator[CEdit]:
    for k, token in enumerate(tokens[:-1]):
        if token.text not in ("if", "while") or tokens[k + 1].text != "(":
            continue
        depth = 0
        for later in tokens[k + 1 :]:
            depth += {"(": 1, ")": -1}.get(later.text, 0)
            if depth == 0:
                inside = text[tokens[k + 1].end : later.start]
                yield CEdit(tokens[k + 1].end, later.start, f"!({inside})", "negated condition")
                break


def _ternaries(text: str, tokens: list[_Token]) -> Iterator[CEdit]:
    """``c ? a : b`` whose branches are single tokens exchanges them."""
    for k in range(len(tokens) - 3):
        if tokens[k].text == "?" and tokens[k + 2].text == ":":
            a, b = tokens[k + 1], tokens[k + 3]
            if a.text != b.text and {a.kind, b.kind} <= {"word", "number", "hole"}:
                between = text[a.end : b.start]
                yield CEdit(a.start, b.end, b.text + between + a.text, "swapped operands")


def _statements(text: str, tokens: list[_Token]) -> Iterator[CEdit]:
    first = 0
    depth = 0
    for k, token in enumerate(tokens):
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if depth == 0 and token.text in ("{", "}"):
            first = k + 1
        elif depth == 0 and token.text == ";":
            head = tokens[first] if first < k else None
            if (
                head is not None
                and head.kind == "word"
                and head.text not in _DECLARES
                and k - first > 1
                and tokens[first + 1].kind == "operator"
            ):
                yield CEdit(head.start, token.end, ";", "dropped statement")
            first = k + 1
        elif depth == 0 and token.text == ")" and k + 1 < len(tokens) and _heads(tokens, k):
            first = k + 1


def _heads(tokens: list[_Token], close: int) -> bool:
    """Whether a closing parenthesis ends the head of an if, a for or a while."""
    depth = 0
    for k in range(close, -1, -1):
        depth += {")": 1, "(": -1}.get(tokens[k].text, 0)
        if depth == 0:
            return k > 0 and tokens[k - 1].text in ("if", "for", "while")
    return False


def file_edits(text: str) -> list[CEdit]:
    """All changes of a C text, in order."""
    tokens = _tokens(text)
    found = [
        *_operators(text, tokens),
        *_conditions(text, tokens),
        *_ternaries(text, tokens),
        *_statements(text, tokens),
    ]
    return sorted(found, key=lambda e: (e.start, e.end, e.operator))


def changes(text: str) -> list[tuple[str, str]]:
    """Operator and changed text, for each change of a piece of C."""
    return [(e.operator, text[: e.start] + e.text + text[e.end :]) for e in file_edits(text)]


def compiled_lines(text: str) -> set[int]:
    """Lines of a C file, from 1, that this machine's preprocessor keeps.

    It knows ``#if defined(NAME)``, ``#ifdef NAME``, ``#elif defined(NAME)`` and ``#else``; what is
    for another processor is never compiled here, so changes there cannot be judged here.
    """
    known = {"__x86_64__"} if platform.machine() in ("x86_64", "AMD64") else {"__aarch64__"}
    if sys.platform == "linux":
        known |= {"MADV_HUGEPAGE", "__linux__"}
    found: set[int] = set()
    kept: list[tuple[bool, bool]] = []  # for each open condition: now kept, some part was kept
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.match(r"#\s*(if|ifdef|elif)\s+(?:defined\((\w+)\)|(\w+))", line):
            taken = kept.pop()[1] if match[1] == "elif" else False
            holds = (match[2] or match[3]) in known and not taken
            kept.append((holds, holds or taken))
        elif re.match(r"#\s*else", line):
            taken = kept.pop()[1]
            kept.append((not taken, True))
        elif re.match(r"#\s*endif", line):
            kept.pop()
        elif all(now for now, _ in kept):
            found.add(number)
    return found


def probe_position(text: str, at: int) -> int | None:
    """Where, inside the function around `at`, a statement may be put; None outside of functions."""
    depth, opened = 0, None
    tokens = _tokens(text)
    for k, token in enumerate(tokens):
        if token.start >= at:
            break
        if token.text == "{":
            if depth == 0:
                # The body of a function follows its parameters; a struct's follows a name.
                opened = token.end if k and tokens[k - 1].text == ")" else None
            depth += 1
        elif token.text == "}":
            depth -= 1
    return opened if depth > 0 else None
