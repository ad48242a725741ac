"""Parts of a model card that depend on the kind of model: its input, its predictions, its last step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medvlad._util.network_name import without_folders

__all__ = ["how_to_use", "hub_task", "introduction", "is_of_classes", "is_of_images", "limitations", "units"]

#: Last steps that are not a linear SVM for classes, in words.
_HEADS = {
    "LogisticRegression": "a logistic regression",
    "MultiLabelSVC": "a linear SVM for each label",
    "WideRidge": "a ridge regression",
}


def is_of_images(header: Mapping[str, Any]) -> bool:
    """Return whether a model reads images. Otherwise it reads descriptors."""
    return header["features"] is not None


def is_of_classes(header: Mapping[str, Any]) -> bool:
    """Return whether a model predicts one class, and not several labels or numbers."""
    return header["steps"][-1]["class"] not in {"MultiLabelSVC", "WideRidge"}


def units(header: Mapping[str, Any]) -> str:
    """Return what a model predicts for, in the plural."""
    return "images" if is_of_images(header) else "bags of descriptors"


def hub_task(header: Mapping[str, Any]) -> str | None:
    """Return the task of the Hub. It has none for bags of descriptors, and none for numbers of images."""
    of_numbers = header["steps"][-1]["class"] == "WideRidge"
    return "image-classification" if is_of_images(header) and not of_numbers else None


def introduction(header: Mapping[str, Any], trained: str) -> str:
    """Return the first paragraph: what the model predicts, and how it was made.

    Parameters
    ----------
    header : mapping
        What :func:`medvlad.models.model_file.model_card` returned.
    trained : str
        What it was trained on.
    """
    last, names = header["steps"][-1]["class"], ", ".join(map(str, header["classes"]))
    if last == "WideRidge":
        what = f"A model that predicts numbers from {units(header)}: {names}."
    elif last == "MultiLabelSVC":
        kind = "An image classifier" if is_of_images(header) else f"A classifier of {units(header)}"
        what = f"{kind} for several labels at once: {names}."
    else:
        kind = "An image classifier" if is_of_images(header) else f"A classifier of {units(header)}"
        what = f"{kind} for the classes {names}."
    network = without_folders(header["features"]) if header["features"] else None
    first = f"descriptors of {network['model']} (layer {network['layer']}, frozen), " if network else ""
    return (
        f"{what} It was trained on {trained} with medvlad: {first}an encoding, "
        f"{_HEADS.get(last, 'a linear SVM')}."
    )


def how_to_use(header: Mapping[str, Any], name: str) -> list[str]:
    """Return the lines about the use of the model file `name`."""
    of_images = is_of_images(header)
    imports = ["import medvlad as mv"] + ([] if of_images else ["from medvlad.bags import open_bags"])
    given = '["image.png"]' if of_images else 'open_bags(["features.h5"])'
    return [
        "```",
        f"pip install 'medvlad[{'tensorflow' if of_images else 'bags'}]'",
        f"medvlad predict {name} {'IMAGE' if of_images else 'FEATURE_FILE'}",
        "```",
        "",
        "```python",
        *imports,
        "",
        f'model = mv.load_model("{name}")',
        f"print(model.predict({given}))",
        "```",
        "",
        "The file is in the safetensors format: numbers and text. Opening it runs no code. "
        + (
            "It does not hold the network's weights; medvlad checks that they are those of the training."
            if of_images
            else "Feature files must come from the network of the training. [Which network and layer?]"
        ),
    ]


def limitations(header: Mapping[str, Any], name: str) -> str:
    """Return the lines about limitations. Only models of one class have a command for external data."""
    own = f"Test the model on your own {units(header)} before use"
    own += f": `medvlad external {name} FOLDER`" if is_of_classes(header) else ""
    return f"Metrics hold for {units(header)} like those of the test. {own}. [What else is known?]"
