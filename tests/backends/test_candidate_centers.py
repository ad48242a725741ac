"""The centres that the first pass of the CUDA kernels gets."""

import numpy as np
import pytest

from medvlad.backends.candidate_centers import candidate_centers


@pytest.fixture
def centers(rng):
    return rng.normal(3, 1, (70, 45)).astype(np.float32)


@pytest.mark.parametrize("tensor_cores", [False, True])
class TestCandidateCenters:
    def test_they_are_padded_and_the_padding_cannot_win(self, centers, tensor_cores):
        made = candidate_centers(centers, tensor_cores=tensor_cores)
        assert made.rounded.shape == (128, 48)
        assert np.isinf(made.half[70:]).all()

    def test_norms_are_within_their_bounds(self, centers, tensor_cores):
        made = candidate_centers(centers, tensor_cores=tensor_cores)
        assert np.linalg.norm(made.rounded, axis=1).max() <= made.max_center
        assert np.abs(made.half[:70]).max() <= made.max_half

    def test_only_tensor_cores_need_rounded_numbers(self, centers, tensor_cores):
        bits = candidate_centers(centers, tensor_cores=tensor_cores).rounded.view(np.uint32)
        assert ((bits & 0x1FFF) == 0).all() == tensor_cores

    def test_rounding_errors_are_within_their_bound(self, centers, tensor_cores):
        """Except for the mean, which they share, b_k and c_k differ by no more than the bound."""
        made = candidate_centers(centers, tensor_cores=tensor_cores)
        shift = (centers.astype(np.float64) - made.rounded[:70, :45]).mean(axis=0)
        off = np.linalg.norm(centers - made.rounded[:70, :45] - shift, axis=1).max()
        assert off <= 2 * made.max_center_error + 1e-6
