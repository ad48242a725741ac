"""The command `medvlad`: options in, one call into the library, a table or JSON out.

Exit status: 0 done, 1 done with images skipped, 2 an error, 130 after Ctrl-C. An error is a mistake of the
user, a full disk, output that cannot be written, or too little memory: one sentence on standard error.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from typing import Any

import click

from medvlad._util.memory import OutOfMemory
from medvlad._util.validate import InputError, MissingExtraError
from medvlad.cli.audit import audit
from medvlad.cli.compare import compare
from medvlad.cli.evaluate import demo, evaluate, predict, train
from medvlad.cli.export import export, show
from medvlad.cli.fetch import fetch
from medvlad.cli.paper import paper
from medvlad.cli.store import extract, store
from medvlad.cli.streams import finish_output, open_streams
from medvlad.images.dicom import quiet_pydicom

__all__ = ["cli", "main"]


def main() -> None:
    """Run the command line and exit."""
    # TensorFlow announces itself on standard error unless told not to before it is imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    open_streams()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            quiet_pydicom()
            status = cli.main(prog_name="medvlad", standalone_mode=False)
        finish_output()
    except click.Abort:
        click.echo("medvlad: interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (InputError, MissingExtraError, OutOfMemory) as error:
        message = str(error)
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        message = f"{what}{error.strerror or error}"
    except MemoryError as error:
        message = f"not enough memory ({error}): give fewer images or a smaller scale"
    else:
        sys.exit(status or 0)
    click.echo(f"medvlad: {message}", err=True)
    sys.exit(2)


def _show_warning(message: Warning | str, *args: Any, **kwargs: Any) -> None:
    """Print a warning as one line, without the place in the code that raised it."""
    click.echo(f"medvlad: {message}", err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="medvlad")
@click.option("-v", "--verbose", is_flag=True, help="Log what is being done.")
def cli(verbose: bool) -> None:
    """Classify medical images with frozen CNN descriptors, VLAD and a linear SVM."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="medvlad: %(message)s")


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Say what is installed, what can run here, and what is missing."""
    from medvlad.cli.doctor import diagnose

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


for _command in (evaluate, compare, train, predict, paper, audit, fetch, extract, store, show, export, demo):
    cli.add_command(_command)
