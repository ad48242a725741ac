"""scikit-learn's own checks of estimators, for every encoder."""

import pytest
from sklearn.base import BaseEstimator
from sklearn.utils.estimator_checks import parametrize_with_checks

import medvlad as mv
from medvlad import (
    VLAD,
    BagOfWords,
    DescriptorProjection,
    FisherVector,
    GlobalPool,
    KMeansCodebook,
    SecondOrderPool,
    SpatialTiles,
)

CHECKED = [
    VLAD(n_clusters=2, random_state=0),
    VLAD(n_clusters=2, random_state=0, power=0.5, intra_norm=True, backend="reference"),
    GlobalPool(),
    GlobalPool("max"),
    GlobalPool("gem", l2_norm=False),
    GlobalPool("sum"),
    VLAD(n_clusters=2, random_state=0, assignment="soft", mass_norm=True),
    VLAD(n_clusters=2, random_state=0, local_axes=True),
    BagOfWords(n_clusters=2, random_state=0),
    FisherVector(n_components=2, random_state=0),
    SecondOrderPool(),
    SpatialTiles(GlobalPool(), grids=[(1, 1)], tiles=[(1, 1)]),
    DescriptorProjection(),
    KMeansCodebook(n_clusters=2, random_state=0),
]


def known(estimator):
    """Return the checks that an estimator fails, with the reason."""
    if isinstance(estimator, VLAD) and estimator.local_axes:
        names = ("check_fit_score_takes_y", "check_n_features_in_after_fitting")
        return dict.fromkeys(names, "partial_fit is refused: axes are learnt from all descriptors at once")
    if isinstance(estimator, KMeansCodebook):
        names = ("check_sample_weight_equivalence_on_dense_data",)
        return dict.fromkeys(names, "the start is drawn from the rows, as in scikit-learn's KMeans")
    if isinstance(estimator, DescriptorProjection):
        names = (
            "check_array_api_input",
            "check_transformer_data_not_an_array",
            "check_transformer_general",
            "check_transformer_preserve_dtypes",
        )
        return dict.fromkeys(names, "it returns Descriptors, whatever the input")
    return {}


@parametrize_with_checks(CHECKED, expected_failed_checks=known)
@pytest.mark.filterwarnings("ignore:.*clusters are empty")
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def test_every_public_estimator_is_checked():
    """Exceptions need a reason."""
    elsewhere = {
        "CNNDescriptors": "takes images, not a matrix",
        "ImageClassifier": "takes images; its clones, searches and pickles are tested in tests/classifier",
        "WideLinearSVC": "checked in tests/svm",
    }
    public = {name: getattr(mv, name) for name in mv.__all__}
    estimators = {
        name for name, it in public.items() if isinstance(it, type) and issubclass(it, BaseEstimator)
    }
    assert estimators - elsewhere.keys() == {type(estimator).__name__ for estimator in CHECKED}
