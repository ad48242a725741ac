"""A model card says what the model reads and what it predicts."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from support.target_sets import target_set

from medvlad import GlobalPool, InputError, WideLinearSVC, save_model
from medvlad.models.model_file import model_card
from medvlad.report.model_card import model_card_text, read_results
from medvlad.svm.multi_label import MultiLabelSVC
from medvlad.svm.wide_ridge import WideRidge

NETWORK = {"model": "vgg16", "layer": "block5_pool", "weights": "imagenet"}


def header_of(folder, head, of_images):
    """Save a small model and return its header. The card needs only the names of a network."""
    regression = isinstance(head, WideRidge)
    data, x = target_set("regression" if regression else "labels")
    pool = GlobalPool().fit(x)
    vectors = pool.transform(x)
    y = np.nan_to_num(data.targets)
    if not isinstance(head, MultiLabelSVC | WideRidge):
        y = np.array(["benign", "tumour"])[y[:, 0].astype(int)]
    save_model(
        Pipeline([("encode", pool), ("classify", head.fit(vectors, y))]), folder / "m", card={"n_images": 120}
    )
    return model_card(folder / "m") | ({"features": NETWORK} if of_images else {})


CLASSES = "An image classifier for the classes benign, tumour."
LABELS = "An image classifier for several labels at once: effusion, nodule, fracture."
NUMBERS = "A model that predicts numbers from images: age, weight."
BAGS = "A classifier of bags of descriptors for the classes benign, tumour."
HEADS = {
    "svm": lambda: WideLinearSVC(),
    "logistic": lambda: LogisticRegression(),
    "labels": lambda: MultiLabelSVC(label_names=["effusion", "nodule", "fracture"]),
    "numbers": lambda: WideRidge(1.0, target_names=["age", "weight"]),
}


@pytest.mark.parametrize(
    ("kind", "of_images", "what", "head"),
    [
        ("svm", True, CLASSES, "a linear SVM."),
        ("logistic", True, CLASSES, "a logistic regression."),
        ("labels", True, LABELS, "a linear SVM for each label."),
        ("numbers", True, NUMBERS, "a ridge regression."),
        ("svm", False, BAGS, "a linear SVM."),
        (
            "labels",
            False,
            LABELS.replace("An image classifier", "A classifier of bags of descriptors"),
            "label.",
        ),
        ("numbers", False, NUMBERS.replace("images", "bags of descriptors"), "a ridge regression."),
    ],
)
def test_the_card_says_what_the_model_is(tmp_path, kind, of_images, what, head):
    text = model_card_text(header_of(tmp_path, HEADS[kind](), of_images), "m.model")
    (said,) = [line for line in text.splitlines() if "It was trained on" in line]
    assert said.startswith(what)
    assert said.endswith(head)
    assert ("120 images" if of_images else "120 bags of descriptors") in said
    assert ("descriptors of vgg16 (layer block5_pool, frozen)" in said) == of_images
    assert ("image-classification" in text) == (of_images and kind != "numbers")
    assert ("medvlad external" in text) == (kind in {"svm", "logistic"})
    assert ("network's weights" in text) == of_images
    assert ("open_bags" in text) == (not of_images)


@pytest.mark.parametrize("kind", ["labels", "numbers"])
def test_metrics_of_classes_do_not_go_with_other_models(tmp_path, kind):
    header = header_of(tmp_path, HEADS[kind](), True)
    with pytest.raises(InputError, match="the model predicts labels or numbers"):
        model_card_text(header, "m", results={"dataset": {"class_names": header["classes"]}})


def test_results_of_labels_are_refused_by_their_task(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"task": "labels", "results": [{}]}))
    with pytest.raises(InputError, match="results of the task 'labels', and a model card shows"):
        read_results(tmp_path)
