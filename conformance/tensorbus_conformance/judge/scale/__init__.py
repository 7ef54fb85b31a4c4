"""Large sizes and many dimensions, once for each skeleton, element width and index path.

A path is one way in which a skeleton turns an index, a row number, a chunk number or strides into
a place in memory.  Each has a part ``scale.<skeleton>_<path>``, which calls public ops with data
whose exact result has a closed form in NumPy's integers, so that neither Arb nor ``ref`` is needed:
random words that are only moved, small integers whose sums are exact in every order, extremes
planted where they are hard to find.  Dtypes stand for the widths of elements: 1, 2, 4, 8 bytes.

Sizes lie at and beyond 2^16, 128 chunks of a reduction, two and three blocks of columns, 2^24
(where float32 loses odd integers), ranks 5 to 9 with strides that do not merge.  Level exhaustive
goes beyond 2^31; level smoke keeps 2^16 and the ranks.  The interpreter ``ref`` and simulated
devices stop at 2^20 elements and some hundred rows: they take a thousand times as long.
"""
