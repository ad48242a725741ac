"""State of k-means++ that a backend keeps over the steps of one seeding.

:class:`Seeding` is the interface. :class:`PlainSeeding` implements it with a function that computes all
distances of a step anew.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["CandidateDistances", "PlainSeeding", "Seeding"]


class Seeding(Protocol):
    """Seeding among N rows.

    Attributes
    ----------
    closest : ndarray of float64, shape (N,)
        Squared distance of each row to its nearest seed so far. Infinite before the first one.
    """

    closest: NDArray[np.float64]

    def distances(self, candidates: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what :func:`medvlad.backends.reference.candidate_distances` does."""

    def add_best(self, candidates: NDArray[np.int64]) -> int:
        """Make the candidate with the least potential a seed, the first one on a tie. Return its position."""


class CandidateDistances(Protocol):
    """A function like :func:`medvlad.backends.reference.candidate_distances`."""

    def __call__(
        self,
        x: Any,
        norms: NDArray[np.float64],
        candidates: NDArray[np.int64],
        closest: NDArray[np.float64],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the distances (T, N) and the potentials (T,)."""


class PlainSeeding:
    """Seeding by a function that computes the distances of all rows to all candidates.

    Parameters
    ----------
    x : placed rows (N, D)
    norms : ndarray of float64, shape (N,)
        Squared norms of the rows.
    candidate_distances : CandidateDistances
    """

    def __init__(self, x: Any, norms: NDArray[np.float64], candidate_distances: CandidateDistances) -> None:
        self._x, self._norms, self._candidate_distances = x, norms, candidate_distances
        self.closest = np.full(len(norms), np.inf)

    def distances(self, candidates: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See :class:`Seeding`."""
        return self._candidate_distances(self._x, self._norms, candidates, self.closest)

    def add_best(self, candidates: NDArray[np.int64]) -> int:
        """See :class:`Seeding`."""
        distances, potentials = self.distances(candidates)
        best = int(potentials.argmin())
        self.closest = distances[best]
        return best
