"""Predict the classes of image files with a trained pipeline."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from medvlad._util.atomic_file import write_file
from medvlad._util.choices import OnDamage, OnError
from medvlad._util.object_path import ObjectPath, location, plain
from medvlad._util.object_storage import StorageFailure
from medvlad._util.urls import without_secrets
from medvlad._util.validate import InputError
from medvlad.bags.bag_files import BagFiles
from medvlad.bags.data_set import TRAINING_FILES
from medvlad.datasets.arriving import PAUSE, Pause
from medvlad.datasets.patients import compile_group_pattern
from medvlad.datasets.pseudonyms import DAMAGED, Pseudonyms
from medvlad.datasets.query_patient import possible_patients
from medvlad.decisions.answers import Answering
from medvlad.decisions.target_answers import predictions_of
from medvlad.descriptors.ragged import Descriptors
from medvlad.encoders.vlad import VLAD
from medvlad.explain.maps import evidence_map, evidence_picture, largest_evidence
from medvlad.explain.tiles import BagEvidence, bag_evidence, find_thumbnail, tile_picture, tile_table
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.extraction.stream import Extracted, extract_stream
from medvlad.images.formats import is_picture_name
from medvlad.images.read import list_frames
from medvlad.images.write import png
from medvlad.models.cases_file import Cases
from medvlad.svm.decision import decision_columns

__all__ = ["Answers", "Predicted", "SimilarTo", "iter_predictions", "predict_images"]

#: Function from the classifier, its decision values (n, n_classes), the vectors (n, D) that it was given, and
#: the descriptors of n images to what is said about each of them: label, scores, and what else is wanted.
Answers = Callable[[Any, NDArray[np.float64], Any, Descriptors], list[dict[str, Any]]]


@dataclass(frozen=True)
class Predicted:
    """What is said about one image.

    Attributes
    ----------
    path : str or ObjectPath
        The image, as it was given.
    prediction : dict or None
        image, label, scores, and what else :func:`predict_images` names. None: the image was skipped.
    skipped : dict or None
        image and reason. None: the image was not skipped.
    map : ndarray of float64, shape (H, W), or None
        Evidence for the label. None: it was not asked for, or `path` is a feature file.
    tiles : BagEvidence or None
        Evidence for the label at the tiles of feature files. None: it was not asked for, or `path` is an
        image.
    """

    path: str | ObjectPath
    prediction: dict[str, Any] | None = None
    skipped: dict[str, str] | None = None
    map: NDArray[np.float64] | None = None
    tiles: BagEvidence | None = None


@dataclass(frozen=True)
class SimilarTo:
    """Training images to compare images with.

    Attributes
    ----------
    cases : Cases
        See :func:`medvlad.models.cases_file.load_cases`.
    top : int, default=5
        Number of training images for each image.
    """

    cases: Cases
    top: int = 5

    def find(
        self, steps: Sequence[Any], vectors: Any, paths: Sequence[str], names: Pseudonyms | None = None
    ) -> list[dict[str, Any]]:
        """Return the similar training images of some images.

        Parameters
        ----------
        steps : sequence of estimators
            Fitted steps after the extractor. The last is the classifier.
        vectors : ndarray of float, shape (n, D)
            Encoded images.
        paths : sequence of str, n
            The images.
        names : Pseudonyms or None, default=None
            Names of training images and patients in the result. None: as they are.

        Returns
        -------
        list of dict
            similar: see :meth:`medvlad.decisions.similar.SimilarCases.similar`. If training images are of the
            patient of an image, also same_patient, their number.
        """
        encoder = steps[-2] if len(steps) > 1 else None
        n_cells = encoder.n_clusters if isinstance(encoder, VLAD) else None
        index = self.cases.index
        pattern = None if self.cases.pattern is None else compile_group_pattern(self.cases.pattern)
        found: list[dict[str, Any]] = []
        for path, near in zip(paths, index.similar(vectors, self.top, n_cells=n_cells), strict=True):
            said: dict[str, Any] = {"similar": near}
            own = possible_patients(path, pattern) if any(index.patients_) else frozenset[str]()
            if same := sum(patient in own for patient in index.patients_):
                said["same_patient"] = same
            if names is not None:
                for case in near:
                    case["image"] = names.image(case["image"])
                    if "patient" in case:
                        case["patient"] = names.patient(case["patient"])
            found.append(said)
        return found


def iter_predictions(
    pipeline: Pipeline,
    images: Iterable[str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Pause],
    *,
    on_error: OnError = "raise",
    on_damage: OnDamage = "warn",
    names: Pseudonyms | None = None,
    store: str | None = None,
    answers: Answers | None = None,
    similar: SimilarTo | None = None,
    with_maps: bool = False,
) -> Iterator[Predicted]:
    """Predict the classes of images one after another. Memory does not depend on their number.

    Parameters
    ----------
    pipeline : sklearn.pipeline.Pipeline
        See :func:`predict_images`.
    images : iterable of path
        Paths, which are taken when they are needed. An image may be named more than once. If the pipeline
        was trained on feature files: feature files, or sequences of feature files that are one bag.
        :data:`medvlad.datasets.arriving.PAUSE` among them: predict the images so far before taking further
        ones. Otherwise the first predictions come after 512 paths or the last one.
    on_error, on_damage, names
        See :func:`predict_images`.
    store : path or None, default=None
        Folder that keeps descriptors, see :class:`medvlad.CNNDescriptors`.
    answers : callable or None, default=None
        What is said about each image, see :data:`medvlad.predict.Answers`. None: label, scores, and with a
        calibrated classifier probabilities and novelty_p, see :func:`medvlad.decisions.answers_of`.
    similar : SimilarTo or None, default=None
        Training images to compare with. None: predictions do not name similar ones.
    with_maps : bool, default=False
        Whether to compute the map of evidence for each label.

    Yields
    ------
    Predicted
        One for each image, in the order of `images`, after each batch.

    Raises
    ------
    InputError
        For the reasons given in :func:`predict_images`. Images before the one in question were yielded.
    """
    said = Answering() if answers is None else answers
    steps = getattr(pipeline, "steps", None) or [("", pipeline)]
    if len(steps) > 1 and not isinstance(steps[0][1], CNNDescriptors):
        for bag in images:
            if not isinstance(bag, Pause):
                yield _predicted_bag(pipeline, bag, on_error, names, said, similar, with_maps)
        return
    extractor = _extractor(pipeline, on_error, on_damage, store)
    for part in extract_stream(extractor, _all_frames(images)):
        yield from _predicted(pipeline, extractor, part, names, said, similar, with_maps)


def _predicted(
    pipeline: Pipeline,
    extractor: CNNDescriptors,
    part: Extracted,
    names: Pseudonyms | None,
    answers: Answers,
    similar: SimilarTo | None,
    with_maps: bool,
) -> Iterator[Predicted]:
    """Yield what is said about each image of a part."""
    steps = [step for _, step in pipeline.steps[1:]]
    said: list[dict[str, Any]] = []
    if part.used:
        vectors: Any = part.descriptors
        for step in steps[:-1]:
            vectors = step.transform(vectors)
        of_targets = predictions_of(steps[-1], vectors)
        if of_targets is None:
            decision = decision_columns(steps[-1].decision_function(vectors))
            said = answers(steps[-1], decision, vectors, part.descriptors)
        else:
            _refuse_for_targets(with_maps, similar)
            said = of_targets
        if similar is not None:
            paths = [str(part.images[i]) for i in part.used]
            for one, found in zip(said, similar.find(steps, vectors, paths, names), strict=True):
                one.update(found)
    place = {index: i for i, index in enumerate(part.used)}
    for index, given in enumerate(part.images):
        path = str(given)
        name = path if names is None else names.image(path)
        if index in part.skipped:
            reason = part.skipped[index]
            reason = reason if names is None else names.reason(reason, path)
            yield Predicted(given, skipped={"image": name, "reason": reason})
            continue
        i = place[index]
        prediction = {"image": name, **said[i]}
        if index in part.damaged:
            reason = part.damaged[index]
            prediction["damaged"] = reason if names is None else names.reason(reason, path, DAMAGED)
        own_map = None
        if with_maps:
            column = _column(steps[-1], prediction, decision[i])
            own_map = evidence_map(extractor, steps, part.descriptors[i : i + 1], column)
        yield Predicted(given, prediction, map=own_map)


def _refuse_for_targets(with_maps: bool, similar: SimilarTo | None) -> None:
    """Refuse what is for classes only."""
    if with_maps or similar is not None:
        raise InputError(
            "the model predicts labels or numbers, and evidence maps and similar cases are for classes: "
            "leave `explain` and `similar` out"
        )


def _predicted_bag(
    pipeline: Pipeline,
    bag: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    on_error: str,
    names: Pseudonyms | None,
    answers: Answers,
    similar: SimilarTo | None,
    with_tiles: bool,
) -> Predicted:
    """Return what is said about one bag of feature files. Its descriptors are in memory meanwhile."""
    files = [bag] if isinstance(bag, str | os.PathLike) else list(bag)
    paths = [str(path) for path in files]
    shown = paths if names is None else [names.image(path) for path in paths]
    steps = [step for _, step in pipeline.steps]
    try:
        opened = BagFiles([files])
        if (width := getattr(steps[0], "n_features_in_", None)) is not None:
            opened.check_width(width, TRAINING_FILES)
        descriptors = opened.load()
    except StorageFailure:
        raise
    except InputError as error:
        if on_error == "raise":
            raise
        reason = str(error)
        for path in paths if names is not None else []:
            reason = reason if names is None else names.reason(reason, path)
        return Predicted(paths[0], skipped={"image": shown[0], "reason": reason})
    vectors: Any = descriptors
    for step in steps[:-1]:
        vectors = step.transform(vectors)
    prediction = {"image": shown[0]} | ({"files": shown} if len(paths) > 1 else {})
    of_targets = predictions_of(steps[-1], vectors)
    if of_targets is not None:
        _refuse_for_targets(with_tiles, similar)
        return Predicted(paths[0], prediction | of_targets[0])
    decision = decision_columns(steps[-1].decision_function(vectors))
    prediction |= answers(steps[-1], decision, vectors, descriptors)[0]
    if similar is not None:
        prediction |= similar.find(steps, vectors, paths[:1], names)[0]
    if not with_tiles:
        return Predicted(paths[0], prediction)
    column = _column(steps[-1], prediction, decision[0])
    return Predicted(paths[0], prediction, tiles=bag_evidence(steps, opened, descriptors, column))


def _column(classifier: Any, prediction: Mapping[str, Any], decision: NDArray[np.float64]) -> int:
    """Return the class that evidence is shown for: the label, or the largest score if there is no label."""
    classes = [str(one) for one in classifier.classes_]
    label = prediction.get("label")
    return classes.index(label) if label in classes else int(decision.argmax())


def predict_images(
    pipeline: Pipeline,
    images: Iterable[str | os.PathLike[str] | Sequence[str | os.PathLike[str]]],
    *,
    on_error: OnError = "raise",
    on_damage: OnDamage = "warn",
    explain: Path | None = None,
    thumbnails: Path | None = None,
    names: Pseudonyms | None = None,
    store: str | None = None,
    answers: Answers | None = None,
    similar: SimilarTo | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Predict the classes of image files.

    Parameters
    ----------
    pipeline : sklearn.pipeline.Pipeline
        A fitted pipeline with CNNDescriptors as its first step, from
        :meth:`medvlad.experiment.Experiment.train` or :func:`medvlad.load_model`. Its parameters do not
        change.
    images : iterable of path
        Paths. If a file holds several images, all of them are predicted.
    on_error : {"raise", "skip"}, default="raise"
        What to do with an unreadable image. It replaces the pipeline's own `on_error` in this call.
    on_damage : {"warn", "raise", "skip"}, default="warn"
        The same for an image whose data is damaged although it can be decoded.
    explain : Path or None
        Existing folder for one picture of each image with the evidence for its label, see
        :mod:`medvlad.explain`. All pictures share one colour scale. Feature files also get a table (CSV) of
        tiles. None: no pictures.
    thumbnails : Path or None
        Folder of pictures of whole slides, named like the feature files and drawn below their tiles. None:
        tiles on white.
    names : Pseudonyms or None
        Names of images and pictures in the result. None: paths.
    store, answers, similar
        See :func:`iter_predictions`.

    Returns
    -------
    predictions : list of dict
        image, label and scores (class name to decision value; the largest wins). A damaged image also has
        damaged, the reason. With `explain` also evidence, the file name of the picture. With `similar` also
        similar and, if training images are of the same patient, same_patient.
    skipped : list of dict
        image and reason.

    Raises
    ------
    InputError
        If the pipeline has no CNNDescriptors, if an image cannot be read and `on_error` is "raise", or if one
        is damaged and `on_damage` is "raise".
    """
    found = list(
        iter_predictions(
            pipeline,
            images,
            on_error=on_error,
            on_damage=on_damage,
            names=names,
            store=store,
            answers=answers,
            similar=similar,
            with_maps=explain is not None,
        )
    )
    if explain is not None:
        _write_pictures(found, explain, names)
        _write_tiles(found, explain, thumbnails, names)
    predictions = [one.prediction for one in found if one.prediction is not None]
    return predictions, [one.skipped for one in found if one.skipped is not None]


def _write_pictures(found: Sequence[Predicted], folder: Path, names: Pseudonyms | None) -> None:
    """Write a picture of the evidence for each label, and add its name to the prediction."""
    paths = [one.path for one in found]
    largest = largest_evidence([one.map for one in found if one.map is not None])
    for i, one in enumerate(found):
        if one.prediction is not None and one.map is not None:
            name = _picture_name(i, paths, names)
            write_file(folder / name, png(evidence_picture(one.path, one.map, largest)), "picture")
            one.prediction["evidence"] = name


def _write_tiles(
    found: Sequence[Predicted], folder: Path, thumbnails: Path | None, names: Pseudonyms | None
) -> None:
    """Write a picture and a table of the tiles of each bag, and add their names to the prediction."""
    paths = [one.path for one in found]
    largest = max((one.tiles.largest for one in found if one.tiles is not None), default=0.0)
    for i, one in enumerate(found):
        if one.prediction is None or one.tiles is None:
            continue
        name = _picture_name(i, paths, names)
        table = f"{name.removesuffix('.png')}.csv"
        slides = [file.path for file in one.tiles.files]
        below = None if thumbnails is None else [find_thumbnail(thumbnails, slide) for slide in slides]
        write_file(folder / name, png(tile_picture(one.tiles, largest, thumbnails=below)), "picture")
        shown = [str(slide) if names is None else names.image(str(slide)) for slide in slides]
        write_file(folder / table, tile_table(one.tiles, shown), "table of tiles")
        one.prediction["evidence"], one.prediction["evidence_table"] = name, table
        one.prediction["evidence_constant"] = one.tiles.constant


def _extractor(pipeline: Pipeline, on_error: str, on_damage: str, store: str | None) -> CNNDescriptors:
    """Return a CNNDescriptors with these parameters that shares the network of the pipeline's first step."""
    steps = getattr(pipeline, "steps", None) or [("", pipeline)]
    own = steps[0][1]
    if not isinstance(own, CNNDescriptors) or len(steps) < 2:
        raise InputError(
            "predict_images reads files, so it needs a fitted pipeline whose first step is CNNDescriptors, "
            f"got {type(own).__name__}: put the extractor first, or use pipeline.predict"
        )
    changed: dict[str, Any] = {} if store is None else {"store": store, "output": "host"}
    return own.build().with_parameters(on_error=on_error, on_damage=on_damage, **changed)


def _all_frames(images: Iterable[Any]) -> Iterator[str | ObjectPath | Pause]:
    """Yield the paths of all images in the files. The path of a file with one image stays as given."""
    for image in images:
        if image is PAUSE:
            yield PAUSE
            continue
        try:
            path = location(image, "the image")
        except InputError:  # a wrong URL: reading it reports the error
            yield without_secrets(str(image))
            continue
        if isinstance(path, ObjectPath) and is_picture_name(path.name):  # one request less
            yield path
            continue
        try:
            frames = list_frames(path)
        except StorageFailure:  # how many images it holds decides their names
            yield PAUSE  # those before it are answered
            raise
        except InputError:  # reading it reports the error
            frames = [path]
        if frames == [path]:
            yield path if isinstance(path, ObjectPath) else str(image)
        else:
            yield from map(plain, frames)


def _picture_name(index: int, paths: Sequence[str | ObjectPath], names: Pseudonyms | None) -> str:
    """Return the file name of a picture: the pseudonym, or the index and the name of the image."""
    if names is not None:
        return f"{names.image(paths[index])}.png"
    width = len(str(len(paths) - 1))
    return f"{index:0{width}d}_{Path(paths[index]).stem[:80]}.png"
