"""What the numbers and texts of a report can be; a report that is read is checked against it."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

LARGEST = 1e300
"""No number of a report is larger: infinity is none, and neither is NaN."""

Finite = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]
NotNegative = Annotated[float, Meta(ge=0, le=LARGEST)]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0, le=2**62)]
AtLeastOne = Annotated[int, Meta(ge=1, le=10**9)]
Name = Annotated[str, Meta(min_length=1, max_length=1000)]
Text = Annotated[str, Meta(max_length=10_000)]
