"""The independent oracle: what every op should give, and how far from it a result may be.

Nothing here imports the library under test (import-linter keeps it so).  The whole interface::

    op = REFERENCES["softmax"]                      # an OpReference
    ref = op.forward(x, axis=-1)                    # NumPy in, a Reference out
    verdict = op.judge(x.dtype, {"axis": -1}, 1.0).check(got, ref)
    verdict.ok, verdict.message, verdict.witness_index

    for ref, got in zip(op.vjp([x], {"axis": -1}, cotangent), gradients):
        verdict = op.gradient_judge(x.dtype).check(got, ref)

Tensor arguments are positional NumPy arrays (or Python scalars), options keywords with the
array API's names.  Names are the array API's; neural-network ops have PyTorch's functional names
and take `axis`.  `ulp` holds formats and rounding, `bounds` the error model with its
derivations, `data` the generators of inputs.
"""

from __future__ import annotations

from . import (
    contraction,
    elementwise,
    gradients,
    indexing,
    manipulation,
    nn,
    reductions,
    refusals,
)  # fmt: skip
from .op import OpReference
from .verdict import Judge, Reference, Verdict

__all__ = ["REFERENCES", "Judge", "OpReference", "Reference", "Verdict"]

REFERENCES: dict[str, OpReference] = {
    name: refusals.with_refusals(gradients.with_gradients(op))
    for family in (elementwise, reductions, contraction, indexing, manipulation, nn)
    for name, op in family.OPS.items()
}
"""The oracle of each op by name."""
