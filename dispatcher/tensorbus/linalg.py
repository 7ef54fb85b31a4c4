"""The array API's linear-algebra extension, as far as it exists here."""

from .ops import matmul, matrix_transpose, tensordot, vecdot

__all__ = ["matmul", "matrix_transpose", "tensordot", "vecdot"]
