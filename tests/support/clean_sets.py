"""How many data sets without defects a test simulates, and how many of them may have a finding."""

import os

from scipy.stats import binom

_SHARE = 0.4  # of the data sets that docs/howto/audit.md counts, so that all tests take less time


def number_of_sets(n):
    """Return a share of `n`, or all with MEDVLAD_SLOW=1."""
    return n if os.environ.get("MEDVLAD_SLOW") == "1" else round(_SHARE * n)


def most_found(n, level):
    """Return how many of `n` data sets have a finding of this level at most, with a probability of 0.999."""
    return int(binom.isf(0.001, n, level))
