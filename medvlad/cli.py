"""The command `medvlad`: options in, one call into the library, a table or JSON out.

Exit status: 0 done, 1 done with images skipped, 2 the user's mistake, in one sentence on standard error.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from medvlad._validate import InputError, MissingExtraError, check_output_file

if TYPE_CHECKING:
    from medvlad.experiment import Experiment

__all__ = ["main"]

logger = logging.getLogger(__name__)

Command = TypeVar("Command", bound=Callable[..., Any])

_PATH = click.Path(path_type=Path)


def main() -> None:
    """Run the command line and exit."""
    # TensorFlow announces itself on standard error unless told not to before it is imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            # What pydicom finds odd in a header it repeats, identifiers included.
            warnings.filterwarnings("ignore", module=r"pydicom\b")
            status = cli.main(prog_name="medvlad", standalone_mode=False)
    except click.Abort:
        click.echo("medvlad: interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (InputError, MissingExtraError) as error:
        click.echo(f"medvlad: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        click.echo(f"medvlad: {what}", err=True)
        sys.exit(2)
    except MemoryError as error:
        click.echo(f"medvlad: not enough memory ({error}): give fewer images or a smaller scale", err=True)
        sys.exit(2)
    sys.exit(status or 0)


def _show_warning(message: Warning | str, *args: Any, **kwargs: Any) -> None:
    """Print a warning as one line, without the place in the code that raised it."""
    click.echo(f"medvlad: {message}", err=True)


def _numbers(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"{option} takes whole numbers separated by commas, such as 0 or 0,1, got {text!r}"
        ) from None


def _network_options(command: Command) -> Command:
    """Add the options that say how an image becomes descriptors."""
    options = [
        click.option("--model", default="vgg19", show_default=True, help="Any keras.applications network."),
        click.option("--layer", default="block5_pool", show_default=True, help="Where the network is cut."),
        click.option(
            "--weights",
            default="imagenet",
            show_default=True,
            help="imagenet (download), bundled (VGG16, extra 'offline'), or a file: .h5, .keras, .npz.",
        ),
        click.option(
            "--scale",
            default="0",
            show_default=True,
            help="Scale s is an input of 224 + 320 s pixels; 0,1 pools the descriptors of both.",
        ),
        click.option("--resize", default="bilinear", show_default=True, help="Pillow's resize filter."),
        click.option(
            "--batch-size", type=int, help="Images a batch [default: as many as fit a fixed memory]."
        ),
        click.option(
            "--dtype",
            default="float32",
            show_default=True,
            help="Of the network's arithmetic: float32, bfloat16 or int8 (extra 'openvino').",
        ),
        click.option(
            "--engine",
            default="auto",
            show_default=True,
            help="What runs the network: keras, native, openvino, or auto, the fastest here.",
        ),
        click.option("--threads", type=int, help="Threads of this machine [default: all processors]."),
        click.option("--store", help="Folder where descriptors are kept, and found again."),
    ]
    return _add(command, options)


def _learning_options(command: Command) -> Command:
    """Add the options that say how descriptors become a decision."""
    options = [
        click.option(
            "--C", "C", type=float, default=1.0, show_default=True, help="Penalty of the linear SVM."
        ),
        click.option(
            "--class-weight", type=click.Choice(["none", "balanced"]), default="none", show_default=True
        ),
        click.option(
            "--power", type=float, default=1.0, show_default=True, help="VLAD: signed power; 0.5 is usual."
        ),
        click.option("--intra-norm", is_flag=True, help="VLAD: unit length for each cell."),
        click.option(
            "--seed", type=int, default=0, show_default=True, help="Seed of k-means and of every split."
        ),
        click.option("--backend", default="auto", show_default=True, help="See 'medvlad doctor'."),
        click.option(
            "--layout",
            default="folder",
            show_default=True,
            help="folder (DIR/[train|test/]CLASS/*), mit-indoor, mini-mit, chest-xray or kvasir-v2.",
        ),
    ]
    return _add(command, options)


def _on_error_option(command: Command) -> Command:
    return _add(
        command,
        [
            click.option(
                "--on-error",
                type=click.Choice(["stop", "skip"]),
                default="stop",
                show_default=True,
                help="What an unreadable image does: end the run, or be left out and listed.",
            )
        ],
    )


def _add(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="medvlad")
@click.option("-v", "--verbose", is_flag=True, help="Log what is being done.")
def cli(verbose: bool) -> None:
    """Classify medical images with frozen CNN descriptors, VLAD and a linear SVM."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="medvlad: %(message)s")


@cli.command()
@click.argument("directory", metavar="DIR", type=_PATH)
@_network_options
@_learning_options
@click.option(
    "--encode", "encode", default="avg,vlad64", show_default=True, help="avg, max, gem, vlad64, vlad256, ..."
)
@click.option(
    "--folds", type=int, default=5, show_default=True, help="Cross-validation where DIR has no test part."
)
@click.option("--positive", help="With two classes: the one to detect [default: the last].")
@click.option(
    "--adapt-threshold",
    is_flag=True,
    help="With two classes: decide besides by a threshold found in the test images, without their labels.",
)
@_on_error_option
@click.option("--out", type=_PATH, help="Folder for results.json.")
def evaluate(directory: Path, encode: str, out: Path | None, **options: Any) -> int:
    """Measure how well images in DIR are classified, on images not trained on."""
    from medvlad.experiment import Experiment

    experiment = Experiment(**_settings(options))
    return _evaluate(experiment, directory, encode.split(","), out)


@cli.command()
@click.argument("directory", metavar="DIR", type=_PATH)
@_network_options
@_learning_options
@click.option(
    "--encode", "encode", default="vlad64", show_default=True, help="One of avg, max, gem, vlad64, ..."
)
@_on_error_option
@click.option("-o", "--output", type=_PATH, required=True, help="The model file to write.")
def train(directory: Path, encode: str, output: Path, **options: Any) -> int:
    """Fit a classifier on the images of DIR (its train part, if it has one) and save it."""
    from medvlad.experiment import Experiment
    from medvlad.model_file import save_model

    check_output_file(output, "model")
    experiment = Experiment(**_settings(options))
    dataset = experiment.load(directory)
    _start_keras()
    pipeline, skipped, n_images = experiment.train(dataset, encode)
    save_model(pipeline, output)
    click.echo(f"trained on {n_images} images; wrote {output}")
    return _list_skipped(skipped)


@cli.command()
@click.argument("model", type=_PATH)
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option("--weights", help="Where the network's weights are on this machine.")
@_on_error_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--explain", type=_PATH, metavar="OUT", help="Folder for pictures of where the evidence for a label is."
)
def predict(
    model: Path,
    images: tuple[str, ...],
    weights: str | None,
    on_error: str,
    as_json: bool,
    explain: Path | None,
) -> int:
    """Classify each IMAGE with a model that `medvlad train` wrote."""
    from medvlad.experiment import predict_images
    from medvlad.model_file import check_readable, load_model

    check_readable(model)
    _start_keras()
    pipeline = load_model(model, weights=weights)
    if explain is not None:
        explain.mkdir(parents=True, exist_ok=True)
    predictions, skipped = predict_images(pipeline, images, on_error=_on_error(on_error), explain=explain)
    if as_json:
        click.echo(json.dumps({"predictions": predictions, "skipped": skipped}, indent=2))
    else:
        width = max((len(p["image"]) for p in predictions), default=0)
        for p in predictions:
            values = "  ".join(f"{name} {value:+.3f}" for name, value in p["scores"].items())
            click.echo(f"{p['image']:<{width}}  {p['label']}  ({values})")
    if explain is not None and not as_json:
        power = getattr(pipeline.named_steps["encode"], "power", 1.0)
        how = "exactly" if power == 1 else f"to first order, as a signed power of {power:g} cannot be split"
        click.echo(f"Evidence, split over the image {how}: {len(predictions)} pictures in {explain}")
    return _list_skipped(skipped)


@cli.command()
@click.argument("directory", metavar="DIR", type=_PATH)
@_network_options
@_on_error_option
@click.option("--scheduler", help="Address of a Dask scheduler whose workers extract (extra 'distributed').")
@click.option(
    "--workers", type=int, help="Extract in so many processes of this machine (extra 'distributed')."
)
def extract(
    directory: Path,
    scale: str,
    store: str | None,
    on_error: str,
    scheduler: str | None,
    workers: int | None,
    threads: int | None,
    **options: Any,
) -> int:
    """Put the descriptors of all images in DIR into a store; stopped, it goes on from there next time."""
    from medvlad.datasets import list_images
    from medvlad.features import CNNDescriptors
    from medvlad.store import DescriptorStore

    if store is None:
        raise InputError("extract needs --store FOLDER, where descriptors are kept")
    DescriptorStore(store)  # says what is wrong with the folder before the long work
    paths = list_images(directory)
    _start_keras()
    features = CNNDescriptors(
        **options,
        scales=_numbers(scale, "--scale"),
        n_threads=threads,
        store=store,
        on_error=_on_error(on_error),
    )
    try:
        features.fit(_calibration_images(directory, paths) if features.dtype == "int8" else None)
        if scheduler is None and workers is None:
            n_new = features.extract(paths)
        else:
            from medvlad.distributed import extract_distributed

            n_new = extract_distributed(features, paths, scheduler=scheduler, n_workers=workers)
    except KeyboardInterrupt:
        click.echo(
            f"medvlad: interrupted; what was extracted is in {store}, the same command goes on", err=True
        )
        return 130
    click.echo(f"{len(paths)} images, {n_new} of them extracted now; store: {store}")
    return _list_skipped([{"image": paths[i], "reason": reason} for i, reason in features.skipped_])


def _calibration_images(directory: Path, paths: list[str]) -> list[Path]:
    """Return those that `evaluate` would take, so that it finds what is extracted; all without classes."""
    from medvlad.datasets import load_image_folder
    from medvlad.experiment import calibration_images

    try:
        return calibration_images(load_image_folder(directory))
    except InputError as error:
        logger.info("int8 is calibrated on all images: %s", error)
        return [Path(path) for path in sorted(paths)]


@cli.group()
def store() -> None:
    """Look after a folder of descriptors."""


@store.command("ls")
@click.argument("folder", metavar="STORE", type=_PATH)
def store_ls(folder: Path) -> None:
    """List what a store holds: images, size and settings of each section."""
    for section in _sections(folder):
        settings = ", ".join(f"{name} {value}" for name, value in sorted(section.settings.items()))
        click.echo(f"{len(section)} images, {section.n_bytes() / 1e6:.1f} MB: {settings}")


@store.command("verify")
@click.argument("folder", metavar="STORE", type=_PATH)
def store_verify(folder: Path) -> int:
    """Read everything in a store and say what is damaged; exit status 2 if anything is."""
    n_images, damage = 0, []
    for section in _sections(folder):
        n_images += len(section)
        damage += section.verify()
    for sentence in damage:
        click.echo(f"medvlad: {sentence}", err=True)
    state = f"{len(damage)} damaged; 'medvlad store gc' removes them" if damage else "nothing is damaged"
    click.echo(f"{n_images} images, {state}")
    return 2 if damage else 0


@store.command("gc")
@click.argument("folder", metavar="STORE", type=_PATH)
def store_gc(folder: Path) -> None:
    """Remove from a store what is damaged, double, or was left by a process that was killed."""
    freed = sum(section.gc() for section in _sections(folder))
    click.echo(f"freed {freed / 1e6:.1f} MB")


def _sections(folder: Path) -> list[Any]:
    from medvlad.store import DescriptorStore

    if not (folder / "format.json").is_file():
        raise InputError(f"{folder} is no descriptor store: name the folder that --store was given")
    return list(DescriptorStore(folder).sections())


@cli.command()
@click.option(
    "--out",
    type=_PATH,
    default=Path("medvlad-demo"),
    show_default=True,
    help="Folder for images and results.",
)
def demo(out: Path) -> int:
    """Run the whole way on images that need no download: descriptors, pooling and VLAD, SVM, accuracy."""
    from medvlad.demo import write_demo_images
    from medvlad.experiment import Experiment

    images = write_demo_images(out / "images")
    click.echo(f"Images: patches of scikit-image's photographs, in {images}. Weights: VGG16, bundled.")
    experiment = Experiment(model="vgg16", weights="bundled")
    return _evaluate(experiment, images, ["avg", "vlad16", "vlad64"], out)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Say what is installed, what can run here, and what is missing."""
    from medvlad.doctor import diagnose

    found = diagnose()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for title, value in found.items():
        if isinstance(value, dict):
            click.echo(f"{title}:")
            for name, text in value.items():
                click.echo(f"  {name:<14} {text}")
        else:
            click.echo(f"{title}: {value}")


def _settings(options: dict[str, Any]) -> dict[str, Any]:
    """Turn command-line texts into the library's values."""
    options["scales"] = _numbers(options.pop("scale"), "--scale")
    options["class_weight"] = None if options["class_weight"] == "none" else options["class_weight"]
    options["on_error"] = _on_error(options["on_error"])
    options["n_threads"] = options.pop("threads")
    return options


def _on_error(choice: str) -> str:
    return "raise" if choice == "stop" else choice


def _start_keras() -> None:
    """Import Keras and wake its backend, keeping what TensorFlow's C++ side announces off standard error.

    TensorFlow prints it past Python and past TF_CPP_MIN_LOG_LEVEL, on file descriptor 2 itself.
    """
    from medvlad.network import import_keras

    sys.stderr.flush()
    with tempfile.TemporaryFile("w+") as announcements:
        saved = os.dup(2)
        os.dup2(announcements.fileno(), 2)
        try:
            keras = import_keras()
            keras.ops.convert_to_numpy(keras.ops.zeros(1))
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            announcements.seek(0)
            logger.debug("while Keras started: %s", announcements.read().strip())


def _evaluate(experiment: Experiment, directory: Path, encodings: list[str], out: Path | None) -> int:
    from medvlad.evaluation import score_table

    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        check_output_file(out / "results.json", "results")
    dataset = experiment.load(directory)
    _start_keras()
    report = experiment.evaluate(dataset, encodings)
    report["dataset"]["root"] = str(directory)
    click.echo(score_table(report["results"]))
    first = report["results"][0]
    n_train, n_test = first["n_train"], first["n_test"]
    click.echo(
        f"{n_train} training and {n_test} test images ({first['protocol']}); fitted on training images only."
    )
    for found in report["results"]:
        if "adapted" in found:
            click.echo(_adapted(found))
    for pair in report["comparisons"]:
        low, high = pair["difference_ci95"]["accuracy"]
        click.echo(
            f"{pair['second']} against {pair['first']}: accuracy {low:+.3f} to {high:+.3f} (95 %), "
            f"McNemar's p {pair['mcnemar_p']:.2g}"
        )
    if report["dataset"]["n_groups"] is None:
        click.echo("No patients are known: every image counts as one of its own.")
    if out is not None:
        path = out / "results.json"
        path.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        click.echo(f"Everything, with settings, versions and seconds a stage: {path}")
    return _list_skipped(report["skipped"])


def _adapted(found: dict[str, Any]) -> str:
    """One line on the threshold found without labels."""
    adapted = found["adapted"]
    if adapted["threshold"] is None:
        return f"{found['encode']}: no threshold in the unlabelled test images, their scores are one hump"
    low, high = adapted["accuracy_ci95"]
    return (
        f"{found['encode']} with the threshold {adapted['threshold']:.2f} of the unlabelled test images: "
        f"accuracy {adapted['accuracy']:.3f} ({low:.3f} to {high:.3f}), "
        f"balanced {adapted['balanced_accuracy']:.3f}, sensitivity {adapted['sensitivity']:.3f}, "
        f"specificity {adapted['specificity']:.3f}"
    )


def _list_skipped(skipped: list[dict[str, str]]) -> int:
    """List skipped images on standard error; the exit status."""
    for item in skipped:
        click.echo(f"medvlad: skipped: {item['reason']}", err=True)
    return 1 if skipped else 0
