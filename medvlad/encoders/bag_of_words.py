r"""Bag of visual words: a histogram of an image's descriptors over the cells of a codebook.

An image has n descriptors, :math:`n_k` of them in cell k. Of N training images, :math:`N_k` have a descriptor
in cell k. The vector of the image is

.. math::

    t_k = \frac{n_k}{n} \log \frac{N}{N_k},

term frequency times inverse document frequency (Sivic, Zisserman, ICCV 2003, section 4.1), scaled to unit
length. A cell without training images is treated as if one image had a descriptor there. Counts are exact on
every backend, because labels are.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medvlad._util.choices import BackendName
from medvlad._util.validate import check_n_threads
from medvlad.backends import get_backend
from medvlad.backends.normalise import unit
from medvlad.descriptors.gpu_array import GpuArray
from medvlad.descriptors.ragged import Descriptors
from medvlad.encoders.base import Encoder, blocks, validated
from medvlad.encoders.kmeans import KMeansCodebook, find_centers

__all__ = ["BagOfWords"]


class BagOfWords(Encoder):
    """Histogram of an image's descriptors over the cells of a codebook.

    Parameters
    ----------
    n_clusters : int, default=1024
        Number K of visual words.
    tf_idf : bool, default=True
        Give words that few training images have a larger weight.
    l2_norm : bool, default=True
        Scale the vector to unit length. Otherwise it holds the frequencies n_k / n, weighted if `tf_idf`.
    backend : str, default="auto"
        Name of a backend, see :func:`medvlad.available_backends`.
    n_threads : int or None, default=None
        Number of threads. None: all processors that this process may use.
    max_iter, max_samples, random_state
        Settings of :class:`KMeansCodebook`.

    Attributes
    ----------
    cluster_centers_ : ndarray of float32, shape (K, D)
        Visual words.
    idf_ : ndarray of float64, shape (K,)
        Weights of the words. Ones without `tf_idf`.
    n_iter_ : int
        Number of k-means steps.
    n_features_in_ : int
        Width D of a descriptor.

    References
    ----------
    Sivic, Zisserman: Video Google: a text retrieval approach to object matching in videos. ICCV 2003.

    Examples
    --------
    >>> import numpy as np
    >>> images = [np.random.default_rng(i).random((9 + i, 8)) for i in range(4)]
    >>> BagOfWords(3, random_state=0).fit_transform(images).shape
    (4, 3)
    """

    _learnt = "cluster_centers_"

    def __init__(
        self,
        n_clusters: int = 1024,
        *,
        tf_idf: bool = True,
        l2_norm: bool = True,
        backend: BackendName = "auto",
        n_threads: int | None = None,
        max_iter: int = 100,
        max_samples: int | None = 500_000,
        random_state: Any = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.tf_idf = tf_idf
        self.l2_norm = l2_norm
        self.backend = backend
        self.n_threads = n_threads
        self.max_iter = max_iter
        self.max_samples = max_samples
        self.random_state = random_state

    def fit(self, X: Any, y: object = None) -> Self:
        """Find the words and the number of images that have each.

        Parameters
        ----------
        X : Descriptors, StoredDescriptors, list of (n_i, D), array (B, n, D) or array (B, D)
            Descriptors of the training images.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If there are fewer descriptors than words, or a descriptor is not finite.
        """
        given = validated(self, X, reset=True, finite=False)  # find_centers looks
        codebook = KMeansCodebook(
            self.n_clusters,
            max_iter=self.max_iter,
            backend=self.backend,
            n_threads=self.n_threads,
            random_state=self.random_state,
            max_samples=self.max_samples,
        )
        find_centers(codebook, given)
        self.cluster_centers_, self.n_iter_ = codebook.cluster_centers_, codebook.n_iter_
        self.idf_ = np.ones(len(self.cluster_centers_))
        if self.tf_idf:
            images = np.zeros(len(self.cluster_centers_), np.int64)
            parts = [(None, given)] if isinstance(given, Descriptors) else blocks(given)
            for _, part in parts:
                images += (self._counts(part) > 0).sum(axis=0)
            self.idf_ = np.log(len(given) / np.maximum(images, 1))
        return self

    @property
    def _finds_not_finite(self) -> bool:
        return True  # the backend does

    def _encode_images(self, given: Descriptors) -> NDArray[np.float32]:
        counts = self._counts(given)
        totals = counts.sum(axis=1, keepdims=True)
        frequency = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
        vectors: NDArray[np.float64] = frequency * self.idf_
        if self.l2_norm:
            vectors = unit(vectors)
        return vectors.astype(np.float32)

    def _counts(self, descriptors: Descriptors) -> NDArray[Any]:
        """Return the number of descriptors, or their weight, of each image in each cell (B, K)."""
        x = descriptors.values
        labels = get_backend(self.backend, x).assign(
            x, self.cluster_centers_, offsets=descriptors.offsets, n_threads=check_n_threads(self.n_threads)
        )
        if isinstance(x, GpuArray):
            labels = labels.get()
        k = len(self.cluster_centers_)
        image = np.repeat(np.arange(len(descriptors)), np.diff(descriptors.offsets))
        counts = np.bincount(image * k + labels, descriptors.weights, minlength=len(descriptors) * k)
        return counts.reshape(-1, k)

    @property
    def _n_features_out(self) -> int:
        return len(self.cluster_centers_)
