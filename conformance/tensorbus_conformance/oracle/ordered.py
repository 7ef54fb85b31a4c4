"""`Order` of each op whose bits follow from docs/order.md, by the op's name in the oracle."""

from __future__ import annotations

from . import ordered_composed, ordered_products, ordered_sums
from .order_sample import Call, Order, Sample, sample

__all__ = ["ORDERS", "Call", "Order", "Sample", "sample"]

ORDERS: dict[str, Order] = {
    **ordered_sums.ORDERS,
    **ordered_products.ORDERS,
    **ordered_composed.ORDERS,
}
"""The order of each op."""
