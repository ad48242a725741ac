"""Parameters in messages, spelled as options of the running command.

The library writes ``folds=5`` and ``on_error='skip'``, as in Python. Somebody at a command line needs
``--folds 5`` and ``--on-error skip``. The names come from the command's own options. A parameter that is no
option of the command stays as it is.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Sequence
from typing import Any

import click

__all__ = ["as_options"]

#: Parameters of the library that the command line calls something else.
_OTHER_NAMES = {
    "scales": "scale",
    "n_threads": "threads",
    "n_workers": "workers",
    "random_state": "seed",
    "encoding": "encode",
    "encodings": "encode",
}
#: Parameters of the library that mean something else than the option of that name.
_NO_OPTION = {"output"}
#: Values of the library that the command line calls something else.
_OTHER_VALUES = {("on_error", "raise"): "stop", ("on_damage", "raise"): "stop", ("C", None): "cv"}

_VALUE = r"""
    \((?:[^()]|\([^()]*\))*\)          # (0, 1) or ((1, 1), (2, 2))
    | '[^']*' | "[^"]*"
    | -?\d+(?:\.\d+)?(?:e-?\d+)?
    | True | False | None
    | [A-Z]+                           # a placeholder, such as FILE
"""
#: name=value, with or without backquotes, and not inside a path or a longer expression.
_ASSIGNED = re.compile(
    rf"(?<![\w./=-])(?P<quote>`?)(?P<name>[A-Za-z_]\w*)=(?P<value>{_VALUE})(?P=quote)(?![\w/=(]|[.-]\w)",
    re.VERBOSE,
)
#: `name`, or a name at the beginning of "name must be ...".
_NAMED = re.compile(r"`(?P<quoted>[A-Za-z_]\w*)`|^(?P<first>[A-Za-z_]\w*)(?= must )")


def as_options(message: str, parameters: Sequence[click.Parameter]) -> str:
    """Spell the parameters in a message of the library as options.

    Parameters
    ----------
    message : str
        For example "folds=5 needs at least 5 patients: use folds=3".
    parameters : sequence of click.Parameter
        Parameters of the running command.

    Returns
    -------
    str
        For example "--folds 5 needs at least 5 patients: use --folds 3".
    """
    options = {one.name: one for one in parameters if isinstance(one, click.Option)}

    def option_of(name: str) -> click.Option | None:
        return None if name in _NO_OPTION else options.get(_OTHER_NAMES.get(name, name))

    def assigned(match: re.Match[str]) -> str:
        option = option_of(match["name"])
        return match[0] if option is None else _with_value(option, match["name"], match["value"])

    def named(match: re.Match[str]) -> str:
        option = option_of(match["quoted"] or match["first"])
        return match[0] if option is None else _spelled(option)

    return _NAMED.sub(named, _ASSIGNED.sub(assigned, message))


def _spelled(option: click.Option) -> str:
    return next((one for one in option.opts if one.startswith("--")), option.opts[0])


def _with_value(option: click.Option, name: str, text: str) -> str:
    """Return the option with the value that `text` stands for in Python."""
    spelled = _spelled(option)
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return f"{spelled} {text}"  # a placeholder such as FILE
    if option.is_flag and isinstance(value, bool):
        return spelled if value else next(iter(option.secondary_opts), f"no {spelled}")
    choices = option.type.choices if isinstance(option.type, click.Choice) else ()
    if (name, value) in _OTHER_VALUES:
        value = _OTHER_VALUES[name, value]
    elif value is None and "none" in choices:
        value = "none"
    elif value is None:
        return f"no {spelled}"
    return f"{spelled} {_joined(value)}"


def _joined(value: Any) -> str:
    """Return a value as a shell takes it: (0, 1) is 0,1, and ((1, 1), (2, 2)) is 1x1,2x2."""
    if not isinstance(value, tuple):
        return shlex.quote(str(value))
    return ",".join("x".join(map(str, one)) if isinstance(one, tuple) else str(one) for one in value)
