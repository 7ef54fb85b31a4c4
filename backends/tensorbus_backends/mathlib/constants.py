"""Mathematical constants as exact fractions, far beyond any precision used here."""

from __future__ import annotations

from fractions import Fraction

__all__ = ["LN2", "LN10", "PI", "TWO_OVER_PI"]

LN2 = Fraction(
    int(
        "b17217f7d1cf79abc9e3b39803f2f6af40f343267298b62d8a0d175b8baafa2be7b876206debac98",
        16,
    ),
    1 << 320,
)
"""log(2), to 320 bits after the point."""

LN10 = Fraction(
    int(
        "24d763776aaa2b05ba95b58ae0b4c28a38a3fb3e76977e43a0f187a0807c0b5ca58bc0b5ec6a04173",
        16,
    ),
    1 << 320,
)
"""log(10), to 320 bits after the point."""

PI = Fraction(
    int(
        "3243f6a8885a308d313198a2e03707344a4093822299f31d0082efa98ec4e6c89452821e638d01378",
        16,
    ),
    1 << 320,
)
"""pi, to 320 bits after the point."""

TWO_OVER_PI = Fraction(
    int(
        "a2f9836e4e441529fc2757d1f534ddc0db6295993c439041fe5163abdebbc561b7246e3a424dd2e0"
        "06492eea09d1921cfe1deb1cb129a73ee88235f52ebb4484e99c7026b45f7e413991d639835339f4"
        "9c845f8bbdf9283b1ff897ffde05980fef2f118b5a0a6d1f6d367ecf27cb09b74f463f669e5fea2d"
        "7527bac7ebe5f17b3d0739f78a5292ea6bfb5fb11f8d5d0856033046fc7b6babf0cfbc209af4361e",
        16,
    ),
    1 << 1280,
)
"""2/pi; the largest float64 needs 971 + 53 + 62 bits and a margin, to 1280 bits after the point."""
