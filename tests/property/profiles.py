"""How long the property tests run: seconds by default, PROPERTY_EXAMPLES says otherwise."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

EXAMPLES = int(os.environ.get("PROPERTY_EXAMPLES", "100"))
"""Examples of each pure property."""

THOROUGH = EXAMPLES > 100

pure = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=not THOROUGH,
    suppress_health_check=[HealthCheck.too_slow],
)
"""For functions that need no storage; by default the same examples in every run."""
