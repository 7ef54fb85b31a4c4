"""linear, embedding and dropout: the functions behind layers."""

from __future__ import annotations

from tensorbus_backends.dtypes import DType

from .. import ops
from .._op import function, whole
from .._promotion import promote
from .._tensor import Tensor
from ..ops._common import tensor_of
from ..ops.matrix import fused_linear
from ..ops.reduction import need_floating, widened
from ..ops.selection import taken
from ..random import Key, dropped_out, key_of

__all__ = ["dropout", "embedding", "linear"]


@function("layer", differentiable=True, namespace="nn")
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, /) -> Tensor:
    """x @ weight^T + bias.

    Args:
        x: Floating, shape (..., inputs).
        weight: Floating, shape (outputs, inputs), or (inputs,) for one output.
        bias: Floating, shape (outputs,), or () for one output.

    Returns:
        Shape (..., outputs), or (...) for a one-dimensional weight.

    Raises:
        TypeError: An operand is not floating.
        ValueError: The shapes do not fit.
    """
    for value, what in ((x, "x"), (weight, "weight"), (bias, "bias")):
        if value is not None or what != "bias":
            need_floating("linear", tensor_of("linear", value, what))
    if weight.ndim not in (1, 2) or x.ndim == 0 or x.shape[-1] != weight.shape[-1]:
        raise ValueError(
            f"linear: x has shape {x.shape} and weight {weight.shape}; they need (..., inputs) and "
            "(outputs, inputs)"
        )
    if bias is not None and bias.shape != weight.shape[:-1]:
        raise ValueError(f"linear: bias has shape {bias.shape}, it needs {weight.shape[:-1]}")
    made: Tensor | None = whole(
        "nn.linear",
        [x, weight] if bias is None else [x, weight, bias],
        {},
        lambda: [(_promoted(x, weight, bias), (*x.shape[:-1], *weight.shape[:-1]))],
    )
    if made is not None:
        return made
    if bias is not None:
        made = fused_linear(x, weight, bias)
        if made is not None:
            return made
    if bias is not None and (weight.dtype.bits == 16 or x.dtype.bits == 16):
        # Bias included, the result is rounded to 16 bits once.
        dtype = _promoted(x, weight, bias)
        return ops.astype(linear(widened(x), widened(weight), widened(bias)), dtype, copy=False)
    transposed = weight if weight.ndim == 1 else ops.matrix_transpose(weight)
    # As one matrix, so that the weight's gradient is one product too.
    rows = ops.reshape(x, (x.size // max(x.shape[-1], 1), x.shape[-1])) if x.ndim > 2 else x
    if x.ndim > 2 and x.shape[-1] == 0:
        rows = x
    out = ops.matmul(rows, transposed)
    if rows is not x:
        out = ops.reshape(out, (*x.shape[:-1], *out.shape[1:]))
    return out if bias is None else ops.add(out, bias)


def _promoted(x: Tensor, weight: Tensor, bias: Tensor | None) -> DType:
    dtype = promote(x.dtype, weight.dtype)
    return dtype if bias is None else promote(dtype, bias.dtype)


@function("layer", differentiable=True, namespace="nn")
def embedding(indices: Tensor, weight: Tensor, /) -> Tensor:
    """Rows of a table.

    Args:
        indices: Integer, any shape.
        weight: Shape (entries, ...).

    Returns:
        Shape ``indices.shape + weight.shape[1:]``.  The gradient adds up what reaches a row in the
        order of `indices`.

    Raises:
        IndexError: An index is out of range.
        TypeError: `indices` is not integer.
        ValueError: `weight` has no dimension.
    """
    tensor_of("embedding", indices, "indices")
    tensor_of("embedding", weight, "weight")
    if not indices.dtype.is_integer:
        raise TypeError(f"embedding: indices are integers, not {indices.dtype.name}")
    if weight.ndim == 0:
        raise ValueError("embedding: weight needs at least one dimension")
    shape = (*indices.shape, *weight.shape[1:])
    made: Tensor | None = whole(
        "nn.embedding", [indices, weight], {}, lambda: [(weight.dtype, shape)]
    )
    if made is not None:
        return made
    flat = taken("embedding", weight, ops.reshape(indices, (indices.size,)), 0)
    return ops.reshape(flat, shape)


@function("layer", differentiable=True, namespace="nn")
def dropout(
    x: Tensor,
    /,
    p: float = 0.5,
    *,
    key: Key | None = None,
    seed: int | None = None,
    training: bool = True,
) -> Tensor:
    """Zero each element with probability `p` and scale the others by 1 / (1 - p).

    The mask follows from the key and the elements' places alone: the gradient makes it again.

    Args:
        x: Floating.
        p: Probability, in [0, 1].
        key: Key (see `tensorbus.random`), or
        seed: seed of one; neither is needed unless training.
        training: False gives `x` itself.

    Raises:
        TypeError: `x` is not floating, or not exactly one of `key` and `seed` is given.
        ValueError: `p` is not in [0, 1].
    """
    tensor_of("dropout", x)
    need_floating("dropout", x)
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p={p} is not a probability")
    if not training or p == 0:
        return x
    return dropped_out(x, float(p), key_of("dropout", key, seed))
