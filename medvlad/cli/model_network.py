"""Check a model file before it is loaded, and start the libraries of its network."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["check_one_class", "check_weights_of", "start_if_needed"]


def check_one_class(model: Path, what: str) -> None:
    """Refuse a model of several labels or numbers, for options that need one class an image.

    Parameters
    ----------
    model : Path
        Model file.
    what : str
        What needs one class an image, such as "--explain" or "this command".
    """
    from medvlad.models.model_file import task_of_file

    task = task_of_file(model)
    if task != "classes":
        predicted = "labels" if task == "labels" else "numbers"
        raise click.UsageError(
            f"{what} is for models of one class an image, and {model} predicts {predicted}: "
            + ("leave it out" if what.startswith("-") else "give another model")
        )


def check_weights_of(model: Path, weights: str | None) -> None:
    """Check --weights for the kind of network that a model file names, without building it.

    Parameters
    ----------
    model : Path
        Model file.
    weights : str or None
        Value of --weights. None: nothing is checked.

    Raises
    ------
    InputError
        If the model file is not valid, or `weights` is no source of weights for its network.
    click.UsageError
        If the model has no network.
    """
    from medvlad.extraction.networks import check_network
    from medvlad.models.model_file import network_of_file

    if weights is None:
        return
    network = network_of_file(model, weights=weights)
    if network is None:
        raise click.UsageError(
            f"--weights is for the network of a model, and {model} was trained on descriptors: leave it out"
        )
    check_network(network.model, network.layer, network.weights)


def start_if_needed(model: Path) -> None:
    """Start Keras without its messages, if the network of a model needs it."""
    from medvlad.extraction.keras_startup import start_keras
    from medvlad.extraction.plain_network import needs_keras
    from medvlad.models.model_file import network_of_file

    network = network_of_file(model)  # None: the model takes feature files
    if network is not None and needs_keras(network):
        start_keras()
