"""Predict the classes of image files with a trained pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from glob import escape
from pathlib import Path
from typing import Any

from sklearn.pipeline import Pipeline

from medvlad._util.atomic_file import write_file
from medvlad._util.validate import InputError
from medvlad.bags.bag_files import BagFiles
from medvlad.datasets.pseudonyms import DAMAGED, Pseudonyms
from medvlad.descriptors.blocks import DescriptorBlocks
from medvlad.descriptors.ragged import Descriptors
from medvlad.explain.maps import evidence_map, evidence_picture, largest_evidence
from medvlad.explain.tiles import bag_evidence, tile_picture, tile_table
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.images.formats import is_image_name
from medvlad.images.frames import split_frame
from medvlad.images.read import list_frames
from medvlad.images.write import png
from medvlad.svm.decision import decision_columns

__all__ = ["check_images", "open_readable", "predict_bags", "predict_images"]


def check_images(images: Sequence[str]) -> None:
    """Raise InputError if an image is a folder or does not exist. No network is needed for this."""
    for image in images:
        file, _ = split_frame(image)
        if file.is_dir():
            raise InputError(f"{image} is a folder: give image files, such as {image}/*.png")
        if not file.exists():
            hint = ". Lists of files are not read: give the files themselves" if image[:1] == "@" else ""
            raise InputError(f"there is no image {image}: check the path{hint}")


def predict_images(
    pipeline: Pipeline,
    images: Sequence[str],
    *,
    on_error: str = "raise",
    on_damage: str = "warn",
    explain: Path | None = None,
    names: Pseudonyms | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Predict the classes of image files.

    Parameters
    ----------
    pipeline : sklearn.pipeline.Pipeline
        A fitted pipeline with CNNDescriptors as its first step, from
        :meth:`medvlad.experiment.Experiment.train` or :func:`medvlad.load_model`. Its parameters do not
        change.
    images : sequence of str
        Paths. If a file holds several images, all of them are predicted.
    on_error : {"raise", "skip"}, default="raise"
        What to do with an unreadable image. It replaces the pipeline's own `on_error` in this call.
    on_damage : {"warn", "raise", "skip"}, default="warn"
        The same for an image whose data is damaged although it can be decoded.
    explain : Path or None
        Existing folder for one picture of each image with the evidence for its label, see
        :mod:`medvlad.explain`. All pictures share one colour scale. None: no pictures.
    names : Pseudonyms or None
        Names of images and pictures in the result. None: paths.

    Returns
    -------
    predictions : list of dict
        image, label and scores (class name to decision value; the largest wins). A damaged image also has
        damaged, the reason. With `explain` also evidence, the file name of the picture.
    skipped : list of dict
        image and reason.

    Raises
    ------
    InputError
        If the pipeline has no CNNDescriptors, if an image cannot be read and `on_error` is "raise", or if one
        is damaged and `on_damage` is "raise".
    """
    extractor = _extractor(pipeline, on_error, on_damage)
    paths = _all_frames(images)
    descriptors, report = extractor.transform_with_report(paths)
    skipped, damaged = dict(report.skipped), dict(report.damaged)
    decision = decision_columns(pipeline[1:].decision_function(descriptors))
    classes = [str(name) for name in pipeline.classes_]
    predictions: list[dict[str, Any]] = []
    for i, path in enumerate(paths):
        if i in skipped:
            continue
        prediction = {
            "image": path if names is None else names.image(path),
            "label": classes[int(decision[i].argmax())],
            "scores": dict(zip(classes, map(float, decision[i]), strict=True)),
        }
        if i in damaged:
            prediction["damaged"] = damaged[i] if names is None else names.reason(damaged[i], path, DAMAGED)
        predictions.append(prediction)
    if explain is not None:
        seen = [i for i in range(len(paths)) if i not in skipped]
        file_names = [_picture_name(i, paths, names) for i in seen]
        steps = [step for _, step in pipeline.steps[1:]]
        maps = [
            evidence_map(extractor, steps, _in_memory(descriptors[i : i + 1]), int(decision[i].argmax()))
            for i in seen
        ]
        largest = largest_evidence(maps)
        for i, name, own_map, prediction in zip(seen, file_names, maps, predictions, strict=True):
            write_file(explain / name, png(evidence_picture(paths[i], own_map, largest)), "picture")
            prediction["evidence"] = name
    left_out = [(paths[i], reason) for i, reason in skipped.items()]
    if names is not None:
        left_out = [(names.image(path), names.reason(reason, path)) for path, reason in left_out]
    return predictions, [{"image": image, "reason": reason} for image, reason in left_out]


def open_readable(
    bags: Sequence[Any], *, on_error: str = "raise", names: Pseudonyms | None = None
) -> tuple[BagFiles, list[dict[str, str]]]:
    """Open feature files, and leave out bags that cannot be opened if `on_error` is "skip".

    Parameters
    ----------
    bags : sequence of path, or of sequences of paths
        See :class:`medvlad.bags.BagFiles`.
    on_error : {"raise", "skip"}, default="raise"
    names : Pseudonyms or None
        Names of skipped files in the result. None: paths.

    Returns
    -------
    bags : BagFiles
    skipped : list of dict
        image and reason.

    Raises
    ------
    InputError
        If a file cannot be opened and `on_error` is "raise", or if none can be opened.
    """
    if on_error == "raise":
        return BagFiles(bags), []
    kept, skipped = [], []
    for bag in bags:
        try:
            BagFiles([bag])
        except InputError as error:
            path, reason = str(bag if isinstance(bag, str | Path) else bag[0]), str(error)
            if names is not None:
                path, reason = names.image(path), names.reason(reason, path)
            skipped.append({"image": path, "reason": reason})
        else:
            kept.append(bag)
    if not kept:
        raise InputError(f"none of the {len(bags)} feature files could be read: {skipped[0]['reason']}")
    return BagFiles(kept), skipped


def predict_bags(
    pipeline: Pipeline,
    bags: BagFiles,
    *,
    explain: Path | None = None,
    thumbnails: Path | None = None,
    names: Pseudonyms | None = None,
) -> list[dict[str, Any]]:
    """Predict the classes of feature files.

    Parameters
    ----------
    pipeline : sklearn.pipeline.Pipeline
        A fitted pipeline without CNNDescriptors, such as :meth:`medvlad.experiment.Experiment.train` returns
        for feature files.
    bags : BagFiles
    explain : Path or None
        Existing folder for a picture and a table (CSV) of each bag with the evidence of its tiles, see
        :mod:`medvlad.explain.tiles`. All pictures share one colour scale. None: no evidence.
    thumbnails : Path or None
        Folder of pictures of the whole slides, named like the feature files. They are drawn below the
        tiles. None: tiles on white.
    names : Pseudonyms or None
        Names of files and pictures in the result. None: paths.

    Returns
    -------
    predictions : list of dict
        image (the first file), label and scores, as :func:`predict_images` returns them. A bag of several
        files also has files. With `explain` also evidence and evidence_table, file names, and
        evidence_constant, the part of the score that no tile contributes.

    Raises
    ------
    InputError
        If the pipeline reads images, or a file is damaged, has another width or no coordinates.
    """
    if isinstance(pipeline.steps[0][1], CNNDescriptors):
        raise InputError(
            f"the model was trained on images, and {bags.files(0)[0]} is a feature file: give images"
        )
    decision = decision_columns(pipeline.decision_function(bags))
    classes = [str(name) for name in pipeline.classes_]
    paths = [[str(file) for file in bags.files(i)] for i in range(len(bags))]
    shown = paths if names is None else [[names.image(path) for path in files] for files in paths]
    predictions: list[dict[str, Any]] = []
    for files, scores in zip(shown, decision, strict=True):
        several = {"files": files} if len(files) > 1 else {}
        label = classes[int(scores.argmax())]
        own = {
            "image": files[0],
            "label": label,
            "scores": dict(zip(classes, map(float, scores), strict=True)),
        }
        predictions.append(own | several)
    if explain is not None:
        steps = [step for _, step in pipeline.steps]
        own_evidence = [
            bag_evidence(steps, bags, i, int(scores.argmax())) for i, scores in enumerate(decision)
        ]
        largest = max(one.largest for one in own_evidence)
        for i, (one, prediction) in enumerate(zip(own_evidence, predictions, strict=True)):
            name = _picture_name(i, [files[0] for files in paths], names)
            below = None if thumbnails is None else [_thumbnail(thumbnails, file) for file in bags.files(i)]
            picture = tile_picture(one, largest, thumbnails=below)
            table = f"{name.removesuffix('.png')}.csv"
            write_file(explain / name, png(picture), "picture")
            write_file(explain / table, tile_table(one, shown[i]), "table of tiles")
            prediction |= {"evidence": name, "evidence_table": table, "evidence_constant": one.constant}
    return predictions


def _thumbnail(folder: Path, file: Path) -> Path:
    """Return the picture of a slide: a file of the same name with the ending of an image."""
    found = sorted(one for one in folder.glob(f"{escape(file.stem)}.*") if is_image_name(one.name))
    if not found:
        raise InputError(
            f"there is no thumbnail of {file.name} in {folder}: add {file.stem}.jpg or .png, or leave "
            "the thumbnails out"
        )
    return found[0]


def _extractor(pipeline: Pipeline, on_error: str, on_damage: str) -> CNNDescriptors:
    """Return a CNNDescriptors with these parameters that shares the network of the pipeline's first step."""
    steps = getattr(pipeline, "steps", None) or [("", pipeline)]
    own = steps[0][1]
    if not isinstance(own, CNNDescriptors) or len(steps) < 2:
        raise InputError(
            "predict_images reads files, so it needs a fitted pipeline whose first step is CNNDescriptors, "
            f"got {type(own).__name__}: put the extractor first, or use pipeline.predict"
        )
    return own.build().with_parameters(on_error=on_error, on_damage=on_damage)


def _in_memory(descriptors: Descriptors | DescriptorBlocks) -> Descriptors:
    return descriptors.load() if isinstance(descriptors, DescriptorBlocks) else descriptors


def _all_frames(images: Sequence[str]) -> list[str]:
    """Return the paths of all images in the files. The path of a file with one image stays as given."""
    paths: list[str] = []
    for image in images:
        frames = list_frames(image)
        paths += [str(image)] if frames == [Path(image)] else map(str, frames)
    return paths


def _picture_name(index: int, paths: Sequence[str], names: Pseudonyms | None) -> str:
    """Return the file name of a picture: the pseudonym, or the index and the name of the image."""
    if names is not None:
        return f"{names.image(paths[index])}.png"
    width = len(str(len(paths) - 1))
    return f"{index:0{width}d}_{Path(paths[index]).stem[:80]}.png"
