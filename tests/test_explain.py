"""Evidence maps: terms add up to the decision value, and a planted patch holds the evidence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import Normalizer

from medvlad import VLAD, BagOfWords, CNNDescriptors, Descriptors, GlobalPool, SpatialTiles, WideLinearSVC
from medvlad._util.validate import InputError
from medvlad.encoders.vector_pca import VectorPCA
from medvlad.explain import Evidence, evidence, evidence_maps, first_order_evidence, overlay, spread
from medvlad.extraction.weights import find_weights


def descriptors_of(rng, n=40, width=12, *, empty=True):
    """Return ragged, sparse, non-negative descriptors like those of a network; one image has none."""
    lengths = rng.integers(1, 30, n)
    if empty:
        lengths[3] = 0
    return Descriptors.from_list(
        [np.maximum(rng.normal(size=(m, width)), 0).astype(np.float32) * 3 for m in lengths]
    )


ENCODERS = {
    "avg": GlobalPool("avg"),
    "avg without L2": GlobalPool("avg", l2_norm=False),
    "max": GlobalPool("max"),
    "sum": GlobalPool("sum", l2_norm=False),
    "words": BagOfWords(12, random_state=0),
    "frequencies": BagOfWords(12, tf_idf=False, l2_norm=False, random_state=0),
    "vlad": VLAD(5, random_state=0),
    "vlad without L2": VLAD(5, l2_norm=False, random_state=0),
    "intra": VLAD(5, intra_norm=True, random_state=0),
    "one cell": VLAD(1, random_state=0),
    "residual": VLAD(5, residual_norm=True, random_state=0),
    "soft": VLAD(5, assignment="soft", intra_norm=True, random_state=0),
    "soft, mass": VLAD(5, assignment="soft", n_nearest=2, residual_norm=True, mass_norm=True, random_state=0),
    "mass, local axes": VLAD(5, mass_norm=True, local_axes=True, random_state=0),
    "union": FeatureUnion(
        [("a", VLAD(4, random_state=0)), ("b", VLAD(3, random_state=1)), ("c", GlobalPool())]
    ),
}
TILED = {
    "tiles": SpatialTiles(VLAD(4, intra_norm=True, random_state=0), grids=[(3, 4), (1, 2)]),
    "tiles without L2": SpatialTiles(GlobalPool(), grids=[(2, 7)], tiles=[(3, 1)], l2_norm=False),
}
BETWEEN = {
    "nothing": [],
    "pca": [PCA(6, random_state=0)],
    "whitening, L2": [PCA(6, whiten=True, random_state=0), Normalizer()],
    "L2 twice": [Normalizer(), PCA(4, random_state=0), Normalizer()],
}


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_terms_and_bias_are_the_decision_value(rng, encoder, between, n_classes):
    # Residuals add up to 0 over all images, so PCA centres an empty image to rounding errors. A
    # normalisation would enlarge them.
    x = descriptors_of(rng, empty=encoder != "vlad without L2")
    steps = make_pipeline(ENCODERS[encoder], *BETWEEN[between], WideLinearSVC())
    steps.fit(x, np.arange(len(x)) % n_classes)
    found = evidence(x, *[step for _, step in steps.steps])
    expected = steps.decision_function(x).reshape(len(x), -1)
    assert found.terms.shape == (len(x.values), expected.shape[1])
    np.testing.assert_allclose(found.decision(), expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
    assert np.abs(found.terms).max() > 0


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("encoder", TILED)
def test_terms_of_tiles_and_bias_are_the_decision_value(rng, encoder, between, weighted):
    x = Descriptors.from_list([rng.normal(size=(0 if i == 2 else 14, 6)) for i in range(12)])
    if weighted:
        x = x.weighted(rng.integers(0, 3, len(x.values)))
    steps = make_pipeline(TILED[encoder], *BETWEEN[between], WideLinearSVC()).fit(x, np.arange(12) % 3)
    found = evidence(x, *[step for _, step in steps.steps])
    np.testing.assert_allclose(found.decision(), steps.decision_function(x), atol=1e-5)


@given(st.integers(0, 2**31 - 1), st.sampled_from([0.3, 0.5, 1.0]), st.booleans())
def test_first_order_terms_add_up_to_power_times_the_decision_value(seed, power, intra_norm):
    rng = np.random.default_rng(seed)
    x = descriptors_of(rng, 12, 6)
    encoder = VLAD(3, power=power, intra_norm=intra_norm, random_state=0).fit(x)
    svm = WideLinearSVC().fit(encoder.transform(x), np.arange(12) % 2)
    found = first_order_evidence(x, encoder, svm)
    expected = power * (svm.decision_function(encoder.transform(x)) - svm.intercept_)
    np.testing.assert_allclose(found.decision()[:, 0] - found.bias[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_a_first_order_term_is_a_derivative(rng):
    """Compare with finite differences in the share of one descriptor, without any normalisation."""
    x = descriptors_of(rng, 6, 5, empty=False)
    encoder = VLAD(3, power=0.5, l2_norm=False, random_state=0).fit(x)
    svm = WideLinearSVC().fit(encoder.transform(x), np.arange(6) % 2)
    found = first_order_evidence(x, encoder, svm)
    centers = encoder.cluster_centers_.astype(np.float64)
    labels = ((x[0][:, None].astype(np.float64) - centers) ** 2).sum(axis=2).argmin(axis=1)

    def value(share):
        summed = np.zeros_like(centers)
        for row, k, t in zip(x[0].astype(np.float64), labels, share, strict=True):
            summed[k] += t * (row - centers[k])
        return (np.sign(summed) * np.sqrt(np.abs(summed))).ravel() @ svm.coef_[0]

    ones = np.ones(len(x[0]))
    for i, step in enumerate(np.eye(len(ones)) * 1e-6):
        slope = (value(ones + step) - value(ones - step)) / 2e-6
        assert found.terms[i, 0] == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_a_signed_power_has_no_exact_evidence(rng):
    x = descriptors_of(rng)
    encoder = VLAD(3, power=0.5, random_state=0).fit(x)
    svm = WideLinearSVC().fit(encoder.transform(x), np.arange(len(x)) % 2)
    with pytest.raises(InputError, match="first_order_evidence"):
        evidence(x, encoder, svm)


@pytest.fixture
def gem(rng):
    """Descriptors, a fitted encoder that is no sum over descriptors, and a classifier behind it."""
    x = descriptors_of(rng)
    encoder = GlobalPool("gem").fit(x)
    return x, encoder, WideLinearSVC().fit(encoder.transform(x), np.arange(len(x)) % 2)


def test_an_encoder_that_is_no_sum_is_refused(gem):
    with pytest.raises(InputError, match="'gem' is not a sum"):
        evidence(*gem)


def test_another_classifier_than_the_svm_is_refused(gem):
    with pytest.raises(InputError, match="needs a WideLinearSVC as the last step, got no step"):
        evidence(*gem[:2])
    with pytest.raises(InputError, match="needs a WideLinearSVC as the last step, got Normalizer"):
        evidence(*gem[:2], Normalizer())


def test_another_normalisation_than_l2_is_refused(gem):
    x, _, svm = gem
    with pytest.raises(InputError, match=r"Normalizer between encoder .* use PCA or Normalizer\('l2'\)"):
        evidence(x, GlobalPool().fit(x), Normalizer("l1"), svm)


@pytest.fixture(params=[(7, 7), (17, 17), (3, 5)], ids=str)
def coarse(request):
    """Sides of a grid that is coarser than (27, 29)."""
    return request.param


def test_spreading_keeps_the_total(rng, coarse):
    values = rng.normal(size=(*coarse, 2))
    fine = spread(values, (27, 29))
    np.testing.assert_allclose(fine.sum(axis=(0, 1)), values.sum(axis=(0, 1)))


def test_spreading_keeps_the_place(coarse):
    corner = np.zeros(coarse)
    corner[0, 0] = 1
    fine = spread(corner, (27, 29))
    assert fine[0, 0] == pytest.approx(fine.max())
    assert not fine[-(-27 // coarse[0]) :].any()


def test_spreading_over_the_same_grid_changes_nothing(rng, coarse):
    values = rng.normal(size=(*coarse, 2))
    np.testing.assert_allclose(spread(values, coarse), values)


#: Places of the patch at the edges and in the middle, top and left in pixels.
CORNERS = [(0, 0), (0, 160), (160, 0), (80, 80)]


def scene(rng, patch_at=None):
    """Return smooth grey noise (224, 224, 3), with a patch of stripes if a place is given."""
    small = rng.normal(128, 12, (8, 8)).clip(0, 255).astype(np.uint8)
    pixels = np.array(Image.fromarray(small).resize((224, 224), Image.Resampling.BICUBIC))
    if patch_at is not None:
        top, left = patch_at
        stripes = np.where((np.arange(64)[:, None] + np.arange(64)) // 6 % 2, 220, 30)
        pixels[top : top + 64, left : left + 64] = stripes
    return np.repeat(pixels[..., None], 3, axis=2)


@pytest.fixture(scope="module")
def scenes():
    """Descriptors of scenes without a patch, with one anywhere, and with one in CORNERS; their grids."""
    pytest.importorskip("keras", reason="needs the extra tensorflow")
    if "vgg16" not in find_weights()["bundled"]:
        pytest.skip("needs the extra offline")
    rng = np.random.default_rng(20261122)
    network = CNNDescriptors("vgg16", "block4_pool", weights="bundled")
    neutral = network.transform([scene(rng) for _ in range(12)])
    places = [tuple(map(int, rng.integers(0, 161, 2))) for _ in range(12)]
    planted = network.transform([scene(rng, at) for at in places])
    return neutral, planted, network.transform([scene(rng, at) for at in CORNERS]), network.grids_


@pytest.mark.parametrize(
    "encoder",
    [GlobalPool("avg"), VLAD(8, random_state=0), VLAD(8, intra_norm=True, random_state=0)],
    ids=["avg", "vlad", "intra"],
)
def test_a_planted_patch_holds_the_evidence(scenes, encoder):
    """Only a patch distinguishes the classes, so the evidence lies there, wherever the patch is."""
    neutral, planted, cornered, grids = scenes
    encoder.fit(neutral)  # a codebook fitted on the patch would leave no residual there
    vectors = np.concatenate([encoder.transform(neutral), encoder.transform(planted)])
    svm = WideLinearSVC().fit(vectors, np.repeat([0, 1], 12))
    found = evidence(cornered, encoder, svm)
    assert (found.decision() > 0).all()
    middles = np.arange(14) * 16 + 8
    for i, (top, left) in enumerate(CORNERS):
        (shown,) = evidence_maps(found, i, grids)
        assert shown.shape == (14, 14)
        # One more cell on each side, because the network sees the surroundings of a cell.
        down = (middles >= top - 16) & (middles < top + 80)
        across = (middles >= left - 16) & (middles < left + 80)
        inside = down[:, None] & across
        assert inside.mean() < 0.2
        assert shown[inside].sum() > 0.5 * shown.clip(0).sum()
        assert shown[inside].mean() > 5 * np.abs(shown[~inside]).mean()


def test_evidence_of_a_mirror_image_is_mirrored_back(rng):
    terms = rng.normal(size=(12, 1))
    found = Evidence(terms, np.zeros((1, 1)), np.array([0, 12]))
    (shown,) = evidence_maps(found, 0, [(2, 3), (2, 3)], mirrored=[False, True])
    np.testing.assert_allclose(shown, terms[:6].reshape(2, 3) + terms[6:].reshape(2, 3)[:, ::-1])


def test_maps_of_other_descriptors_are_refused(rng):
    x = descriptors_of(rng)
    pool = GlobalPool().fit(x)
    svm = WideLinearSVC().fit(pool.transform(x), np.arange(len(x)) % 2)
    with pytest.raises(InputError, match=r"image 0 has \d+ descriptors, but the grids \(7, 7\) have 49"):
        evidence_maps(evidence(x, pool, svm), 0, [(7, 7)])


def test_an_overlay_is_red_for_the_class_and_blue_against_it():
    pixels = np.full((30, 60, 3), 100, np.uint8)
    shown = np.asarray(overlay(pixels, np.array([[1.0, 0.0, -1.0]]), side=120)).astype(int)
    picture = shown[:, 128:]
    assert picture[30, 5, 0] > 150 > picture[30, 5, 2]
    assert picture[30, -5, 2] > 150 > picture[30, -5, 0]
    np.testing.assert_allclose(picture[30, 60], 100, atol=5)


def test_an_overlay_shows_the_image_next_to_the_evidence():
    pixels = np.full((30, 60, 3), 100, np.uint8)
    shown = np.asarray(overlay(pixels, np.array([[1.0, 0.0, -1.0]]), side=120))
    assert shown.shape == (60, 248, 3)
    np.testing.assert_array_equal(shown[:, :120], 100)


def test_an_overlay_without_evidence_is_the_image_in_grey():
    pixels = np.full((30, 60, 3), 100, np.uint8)
    np.testing.assert_array_equal(np.asarray(overlay(pixels, np.zeros((2, 2))))[:, -5:], 100)


def test_maps_with_a_common_scale_have_the_same_colour_for_the_same_value():
    pixels = np.full((30, 60, 3), 100, np.uint8)
    weak, strong = (np.full((2, 2), value) for value in (0.5, 1.0))
    drawn = [np.asarray(overlay(pixels, one, largest=1.0))[100, -5].astype(int) for one in (weak, strong)]
    assert drawn[1][0] > drawn[0][0] + 20
    alone = np.asarray(overlay(pixels, weak))[100, -5]
    np.testing.assert_array_equal(alone, drawn[1])


def test_evidence_is_complete_if_whitening_was_cut_at_the_rank(rng):
    x = descriptors_of(rng, empty=False)[:6]
    twice = Descriptors.from_list([image for image in x for _ in range(2)])
    steps = make_pipeline(VLAD(3, random_state=0), VectorPCA(8, whiten=True), Normalizer(), WideLinearSVC())
    with pytest.warns(UserWarning, match="components vary"):
        steps.fit(twice, np.arange(len(twice)) // 2 % 2)
    found = evidence(x, *[step for _, step in steps.steps])
    np.testing.assert_allclose(found.decision()[:, 0], steps.decision_function(x), atol=1e-5)
