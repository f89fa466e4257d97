"""A pickle read without Python's unpickler: nothing is imported, looked up or called.

Pickle is a stack machine whose instructions may call any function. Here the instructions come from
`pickletools.genops`, and the few that build plain values are carried out on a list. A global stays a name; applying it
asks a table that the caller gives, and what the table does not know is an error that names it.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import IO, NamedTuple

INSTRUCTIONS = 2_000_000
"""Instructions of one pickle. A file of tensors has some thousands; this many take a few seconds."""

_ENDLESS = {"BYTEARRAY8", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER", "PERSID"}


class Global(NamedTuple):
    """A function or class that a pickle names, never looked up."""

    name: str


class Inert(NamedTuple):
    """An object that the reader has no use for: the name of its class, and nothing else."""

    name: str


class Machine(NamedTuple):
    """The state of the stack machine, and what it may do: both functions raise for what they refuse."""

    stack: list
    marks: list  # heights of the stack at each open MARK
    memo: dict
    apply: Callable[[str, tuple], object]  # (global, arguments) -> value
    persistent: Callable[[object], object]  # persistent id -> value


def load(file: IO[bytes], apply: Callable[[str, tuple], object], persistent: Callable[[object], object]) -> object:
    """The value of the next pickle in `file`; a damaged or refused one is a ValueError."""
    machine = Machine([], [], {}, apply, persistent)
    try:
        for count, (code, argument, _) in enumerate(pickletools.genops(file)):
            if count == INSTRUCTIONS or code.name in _ENDLESS:
                raise ValueError(f"a pickle of more than {INSTRUCTIONS} instructions, or with {code.name}")
            if code.name == "STOP":
                return machine.stack.pop()
            _step(machine, code.name, argument)
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"a damaged pickle ({type(error).__name__}: {str(error)[:80]})") from None
    raise ValueError("a damaged pickle (it has no end)")


def _step(machine: Machine, name: str, argument: object) -> None:
    if name in _CONSTANTS:
        machine.stack.append(_CONSTANTS[name])
    elif name in _VALUES:
        machine.stack.append(argument)
    elif name in _STEPS:
        _STEPS[name](machine, argument)
    else:
        raise ValueError(f"a pickle with the instruction {name}, which is not read")


def _items(m: Machine) -> list:
    """What lies above the last mark, taken off with the mark."""
    height = m.marks.pop()
    found = m.stack[height:]
    del m.stack[height:]
    return found


def _tuple(count: int) -> Callable[[Machine, object], None]:
    def step(m: Machine, _: object) -> None:
        if len(m.stack) < count:
            raise IndexError("the stack is empty")
        m.stack[len(m.stack) - count :] = [tuple(m.stack[len(m.stack) - count :])]

    return step


def _set_items(m: Machine, pairs: list) -> None:
    if isinstance(m.stack[-1], dict):
        m.stack[-1].update(_plain(pairs))


def _plain(pairs: list) -> dict:
    """Pairs whose key is a plain value: tuples nested a million deep overflow the C stack when they are hashed."""
    return {key: value for key, value in zip(pairs[::2], pairs[1::2]) if isinstance(key, str | int | bytes)}


def _set_items_above(m: Machine, _: object) -> None:
    pairs = _items(m)
    _set_items(m, pairs)


def _append_one(m: Machine, _: object) -> None:
    item = m.stack.pop()
    if isinstance(m.stack[-1], list):
        m.stack[-1].append(item)


def _append_above(m: Machine, _: object) -> None:
    items = _items(m)
    if isinstance(m.stack[-1], list):
        m.stack[-1].extend(items)


def _reduce(m: Machine, _: object) -> None:
    arguments, function = m.stack.pop(), m.stack.pop()
    m.stack.append(_applied(m, function, arguments))


def _applied(m: Machine, function: object, arguments: object) -> object:
    if isinstance(function, Inert):
        return function
    if not isinstance(function, Global) or not isinstance(arguments, tuple):
        raise ValueError("a damaged pickle (what is called is no function)")
    return m.apply(function.name, arguments)


def _object(m: Machine, _: object) -> None:
    function, *arguments = _items(m)
    m.stack.append(_applied(m, function, tuple(arguments)))


def _new_with_keywords(m: Machine, _: object) -> None:
    m.stack.pop()
    _reduce(m, None)


def _stack_global(m: Machine, _: object) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    m.stack.append(Global(f"{module}.{name}"))


def _set_item(m: Machine, _: object) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    _set_items(m, [key, value])


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8",
}  # fmt: skip
_STEPS: dict[str, Callable[[Machine, object], object]] = {
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: _items(m),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "PUT": lambda m, i: m.memo.update({i: m.stack[-1]}),
    "BINPUT": lambda m, i: m.memo.update({i: m.stack[-1]}),
    "LONG_BINPUT": lambda m, i: m.memo.update({i: m.stack[-1]}),
    "MEMOIZE": lambda m, _: m.memo.update({len(m.memo): m.stack[-1]}),
    "GET": lambda m, i: m.stack.append(m.memo[i]),
    "BINGET": lambda m, i: m.stack.append(m.memo[i]),
    "LONG_BINGET": lambda m, i: m.stack.append(m.memo[i]),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "EMPTY_SET": lambda m, _: m.stack.append([]),  # sets are of no use here: as lists, nothing needs hashing
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "TUPLE": lambda m, _: m.stack.append(tuple(_items(m))),
    "LIST": lambda m, _: m.stack.append(_items(m)),
    "FROZENSET": lambda m, _: m.stack.append(_items(m)),
    "DICT": lambda m, _: m.stack.append(_plain(_items(m))),
    "SETITEM": _set_item,
    "SETITEMS": _set_items_above,
    "APPEND": _append_one,
    "APPENDS": _append_above,
    "ADDITEMS": _append_above,
    "GLOBAL": lambda m, name: m.stack.append(Global(name.replace(" ", ".", 1))),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new_with_keywords,
    "OBJ": _object,
    "BUILD": lambda m, _: m.stack.pop(),  # the state of an object: of the values that are read, none has one
    "BINPERSID": lambda m, _: m.stack.append(m.persistent(m.stack.pop())),
}
