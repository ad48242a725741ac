"""The command `medvlad`: options in, one call into the library, a table or JSON out.

Exit status: 0 done, 1 done with images skipped, 2 an error, 70 a defect, 130 after Ctrl-C, 143 after SIGTERM,
129 after SIGHUP, 141 if the reader of the output of `predict` has ended. An error is one sentence on standard
error. It is a mistake of the user, a full disk, output that cannot be written, or too little memory.

One module for each command. They share `options` (declarations), `settings` (from options to the library),
`console` (messages), `spelling` (parameters as options) and `streams` (standard output and error).
"""

from __future__ import annotations

import os
import sys
import warnings

import click
import cloup

from medvlad._util.library_warnings import hear_every_file
from medvlad.cli import (
    audit,
    compare,
    demo,
    doctor,
    evaluate,
    export,
    external,
    extract,
    fetch,
    layers,
    manifest,
    paper,
    predict,
    show,
    similar,
    store,
    train,
)
from medvlad.cli.console import say, sentence_of, show_warning, start_log
from medvlad.cli.streams import finish_output, open_streams

__all__ = ["cli", "main"]

_SECTIONS = [
    cloup.Section("Begin here", [demo.demo, doctor.doctor]),
    cloup.Section("Your images", [audit.audit, evaluate.evaluate, compare.compare, manifest.manifest]),
    cloup.Section(
        "Models",
        [train.train, predict.predict, similar.similar, external.external, show.show, export.export],
    ),
    cloup.Section("Descriptors on disk", [extract.extract, store.store, layers.layers]),
    cloup.Section("Published data sets", [fetch.fetch, paper.paper]),
]


@cloup.group(
    sections=_SECTIONS,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "show_default": True,
        "formatter_settings": cloup.HelpFormatter.settings(col1_max_width=20),
    },
    no_args_is_help=True,
)
@cloup.version_option(package_name="medvlad")
@cloup.option("-v", "--verbose", is_flag=True, help="Log each step on standard error.")
def cli(verbose: bool) -> None:
    """Classify medical images with frozen CNN descriptors, VLAD and a linear SVM."""
    start_log(verbose)


def main() -> None:
    """Run the command line and exit."""
    # TensorFlow writes to standard error unless this is set before it is imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    open_streams()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            hear_every_file()
            status = cli.main(prog_name="medvlad", standalone_mode=False)
        finish_output()
    except click.Abort as error:  # click's word for a KeyboardInterrupt, which medvlad.__main__ reports
        raise (error.__cause__ or error) from None
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None:
            raise
        say(sentence)
        sys.exit(2)
    sys.exit(status or 0)
