"""Messages of the command: errors, warnings, the log, and the list of skipped images.

Each message is one line on standard error that begins with ``medvlad:``. With --log-json it is a line of JSON
with the fields time, level, logger and message.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from difflib import get_close_matches
from inspect import cleandoc
from typing import Any

import click
import cloup

from medvlad._util.library_warnings import LibraryWarnings, is_reading, log_warning
from medvlad._util.text_table import printable
from medvlad.cli.run_options import LOG_JSON, watched
from medvlad.cli.spelling import as_options
from medvlad.cli.streams import forget_terminal

__all__ = [
    "Command",
    "collected_warnings",
    "crash_text",
    "list_damaged",
    "list_skipped",
    "message_line",
    "say",
    "sentence_of",
    "show_warning",
    "start_log",
]

_parameters: list[click.Parameter] = []  # of the command that runs
_log_json: list[bool] = [False]  # whether the command that runs has --log-json


class Command(cloup.Command):
    """A command with examples in its help. In its messages, parameters are spelled as its options.

    Parameters
    ----------
    examples : sequence of str, default=()
        Command lines.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        if examples:  # click keeps the line breaks of a paragraph that begins with "\b"
            lines = "\n".join(f"  {line}" for line in examples)
            self.help = f"{cleandoc(self.help or '')}\n\n\b\nExamples:\n{lines}"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Remember the parameters, then read the arguments. Both words of a switch are refused."""
        _parameters[:] = self.params
        given = set(args[: args.index("--")] if "--" in args else args)
        # Now, so that mistakes in the other arguments are written as JSON too.
        _log_json[0] = LOG_JSON in given and any(LOG_JSON in one.opts for one in self.params)
        if _log_json[0]:
            forget_terminal()
        for one in self.params:
            yes, no = given.intersection(one.opts), given.intersection(one.secondary_opts)
            if yes and no:
                raise click.UsageError(f"{min(yes)} and {min(no)} contradict each other: leave one out")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Messages of pydicom are dropped, because they may name patients.

        A note of a KeyboardInterrupt says what the user can do. :mod:`medvlad.__main__` prints it.
        """
        from medvlad.images.dicom import quiet_pydicom

        quiet_pydicom()
        try:
            with watched(ctx):
                return super().invoke(ctx)
        except BrokenPipeError as error:  # click would end without a word and with status 1
            raise click.ClickException(str(sentence_of(error))) from error
        except KeyboardInterrupt as error:
            if store := ctx.params.get("store"):
                error.add_note(f"what was extracted is in {store}, and the same command continues")
            if _log_json[0]:  # click would print an empty line
                raise click.Abort from error
            raise


def say(message: object, level: str = "error") -> None:
    """Print one line on standard error."""
    click.echo(message_line(as_options(str(message), _parameters), level), err=True)


def message_line(message: str, level: str, logger: str = "medvlad", seconds: float | None = None) -> str:
    """Return a message as it is printed: after "medvlad:", or as JSON.

    Parameters
    ----------
    message : str
    level : {"info", "warning", "error", "critical"}
    logger : str, default="medvlad"
        Name of the logger. The command's own messages have the default.
    seconds : float or None, default=None
        Time of the message, in seconds since 1970. None: now.
    """
    if not _log_json[0]:
        return f"medvlad: {printable(message)}"
    time = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    fields = {"time": time.isoformat(timespec="milliseconds"), "level": level, "logger": logger}
    return json.dumps({**fields, "message": message})


def crash_text(error: BaseException) -> str | None:
    """Return the traceback of a defect of the program as a line of JSON. None without --log-json."""
    return message_line("".join(traceback.format_exception(error)), "critical") if _log_json[0] else None


def show_warning(message: Warning | str, *args: Any, **kwargs: Any) -> None:
    """Print a warning without the place in the code that raised it. The log names the file it is about."""
    if is_reading():
        log_warning(message)
    else:
        say(message, "warning")


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = as_options(super().format(record), _parameters)
        if _log_json[0]:
            return message_line(text, record.levelname.lower(), record.name, record.created)
        return f"medvlad: {text}" if record.exc_info else message_line(text, "")


def start_log(verbose: bool) -> None:
    """Print warnings of the library, and the progress of long work; with `verbose` also what it is doing."""
    _log_json[0] = False
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(message)s"))
    handler.addFilter(LibraryWarnings())
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])
    logging.getLogger("medvlad._util.progress").setLevel(logging.INFO)


def sentence_of(error: Exception) -> str | None:
    """Return what to tell the user about an error; None if the error is a defect of the program."""
    if isinstance(error, click.ClickException):
        return _usage_sentence(error)
    try:
        # Imported here: these modules import NumPy, which --help does not need.
        from medvlad._util.memory import OutOfMemory
        from medvlad._util.validate import InputError, MissingExtraError
    except (ImportError, OSError, MemoryError) as broken:
        return _library_sentence(broken)
    if isinstance(error, InputError | MissingExtraError | OutOfMemory):
        return str(error)
    if isinstance(error, OSError):
        file = f"{error.filename}: " if error.filename else ""
        return f"{file}{error.strerror or error}"
    if isinstance(error, MemoryError):
        return f"not enough memory ({error}): give fewer images or a smaller scale"
    if isinstance(error, ImportError) and not isinstance(error, ModuleNotFoundError):
        return _library_sentence(error)
    return None


def _library_sentence(error: Exception) -> str:
    """Return the sentence about a package of the core that is installed and cannot be loaded."""
    reason = " ".join(str(error.__cause__ or error).split())[:200] or type(error).__name__
    return (
        f"a library cannot be loaded ({reason}): allow the process more memory, see 'ulimit -v', or install "
        "medvlad again"
    )


def _usage_sentence(error: click.ClickException) -> str:
    """Return click's message. If a name is wrong or missing, add the closest name and a hint at --help."""
    if isinstance(error, click.NoSuchOption):
        sentence = f"{error.message}{_closest(error.option_name, error.possibilities)}"
    elif isinstance(error, click.exceptions.NoSuchCommand):
        sentence = f"{error.message}{_closest(error.command_name, error.possibilities)}"
    elif isinstance(error, click.MissingParameter):
        sentence = error.format_message()
    else:
        return error.format_message()
    return sentence if error.ctx is None else f"{sentence} See '{error.ctx.command_path} --help'."


def _closest(name: str, possibilities: Sequence[str] | None) -> str:
    close = get_close_matches(name, possibilities or (), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def collected_warnings() -> Iterator[list[logging.LogRecord]]:
    """Collect the warnings that the package logs. They are printed as well."""
    collector, package = _Collector(), logging.getLogger("medvlad")
    package.addHandler(collector)
    try:
        yield collector.records
    finally:
        package.removeHandler(collector)


def list_damaged(damaged: list[dict[str, str]]) -> None:
    """List damaged images that were used, on standard error."""
    _list("damaged", damaged)


def list_skipped(skipped: list[dict[str, str]]) -> int:
    """List skipped images on standard error, and return the exit status."""
    _list("skipped", skipped)
    return 1 if skipped else 0


def _list(what: str, images: list[dict[str, str]]) -> None:
    for item in images:
        # The reason of a copied image names the first copy.
        name = "" if item["image"] in item["reason"] else f"{item['image']}: "
        click.echo(message_line(f"{what}: {name}{item['reason']}", "warning"), err=True)
