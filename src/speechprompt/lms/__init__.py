"""Units -> distributions. Knows units, streams and prefixes; never hears of labels or tasks."""
