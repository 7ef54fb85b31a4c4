"""The loader's words without what cffi adds."""

from __future__ import annotations

import cffi
import pytest
from tensorbus_backends.loading import loader_words


def test_a_library_that_is_missing() -> None:
    with pytest.raises(OSError, match="nowhere") as caught:
        cffi.FFI().dlopen("libnowhere.so.7")
    words = loader_words(caught.value)
    assert "libnowhere.so.7" in words
    assert "find_library" not in words
    assert "cannot load library" not in words
    assert words == words.strip()


def test_long_and_broken_lines() -> None:
    words = loader_words(OSError("one\ntwo  " + "x" * 400), 50)
    assert len(words) == 50
    assert words.startswith("one two xxx")
    assert words.endswith("...")
