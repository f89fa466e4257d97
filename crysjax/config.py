"""Settings from YAML, checked against the keyword-only signature of the factory that they are for.

The signature is the schema: whatever is wrong is one line that names the key, the value and what was expected.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from crysjax.data.readers import limits, reading


def choice(value: str, known: Iterable[str]) -> str:
    """What could have been said, and what was probably meant."""
    known = list(known)
    near = difflib.get_close_matches(str(value)[:100], known, 1)
    return f"one of {', '.join(known)}" + (f" (did you mean {near[0]}?)" if near else "")


def checked(factory: Callable, settings: Mapping[str, Any], where: str = "", hidden: str = "") -> dict[str, Any]:
    """`settings` as keyword arguments of `factory`, checked against its keyword-only signature and annotations.

    Whole numbers are taken for floats, NumPy's scalars and arrays for numbers and lists. `where` (a file name) starts
    the message; `hidden` is a key that is not offered.
    """
    parameters = inspect.signature(factory).parameters
    hints = typing.get_type_hints(factory)
    known = [name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY]
    where = f"{where}: " if where else ""
    for key in settings:
        if key not in known:
            offered = [name for name in known if name != hidden]
            raise ValueError(f"{where}{str(key)[:100]}: unknown key; expected {choice(key, offered)}")
    for name in known:
        if name not in settings and parameters[name].default is inspect.Parameter.empty:
            raise ValueError(f"{where}{name}: missing; expected {type_name(hints.get(name))}")
    try:
        return {key: typed(key, as_python(value), hints.get(key, Any)) for key, value in settings.items()}
    except ValueError as error:
        raise ValueError(f"{where}{error}") from None


def as_python(value: Any) -> Any:
    """The value with NumPy's scalars as plain ones and its arrays as lists, within lists, tuples and mappings too."""
    import numpy as np  # `crysjax --help` needs none

    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if type(value) in (list, tuple):
        return type(value)(as_python(one) for one in value)
    return {key: as_python(one) for key, one in value.items()} if type(value) is dict else value


def typed(key: str, value: Any, hint: Any) -> Any:
    """The value as the annotation has it; a wrong one is an error of one line that names the key."""
    if hint is float and isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)  # YAML 1.1 reads 1e-3 as text
    if fits(value, hint):
        return float(value) if hint is float else value
    if typing.get_origin(hint) is typing.Literal:
        raise ValueError(f"{key}: {limits.shown(value)}; expected {choice(value, typing.get_args(hint))}")
    infinite = hint is float and isinstance(value, int | float) and not isinstance(value, bool)
    expected = "a finite number" if infinite else type_name(hint)
    raise ValueError(f"{key}: {limits.shown(value)}; expected {expected}")


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value fits an annotation."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is typing.Literal:
        return isinstance(value, str) and value in inner
    if hint is type(None):
        return value is None
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(fits(v, inner[0]) for v in value if inner)
    if origin is dict or hint is dict:
        return isinstance(value, dict) and all(isinstance(k, str) for k in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return not isinstance(hint, type) or isinstance(value, hint)


_PLURAL = {int: "whole numbers", float: "numbers", float | None: "numbers, null for none", str: "text"}


def type_name(hint: Any) -> str:
    """An annotation in a user's words."""
    plain = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "a mapping"}
    if typing.get_origin(hint) in (list, tuple):
        inner = typing.get_args(hint)[0]
        return f"a list of {_PLURAL.get(inner, 'values')}"
    if typing.get_origin(hint) is dict:
        return plain[dict]
    if typing.get_origin(hint) is typing.Literal:
        return f"one of {', '.join(typing.get_args(hint))}"
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join("null" if one is type(None) else type_name(one) for one in typing.get_args(hint))
    return plain.get(hint) or str(hint).replace("NoneType", "null")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; syntax errors and repeated keys are one line with the place.

    The file is at most `limits.SETTINGS_BYTES` long. Keys are text; aliases are refused, since a few lines of them
    stand for more values than there is memory.
    """
    path = Path(path)
    text = reading.read_bytes(path, limits.SETTINGS_BYTES)
    try:
        found = parse_yaml(text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text of YAML ({error})") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected `key: value` lines, found {type(found).__name__}")
    return found


def parse_yaml(text: str) -> Any:
    """The value of a YAML text: plain values, lists and mappings from text to these. Errors name the place."""
    import yaml

    try:
        return yaml.load(text, _loader())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{place}{str(error.problem)[:200]}") from None
    except RecursionError:
        raise ValueError("nested deeper than any settings are") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # a date that is none, a number of 5,000 digits
        raise ValueError(f"not a text of YAML ({' '.join(str(error).split())[:120]})") from None


@cache
def _loader() -> type:
    """PyYAML's safe loader, without aliases and with text alone for keys."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                event = self.peek_event()
                raise _marked(f"alias *{event.anchor}: aliases are not read", event)
            return super().compose_node(parent, index)

    def _marked(problem: str, at: Any) -> yaml.MarkedYAMLError:
        return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)

    def mapping(loader: Loader, node: yaml.MappingNode) -> dict:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                raise _marked(f"key {limits.shown(getattr(key, 'value', ''), 40)}: expected text", key)
            if key.value in seen:
                raise _marked(f"key {limits.shown(key.value)} is given twice", key)
            seen.add(key.value)
        return loader.construct_mapping(node, deep=True)

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    return Loader
