"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeGuard

MISSING = "–"
MINUS = "\N{MINUS SIGN}"


def is_number(value: Any) -> TypeGuard[float]:
    """Whether this is a number, NaN included; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_finite(value: Any) -> TypeGuard[float]:
    """Whether this is a number that can be drawn or subtracted."""
    return is_number(value) and math.isfinite(value)


def format_known(format_value: Callable[[Any], str], value: Any) -> str:
    """A number by a function; empty for what is no finite number."""
    return format_value(value) if is_finite(value) else ""


def format_fixed(value: Any, decimals: int, *, sign: bool = False) -> str:
    """A number with so many decimals and grouped thousands: 4,200.50; also NaN, infinities and nothing at all."""
    if not is_number(value):
        return MISSING
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    text = f"{abs(value):,.{decimals}f}"
    if not any(digit in "123456789" for digit in text):
        return f"±{text}" if sign else text
    return (MINUS if value < 0 else "+" if sign else "") + text


def format_short(value: Any) -> str:
    """A number in few characters, for captions: 0.61, 8e-5, 12,000."""
    if not is_finite(value) or value == 0:
        return format_fixed(value, 0)
    exponent = math.floor(math.log10(abs(value)))
    if exponent < -3 or exponent > 6:
        return format_scientific(value)
    return _trim_zeros(format_fixed(value, min(max(0, 2 - exponent), 5)))


def format_scientific(value: float) -> str:
    """A number as 1.25e-4, with at most three digits."""
    mantissa, exponent = f"{abs(value):.2e}".split("e")
    sign = MINUS if value < 0 else ""
    return f"{sign}{_trim_zeros(mantissa)}e{exponent.lstrip('+0') or '0'}".replace("e-0", "e-").replace(
        "e-", f"e{MINUS}"
    )


def format_axis_labels(ticks: list[float]) -> list[str]:
    """Labels of evenly spaced ticks, all in one notation and with equally many decimals; zero is just 0."""
    largest = max(map(abs, ticks), default=0.0)
    if largest and not 0.999e-3 <= largest < 1e7:
        return [format_scientific(tick) if tick else "0" for tick in ticks]
    step = min((b - a for a, b in pairwise(ticks)), default=largest)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step else 0
    return [format_fixed(tick, decimals) if tick else "0" for tick in ticks]


def _trim_zeros(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_duration(seconds: float) -> str:
    """44.1 s, 3 min 12 s, 2 h 05 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60:,} h {minutes % 60:02} min"


def format_memory(size: float) -> str:
    """812 MiB, 3.4 GiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.0f} MiB"
