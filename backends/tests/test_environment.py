"""Environment variables: what is not understood is an error with the word in question."""

from __future__ import annotations

import pytest
from tensorbus_backends.contract import BackendError, DeviceUnavailableError
from tensorbus_backends.environment import group_threads, switch

NAME = "TENSORBUS_TEST_VARIABLE"


@pytest.mark.parametrize("text", ["1", "true", "YES", " on "])
def test_a_switch_is_on(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, text)
    assert switch(NAME)


@pytest.mark.parametrize("text", ["", "0", "False", "no", "off"])
def test_a_switch_is_off(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, text)
    assert not switch(NAME)
    monkeypatch.delenv(NAME)
    assert not switch(NAME)


@pytest.mark.parametrize("text", ["abc", "2", "tru"])
def test_a_switch_is_neither(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, text)
    with pytest.raises(BackendError, match=f"{NAME}='{text}' is neither on nor off; set it to 1"):
        switch(NAME)


def test_threads_of_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    assert group_threads(NAME, "x:0", 64) is None
    for text, threads in (("", None), ("1", 1), ("64", 64), (" 7 ", 7)):
        monkeypatch.setenv(NAME, text)
        assert group_threads(NAME, "x:0", 64) == threads


@pytest.mark.parametrize("text", ["abc", "0", "-1", "65", "6.5", "²"])
def test_no_threads_of_a_group(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, text)
    with pytest.raises(DeviceUnavailableError, match=f"{NAME}='{text}' is no number") as caught:
        group_threads(NAME, "x:0", 64)
    assert caught.value.device == "x:0"
    assert caught.value.fix == f"set {NAME} to a number from 1 to 64, or unset it"
