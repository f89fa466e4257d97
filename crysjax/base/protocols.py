"""The functions of the contract as protocols: what each is given, what it answers, shapes and units.

Arguments are given by place. Letters: `b` crystal slots of a pack, `n` sites, `k` properties, `m` crystals of a stack.
Nothing here is subclassed: a function with the signature is one of these.
"""

from __future__ import annotations

from typing import Protocol

from jax import Array

from crysjax.base.crystals import Condition, Crystal, Estimate, Pack, Params, Prediction, PyTree


class AskOracle(Protocol):
    """A property of each crystal of a stack, leaves (m, ...): (m,) in the oracle's unit.

    Where the oracle has no answer, `valid` is False and value and std are finite all the same.
    """

    def __call__(self, crystals: Crystal, /) -> Estimate: ...


class InitNetwork(Protocol):
    """Parameters for packs like this one; `context` (b, c)."""

    def __call__(self, key: Array, pack: Pack, context: Array, /) -> Params: ...


class ApplyNetwork(Protocol):
    """What the network says of a pack under a context (b, c); padding has no influence on any crystal."""

    def __call__(self, params: Params, pack: Pack, context: Array, /) -> Prediction: ...


class InitGenerator(Protocol):
    """Parameters for packs and conditions like these."""

    def __call__(self, key: Array, pack: Pack, condition: Condition, /) -> Params: ...


class Loss(Protocol):
    """A scalar to be minimized, the mean over the crystals of the pack, and scalars to be logged.

    `key` draws noise, times and what is hidden; `pack` are clean crystals, `condition` what is known of them.
    """

    def __call__(
        self, params: Params, key: Array, pack: Pack, condition: Condition, /
    ) -> tuple[Array, dict[str, Array]]: ...


class DrawNoise(Protocol):
    """Everything random that a search may change: a pytree of the family's own, its leaves (n, ...) or (b, ...)."""

    def __call__(self, key: Array, template: Pack, /) -> PyTree: ...


class Decode(Protocol):
    """Noise as crystals, on the sites, owner and pairs of the template, differentiable in params, noise and condition.

    `key` draws what is left to chance given the noise. Fractions are in [0, 1), lattices in Å, species rows one-hot.
    """

    def __call__(self, params: Params, key: Array, noise: PyTree, template: Pack, condition: Condition, /) -> Pack: ...


class Sample(Protocol):
    """`Decode` of drawn noise."""

    def __call__(self, params: Params, key: Array, template: Pack, condition: Condition, /) -> Pack: ...


class LogProb(Protocol):
    """The logarithm of the density that `Sample` draws from, per crystal in nats: (b,).

    `template` says which species were free; without one all count as given. Each family documents its measure.
    """

    def __call__(self, params: Params, pack: Pack, condition: Condition, /, template: Pack | None = None) -> Array: ...


class Prior(Protocol):
    """Noise at t = 1 in the shape of `like`, a field of the pack."""

    def __call__(self, key: Array, like: Array, pack: Pack, /) -> Array: ...


class Corrupt(Protocol):
    """The field `x0` noised to the time `t`, and the target of the network's head there, shaped alike."""

    def __call__(self, key: Array, x0: Array, t: Array, pack: Pack, /) -> tuple[Array, Array]: ...


class Step(Protocol):
    """The field moved from t to t - dt along the network's prediction; the last step ends on the data."""

    def __call__(self, key: Array, x: Array, prediction: Array, t: Array, dt: Array, pack: Pack, /) -> Array: ...


class FieldError(Protocol):
    """How far a prediction is off its target: one number per site (n,) or per crystal (b,)."""

    def __call__(self, prediction: Array, target: Array, x: Array, pack: Pack, /) -> Array: ...


class Clock(Protocol):
    """The time c, rising with t, in which the velocity is smooth; any shape."""

    def __call__(self, t: Array, /) -> Array: ...


class Velocity(Protocol):
    """dx/dc of the probability-flow equation, in the shape of the field."""

    def __call__(self, x: Array, prediction: Array, t: Array, pack: Pack, /) -> Array: ...


class ExpectedNoise(Protocol):
    """E[z | x_t], the noise that the network believes to be in the field, in its shape."""

    def __call__(self, x: Array, prediction: Array, t: Array, pack: Pack, /) -> Array: ...


class Spread(Protocol):
    """The standard deviation of the noise z in x_t; any shape."""

    def __call__(self, t: Array, /) -> Array: ...


class InitSearch(Protocol):
    """The state of a search that begins at `x`, a pytree of floats."""

    def __call__(self, key: Array, x: PyTree, /) -> PyTree: ...


class Ask(Protocol):
    """Where to evaluate next: a pytree like the first `x`."""

    def __call__(self, key: Array, state: PyTree, /) -> PyTree: ...


class Tell(Protocol):
    """The state after an evaluation: `value` is lower where better, `grad` its gradient in `x` or `None`.

    `value` is (), or (m,) of a population, or of the parts of a point where the search `compares`.
    """

    def __call__(self, state: PyTree, x: PyTree, value: Array, grad: PyTree | None, /) -> PyTree: ...


class FitSurrogate(Protocol):
    """The posterior given inputs (m, d) and values (m,)."""

    def __call__(self, key: Array, x: Array, y: Array, /) -> PyTree: ...


class AskSurrogate(Protocol):
    """The law of the value at inputs (m, d): (m,) in the unit of the values."""

    def __call__(self, posterior: PyTree, x: Array, /) -> Estimate: ...
