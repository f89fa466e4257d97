"""Samplers: how the processes of all fields move together from noise to data, given a network that answers at any time.

`euler` is `Process.step`, whatever that is for a field (ancestral, deterministic, discrete). The others read the
`Dynamics` of the continuous fields; fields that have none (discrete species) move by `Process.step` in all of them. The
last step, on to t = 0, is `Process.step` too, because the dynamics may be singular there.

| sampler | network calls per step | order | |
| --- | --- | --- | --- |
| euler | 1 | 1 | |
| heun | 2 | 2, of the ODE | Karras et al. 2022, algorithm 1 |
| multistep | 1 | 2, of the ODE | Adams-Bashforth; DPM-Solver++(2M) of Lu et al. 2022 in the clock of each process |
| predictor_corrector | 1 + corrector_steps | 1 | Langevin steps, then `euler` (score SDE; DiffCSP) |
| sde | 1 | 1, weak | Euler-Maruyama of the reverse SDE |

Score SDE: Song et al., Score-Based Generative Modeling through Stochastic Differential Equations, 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import Pack, Process
from crysjax.geometry import torus

SAMPLERS = ("euler", "heun", "multistep", "predictor_corrector", "sde")
NEED_SCORE = ("predictor_corrector", "sde")


class Problem(NamedTuple):
    """What a sampler works on; fields, predictions and times are tuples in the order of the processes."""

    processes: tuple[Process, ...]
    ask: Callable[..., tuple[tuple, Any]]  # (x, t) -> the prediction for each field, and what comes along with them
    at: Callable[..., tuple]  # (t) -> t shaped for each field
    pack: Pack


class Sampler(NamedTuple):
    """Moves all fields from t to t - dt.

    What came along with the predictions that moved the discrete fields is handed on: a sampler may ask more than once.
    """

    start: Callable[..., Any]  # (problem, x) -> memory
    advance: Callable[..., tuple[tuple, Any, Any]]  # (problem, key, x, memory, t, dt) -> (x, memory, what came along)


def sampler(
    name: str,
    processes: tuple[Process, ...],
    *,
    noise: float = 1.0,
    corrector_steps: int = 1,
    corrector_size: float = 0.1,
) -> Sampler:
    """The sampler of this name.

    Args:
        noise: of `sde`: eta >= 0 in `dx = (velocity - eta spread score) dc + sqrt(2 eta spread) dW`, backwards in c.
            Every eta has the laws of the ODE (eta = 0); 1 is the usual reverse SDE of a variance-exploding diffusion.
        corrector_steps: Langevin steps before each step of `predictor_corrector`.
        corrector_size: their size in units of spread^2, `x += size score + sqrt(2 size) z`. DiffCSP's is 0.4; a
            signal-to-noise ratio r of the score SDE paper is 2 r^2.

    Raises:
        ValueError: the name is unknown, or it needs a score where a field with dynamics has none.
    """
    if name not in SAMPLERS:
        raise ValueError(f"sampler: {name!r}; expected one of {', '.join(SAMPLERS)}")
    for process in processes:
        if name in NEED_SCORE and process.head != "species" and process.dynamics.noise is None:
            raise ValueError(f"sampler: {name!r} needs a score, and the process of {process.head} has none")
    if name == "predictor_corrector":
        return _forgetful(_predictor_corrector(corrector_steps, corrector_size))
    if name == "multistep":
        return Sampler(_no_velocities, _multistep)
    return _forgetful({"euler": _euler, "heun": _heun, "sde": _sde(noise)}[name])


def grid(steps: int, rho: float, dtype: Any) -> tuple[Array, Array]:
    """Times `(1 - k / steps)^rho` from 1 on and the step after each, down to 0: (steps,) twice."""
    if rho == 1:  # one number for all steps, free of rounding
        t = jnp.linspace(1.0, 1.0 / steps, steps, dtype=dtype)
        return t, jnp.full(steps, 1.0 / steps, dtype)
    t = jnp.linspace(1.0, 0.0, steps + 1, dtype=dtype) ** rho
    return t[:-1], t[:-1] - t[1:]


def _forgetful(advance: Callable) -> Sampler:
    """A sampler that remembers nothing from step to step."""

    def forget(problem: Problem, key: Array, x: tuple, memory: None, t: Array, dt: Array) -> tuple[tuple, None, Any]:
        x, along = advance(problem, key, x, t, dt)
        return x, None, along

    return Sampler(lambda problem, x: None, forget)


def _euler(problem: Problem, key: Array, x: tuple, t: Array, dt: Array) -> tuple[tuple, Any]:
    predictions, along = problem.ask(x, t)
    return _step(problem, key, x, predictions, t, dt), along


def _step(problem: Problem, key: Array, x: tuple, predictions: tuple, t: Array, dt: Array) -> tuple:
    keys = jax.random.split(key, 3)
    fields = zip(problem.processes, keys, x, predictions, problem.at(t))
    return tuple(p.step(k, value, said, s, dt, problem.pack) for p, k, value, said, s in fields)


def _heun(problem: Problem, key: Array, x: tuple, t: Array, dt: Array) -> tuple[tuple, Any]:
    """The mean of the velocities before and after an Euler step of the ODE."""
    predictions, along = problem.ask(x, t)
    stepped = _step(problem, key, x, predictions, t, dt)
    now = _velocities(problem, x, predictions, t)
    guess = _moved(problem, x, stepped, now, t, dt)
    then = jnp.where(t > dt, t - dt, t)  # no dynamics at t = 0; what follows is not used in the last step
    after = _velocities(problem, guess, problem.ask(guess, then)[0], then)
    mean = tuple(None if a is None else 0.5 * (a + b) for a, b in zip(now, after))
    return _unless_last(_moved(problem, x, stepped, mean, t, dt), stepped, t, dt), along


def _no_velocities(problem: Problem, x: tuple) -> tuple[tuple, tuple]:
    """Zeros that the first step does not use, and the length of the step before it: none."""
    zeros = tuple(None if p.dynamics is None else jnp.zeros_like(value) for p, value in zip(problem.processes, x))
    return zeros, tuple(jnp.zeros_like(s) for s in problem.at(jnp.zeros((), x[0].dtype)))


def _multistep(problem: Problem, key: Array, x: tuple, memory: tuple, t: Array, dt: Array) -> tuple[tuple, tuple, Any]:
    """The velocity in the middle of the step, extrapolated from the last two; the first step is Euler's."""
    before, lengths = memory
    predictions, along = problem.ask(x, t)
    stepped = _step(problem, key, x, predictions, t, dt)
    now, spans = _velocities(problem, x, predictions, t), _spans(problem, t, dt)

    def ahead(v: Array | None, old: Array | None, span: Array, length: Array) -> Array | None:
        first = length == 0
        return None if v is None else v + jnp.where(first, 0, 0.5 * span / jnp.where(first, 1, length)) * (v - old)

    middle = tuple(map(ahead, now, before, spans, lengths))
    moved = _unless_last(_moved(problem, x, stepped, middle, t, dt), stepped, t, dt)
    return moved, (now, spans), along


def _predictor_corrector(steps: int, size: float) -> Callable:
    """Langevin steps towards the law at t, then `euler` (the order of DiffCSP, which ends on a prediction)."""

    def correct(problem: Problem, key: Array, x: tuple, t: Array) -> tuple:
        def langevin(p: Process, k: Array, value: Array, said: Array, s: Array) -> Array:
            if p.dynamics is None or p.dynamics.noise is None:
                return value
            spread, drawn = p.dynamics.spread(s), jax.random.normal(k, value.shape, value.dtype)
            noise = p.dynamics.noise(value, said, s, problem.pack)
            return _shifted(p, value, spread * ((2 * size) ** 0.5 * drawn - size * noise))

        keys = jax.random.split(key, len(x))
        return tuple(map(langevin, problem.processes, keys, x, problem.ask(x, t)[0], problem.at(t)))

    def advance(problem: Problem, key: Array, x: tuple, t: Array, dt: Array) -> tuple[tuple, Any]:
        key, *keys = jax.random.split(key, steps + 1)
        for one in keys:
            x = correct(problem, one, x, t)
        return _euler(problem, key, x, t, dt)

    return advance


def _sde(eta: float) -> Callable:
    """Euler-Maruyama; `spread score = -noise`, so nothing is divided by a spread that vanishes."""

    def advance(problem: Problem, key: Array, x: tuple, t: Array, dt: Array) -> tuple[tuple, Any]:
        discrete, *keys = jax.random.split(key, len(x) + 1)
        predictions, along = problem.ask(x, t)
        stepped = _step(problem, discrete, x, predictions, t, dt)
        drifted = _moved(problem, x, stepped, _velocities(problem, x, predictions, t), t, dt)

        def diffuse(p: Process, k: Array, value: Array, said: Array, moved: Array, s: Array, span: Array) -> Array:
            if p.dynamics is None or p.dynamics.noise is None:
                return moved
            pull = span * p.dynamics.noise(value, said, s, problem.pack)
            drawn = jnp.sqrt(2 * eta * p.dynamics.spread(s) * span) * jax.random.normal(k, value.shape, value.dtype)
            return _shifted(p, moved, drawn - eta * pull)

        fields = problem.processes, keys, x, predictions, drifted, problem.at(t), _spans(problem, t, dt)
        return _unless_last(tuple(map(diffuse, *fields)), stepped, t, dt), along

    return advance


def _velocities(problem: Problem, x: tuple, predictions: tuple, t: Array) -> tuple:
    """dx/dc of each field, `None` for those without dynamics."""
    fields = zip(problem.processes, x, predictions, problem.at(t))
    return tuple(p.dynamics and p.dynamics.velocity(value, said, s, problem.pack) for p, value, said, s in fields)


def _spans(problem: Problem, t: Array, dt: Array) -> tuple:
    """How far the clock of each field goes in a step, shaped as its times."""
    fields = zip(problem.processes, problem.at(t))
    return tuple(s if p.dynamics is None else p.dynamics.clock(s) - p.dynamics.clock(s - dt) for p, s in fields)


def _moved(problem: Problem, x: tuple, stepped: tuple, velocities: tuple, t: Array, dt: Array) -> tuple:
    """Every field along its velocity; those without dynamics as they have `stepped`."""
    fields = zip(problem.processes, x, stepped, velocities, _spans(problem, t, dt))
    return tuple(other if v is None else _shifted(p, value, -span * v) for p, value, other, v, span in fields)


def _shifted(process: Process, x: Array, shift: Array) -> Array:
    return torus.wrap(x + shift) if process.head == "frac" else x + shift


def _unless_last(moved: tuple, stepped: tuple, t: Array, dt: Array) -> tuple:
    return tuple(jnp.where(t > dt, a, b) for a, b in zip(moved, stepped))
