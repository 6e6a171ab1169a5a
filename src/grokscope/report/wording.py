"""Numbers as people read them: steps, durations, ratios, percentages."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from grokscope.findings.statistics import Interval, SeedValues

NOTHING = "–"
_UNIT = re.compile(r"(?<=\d) (?=(?:%|s|ms|min|h)(?!\w))")


def unbroken(text: str) -> str:
    r"""A text with its units kept on the line of their number.

    Example:
        >>> unbroken("3.8 s, 90 % of 5 seeds").split(" ")
        ['3.8\xa0s,', '90\xa0%', 'of', '5', 'seeds']
    """
    return _UNIT.sub("\N{NO-BREAK SPACE}", text)


def count(value: float) -> str:
    """A whole number with thousands separated.

    Example:
        >>> count(8800)
        '8,800'
    """
    return f"{value:,.0f}"


def number(value: float) -> str:
    """A number to three significant digits, whole numbers as they are.

    Example:
        >>> number(0.012345), number(1497), number(12345.6)
        ('0.0123', '1,497', '12,346')
    """
    if not math.isfinite(value):
        return NOTHING
    if value == int(value) and abs(value) < 1e9:
        return count(value)
    if 999.5 <= abs(value) < 1e6:  # which three digits would write as 1e+03
        return count(value)
    return f"{value:.3g}"


def percent(fraction: float, digits: int = 1) -> str:
    """A fraction as per cent.

    Example:
        >>> percent(0.9213), percent(0.9, 0)
        ('92.1 %', '90 %')
    """
    return f"{100 * fraction:.{digits}f} %" if math.isfinite(fraction) else NOTHING


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them.

    Example:
        >>> duration(0.034), duration(25.13), duration(200), duration(4000)
        ('0.03 s', '25.1 s', '3 min 20 s', '1 h 7 min')
    """
    if not math.isfinite(seconds):
        return NOTHING
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    if round(seconds) < 3600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def ratio(value: float) -> str:
    """A ratio to two or three digits.

    Example:
        >>> ratio(11.04), ratio(3.44), ratio(120.3), ratio(0.042)
        ('11', '3.4', '120', '0.042')
    """
    if value < 0.995:
        return f"{value:.2g}"
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"


def times(value: float) -> str:
    """A ratio with its sign.

    Example:
        >>> times(11.04), times(3.44)
        ('11×', '3.4×')
    """
    return f"{ratio(value)}×"


def metric_value(metric: str, value: float) -> str:
    """A metric's value: per cent for an accuracy, a plain number otherwise.

    Example:
        >>> metric_value("test_accuracy", 0.9), metric_value("weight_norm", 41.23)
        ('90.0 %', '41.2')
    """
    return percent(value) if metric.endswith("accuracy") else number(value)


def target_value(metric: str, value: float) -> str:
    """A target, which people write without needless decimals.

    Example:
        >>> target_value("test_accuracy", 0.9), target_value("test_accuracy", 0.985)
        ('90 %', '98.5 %')
    """
    if metric.endswith("accuracy"):
        return f"{100 * value:g} %"
    return number(value)


def metric_name(metric: str) -> str:
    """A column's name in words.

    Example:
        >>> metric_name("test_accuracy")
        'test accuracy'
    """
    return metric.replace("_", " ")


def listed(words: Sequence[str], last: str = "and") -> str:
    """Words as a list in a sentence.

    Example:
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


def steps_text(steps: SeedValues, missing: str = "not in") -> str:
    """The median of steps in a table cell.

    Where no seed has one, ``missing`` and the steps that it takes at least.

    Example:
        >>> steps_text(SeedValues.censored([5000, 9000, None], limits=[9000, 9000, 6000]))
        '6,000 to 9,000 steps'
        >>> steps_text(SeedValues.censored([None], limits=[9000]))
        'not in 9,000'
        >>> steps_text(SeedValues.censored([1000, None], limits=[9000, 9000]))
        'at least 5,000 steps'
    """
    median = steps.median
    return f"{median.text(count)} steps" if steps.num_known else f"{missing} {count(median.low)}"


def range_text(steps: SeedValues) -> str | None:
    """The range over seeds, or how many of them are known; None where they all agree."""
    if len(steps) < 2:
        return None
    if steps.num_known < len(steps):
        return f"{steps.num_known} of {len(steps)} seeds"
    low, high = min(steps.known), max(steps.known)
    return f"{count(low)}–{count(high)}" if high > low else None


def seconds_text(seconds: SeedValues) -> str | None:
    """The median of seconds; None where it has no largest value or no time was recorded."""
    median = seconds.median
    return median.text(duration) if median.is_bounded and not math.isnan(median.low) else None


def ratio_text(bounds: Interval, unit: str) -> str:
    """A ratio of the baseline to an arm in a table cell.

    Example:
        >>> ratio_text(Interval(10, 10), "steps"), ratio_text(Interval(17, math.inf), "steps")
        ('10× steps', '> 17× steps')
        >>> ratio_text(Interval(20, 30), "time")
        '20 to 30× time'
    """
    if not bounds.is_bounded:
        return f"> {times(bounds.low)} {unit}"
    return f"{bounds.text(ratio)}× {unit}"


def spread_text(metric: str, values: SeedValues | None) -> str:
    """The median of a metric over seeds in a table cell."""
    if values is None or math.isnan(values.median.low):
        return NOTHING
    return metric_value(metric, values.median.low)
