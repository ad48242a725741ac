"""Read a pickle that holds plain values, without Python's unpickler.

A pickle is a program for a stack machine, and Python's unpickler runs it: it imports and calls whatever the
file names. The machine here knows only the instructions for None, bool, int, float, str, list, tuple and
dict. Where a pickle names anything else, a table of the caller says what to build. What the table lacks is
refused by its name, so no code of the file runs.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from typing import IO, Any, Protocol, cast

__all__ = ["RefusedPickle", "read_plain_pickle"]

#: Nesting of lists, tuples and dicts. It keeps code that walks through the result away from Python's limit.
MAX_DEPTH = 64

Rebuild = Callable[..., Any]


class RefusedPickle(ValueError):
    """The pickle is damaged, or holds something else than plain values. The message says what."""


class Readable(Protocol):
    """What a pickle is read from."""

    def read(self, n: int, /) -> bytes:
        """Return up to `n` bytes."""

    def readline(self) -> bytes:
        """Return the bytes up to the next end of a line."""


class _Name:
    """A class or function that the pickle names."""

    def __init__(self, name: str, rebuild: Rebuild) -> None:
        self.name = name
        self.rebuild = rebuild


_MARK = object()

#: Instructions that put their argument on the stack.
_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_TEXTS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_TEXTS_OF_PYTHON_2 = ("STRING", "BINSTRING", "SHORT_BINSTRING")
_ARGUMENTS = frozenset({*_NUMBERS, *_TEXTS, *_TEXTS_OF_PYTHON_2})
_CONSTANTS: Mapping[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: Mapping[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_KEYS = (str, int, float, type(None))


def read_plain_pickle(
    file: Readable,
    max_values: int,
    names: Mapping[str, Rebuild] | None = None,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Read one pickle from a file, and nothing after its end.

    Parameters
    ----------
    file : object with read(n) and readline()
        Bytes, from the beginning of the pickle.
    max_values : int
        Largest number of values in the result. A value that the pickle refers to twice counts twice.
    names : dict of str to callable, or None, default=None
        What a call of the class or function "module.name" builds, from its arguments. None: no names.
    persistent : callable or None, default=None
        What a persistent id builds. None: such ids are refused.

    Returns
    -------
    object
        None, bool, int, float, str, list, tuple, dict, or what a callable has built.

    Raises
    ------
    RefusedPickle
    """
    machine = _Machine(names or {}, persistent)
    try:
        for opcode, argument, _ in pickletools.genops(cast(IO[bytes], file)):
            machine.step(opcode.name, argument)
        result = machine.stack.pop()
    except RefusedPickle:
        raise
    except (ValueError, LookupError, TypeError, EOFError, OverflowError) as error:
        raise RefusedPickle("the pickle is damaged") from error
    _check_size(result, max_values)
    return result


class _Machine:
    """Stack machine of pickles, protocols 0 to 5, for plain values only."""

    def __init__(self, names: Mapping[str, Rebuild], persistent: Callable[[Any], Any] | None) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.names = names
        self.persistent = persistent

    def step(self, code: str, argument: Any) -> None:
        """Carry out one instruction."""
        stack = self.stack
        if code in _ARGUMENTS:
            stack.append(argument)
        elif code in _CONSTANTS:
            stack.append(_CONSTANTS[code])
        elif code in _EMPTY:
            stack.append(_EMPTY[code]())
        elif code in _TUPLES:
            n = _TUPLES[code]
            stack[-n:] = [tuple(self._top(n))]
        elif code == "MARK":
            stack.append(_MARK)
        elif code == "TUPLE":
            stack.append(tuple(self._since_mark()))
        elif code == "LIST":
            stack.append(self._since_mark())
        elif code == "DICT":
            stack.append(_filled({}, self._since_mark()))
        elif code in ("APPEND", "APPENDS"):
            items = self._since_mark() if code == "APPENDS" else [stack.pop()]
            _expect(stack[-1], list).extend(items)
        elif code in ("SETITEM", "SETITEMS"):
            items = self._since_mark() if code == "SETITEMS" else [*self._top(2)]
            if code == "SETITEM":
                del stack[-2:]
            _filled(_expect(stack[-1], dict), items)
        elif code in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if code == "MEMOIZE" else int(argument)] = self._top(1)[0]
        elif code in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[int(argument)])
        elif code == "POP":
            stack.pop()
        elif code in ("GLOBAL", "STACK_GLOBAL"):
            self._name(*(argument.split(" ", 1) if code == "GLOBAL" else (stack.pop(-2), stack.pop())))
        elif code in ("PERSID", "BINPERSID"):
            self._persistent(argument if code == "PERSID" else stack.pop())
        elif code == "REDUCE":
            arguments = _expect(stack.pop(), tuple)
            stack[-1] = _expect(stack[-1], _Name).rebuild(*arguments)
        elif code == "BUILD":
            # The state of an OrderedDict holds notes, such as the versions of modules.
            _expect(stack.pop(), dict)
            _expect(stack[-1], dict)
        elif code not in ("PROTO", "FRAME", "STOP"):
            what = f"{code} {argument}" if code == "INST" else code
            raise RefusedPickle(f"it holds an object of another type (instruction {what[:100]})")

    def _top(self, n: int) -> list[Any]:
        values = self.stack[-n:]
        if len(values) < n or any(value is _MARK for value in values):
            raise RefusedPickle("the pickle is damaged")
        return values

    def _since_mark(self) -> list[Any]:
        stack, i = self.stack, len(self.stack) - 1
        while stack[i] is not _MARK:  # an IndexError says that the pickle is damaged
            i -= 1
        values = stack[i + 1 :]
        del stack[i:]
        return values

    def _name(self, module: Any, name: Any) -> None:
        full = f"{_expect(module, str)}.{_expect(name, str)}"
        if full not in self.names:
            raise RefusedPickle(f"it holds {full[:100]!r}")
        self.stack.append(_Name(full, self.names[full]))

    def _persistent(self, value: Any) -> None:
        if self.persistent is None:
            raise RefusedPickle("it refers to data outside the file")
        self.stack.append(self.persistent(value))


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise RefusedPickle("the pickle is damaged")
    return value


def _filled(target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    """Fill a dict with keys and values that alternate. Keys are scalars: nested tuples can take for ever."""
    keys = items[::2]
    if len(items) % 2 or any(not isinstance(key, _KEYS) for key in keys):
        raise RefusedPickle("a dict has a key that is neither a string nor a number")
    target.update(zip(keys, items[1::2], strict=True))
    return target


def _check_size(result: Any, max_values: int) -> None:
    """Refuse values inside themselves, deep nesting, and short files that unfold to many values."""
    known: dict[int, tuple[int, int]] = {}  # depth and number of values of lists, tuples and dicts

    def measure(value: Any, outside: int) -> tuple[int, int]:
        if isinstance(value, _Name):
            raise RefusedPickle(f"it holds {value.name!r} itself")
        if value is _MARK:
            raise RefusedPickle("the pickle is damaged")
        if not isinstance(value, list | tuple | dict):
            return 0, 1
        depth, total = known.get(id(value), (0, 0))
        if not total:
            depth, total = 1, 1
            items = value.values() if isinstance(value, dict) else value
            for item in items if outside < MAX_DEPTH else ():
                inner, count = measure(item, outside + 1)
                depth, total = max(depth, inner + 1), total + count
        if outside + depth > MAX_DEPTH or total > max_values:
            raise RefusedPickle(f"its lists are nested more than {MAX_DEPTH} deep or repeat each other")
        known[id(value)] = depth, total
        return depth, total

    measure(result, 0)
