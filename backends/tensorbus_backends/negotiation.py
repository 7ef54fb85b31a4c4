"""What tensorbus and a plugin agree on: the version of the contract, and features of a device.

Plugins of another major version are refused before any of their methods is called, and told what to
change.  Minor versions may differ either way: an older plugin states fewer features, and what a
newer one states that is not known here is not used.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from .contract import CONTRACT, FEATURES, Device, Feature

__all__ = ["Refusal", "agree", "agreed", "refused"]

_METHODS = {
    Feature.ADDRESS: ("address", "import_pointer"),
    Feature.PARTS: ("part",),
    Feature.PEERS: ("copy_from",),
}
_CHANGES = {
    1: "give every DeviceInfo its evidence; say in Device.features what was synchronous and "
    "Capabilities.host_accessible, and whether it has part and copy_from",
}
"""What a plugin of an older major version has to change, apart from its version."""


@dataclass(frozen=True)
class Refusal:
    """Why a plugin or device cannot be used and what to do, a sentence each."""

    cause: str
    fix: str


def refused(stated: object, who: str) -> Refusal | None:
    """Why a plugin cannot be used by the version that it states; None if it can be.

    Args:
        stated: Its `api_version`.
        who: The package to fix, in words.
    """
    ours = _text(CONTRACT)
    version = (stated, 0) if type(stated) is int and stated != CONTRACT[0] else stated
    if not (isinstance(version, tuple) and [type(n) for n in version] == [int, int]):
        cause = f"its api_version is {stated!r}, which is no version of the plugin contract"
        return Refusal(cause, f"repair {who}: api_version = {CONTRACT} if it is written for {ours}")
    if version[0] == CONTRACT[0]:
        return None
    shown = str(stated) if type(stated) is int else _text(version)
    cause = f"it is written for version {shown} of the plugin contract, and this is {ours}"
    if version[0] > CONTRACT[0]:
        newer = f"upgrade tensorbus to one with contract {version[0]}"
        return Refusal(cause, f"{newer}, or install a {who} for contract {CONTRACT[0]}")
    changes = _CHANGES.get(version[0], "see the contract")
    return Refusal(
        cause,
        f"upgrade {who}, or change it: {changes}; then api_version = {CONTRACT} "
        "(docs/adding-a-device.md has an example)",
    )


def agreed(
    stated: object,
    version: tuple[int, int],
    known: Mapping[str, tuple[int, int]] = FEATURES,
    contract: tuple[int, int] = CONTRACT,
) -> frozenset[str]:
    """The features that both sides have.

    Args:
        stated: What the device states.
        version: The plugin's version of the contract.
        known: Features that this side has, and the versions that they came with.
        contract: The version of this side.

    Raises:
        ValueError: The device states what its version does not have, or no features at all.
    """
    if not isinstance(stated, frozenset) or not all(isinstance(x, str) for x in stated):
        raise ValueError(f"its features are {stated!r}, and not a frozenset of names")
    for feature in sorted(stated):
        since = known.get(feature)
        if since is not None and since > version:
            raise ValueError(
                f"it states the feature {feature!r}, which came with contract {_text(since)}, "
                f"and is written for {_text(version)}"
            )
        if since is None and version <= contract:
            close = difflib.get_close_matches(feature, known, 1, 0.5)
            hint = f"; did you mean {str(close[0])!r}?" if close else ""
            raise ValueError(
                f"it states the feature {feature!r}, which contract {_text(version)} does not "
                f"have{hint}"
            )
    return frozenset(f for f in stated if f in known)


def agree(device: Device, version: tuple[int, int]) -> None:
    """Settle the features of a device that was just opened.

    Raises:
        ValueError: What it states cannot be; see `agreed`.
    """
    features = agreed(device.features, version)
    for feature, methods in _METHODS.items():
        for name in methods if feature in features else ():
            if vars(Device)[name] is _inherited(type(device), name):
                raise ValueError(f"it states the feature {feature.value!r}, but has no {name!r}")
    if features != device.features:
        device.features = features


def _inherited(kind: type[Device], name: str) -> object:
    """What a class has under a name."""
    return next(vars(k)[name] for k in kind.__mro__ if name in vars(k))


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
