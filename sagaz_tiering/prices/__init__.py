"""What S3 costs: dated list prices per region, and the arithmetic on them."""

from __future__ import annotations

from sagaz_tiering.prices.price_list import ClassPrices, PriceList, RestorePrices

__all__ = ["ClassPrices", "PriceList", "RestorePrices"]
