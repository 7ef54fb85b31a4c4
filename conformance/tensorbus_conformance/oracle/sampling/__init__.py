"""The samples with which ops are judged, designed and not listed.

For each op the factors on which its kernels and rules can depend are named (sizes at the constants
of skeletons, ranks, layouts of each operand, kinds of data, forms of each argument, values of each
option) and covered: an op's own factors in pairs, those shared by a family at random, so that the
family covers their pairs.  `sampler` holds cases and arrays, `cover` the covering arrays, the other
modules the samples of one family each.  An op's record (`OpReference.samples`) names them.
"""

from __future__ import annotations

from .sampler import Case, Sampler, Samples

__all__ = ["Case", "Sampler", "Samples"]
