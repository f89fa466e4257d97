"""What the parts of crysjax are to one another: NamedTuples of functions, each of a protocol of `base.protocols`."""

from __future__ import annotations

from typing import NamedTuple

from crysjax.base.protocols import (
    ApplyNetwork,
    Ask,
    AskOracle,
    AskSurrogate,
    Clock,
    Corrupt,
    Decode,
    DrawNoise,
    ExpectedNoise,
    FieldError,
    FitSurrogate,
    InitGenerator,
    InitNetwork,
    InitSearch,
    LogProb,
    Loss,
    Prior,
    Sample,
    Spread,
    Step,
    Tell,
    Velocity,
)


class Oracle(NamedTuple):
    """A property with its price. `batch` maps a stacked `Crystal` (leading axis m, common slot count) to estimates."""

    name: str
    unit: str
    cost: float  # seconds per crystal, order of magnitude; what a budget is counted in
    batch: AskOracle


class Network(NamedTuple):
    """A backbone. `context` (b, c) holds everything known per crystal: time, properties, space group."""

    init: InitNetwork
    apply: ApplyNetwork


class Generator(NamedTuple):
    """A distribution over crystals.

    `sample` is `decode` of a drawn `noise`: search strategies work on the noise, everyone else calls `sample`.
    A template is a `Pack` that says what is known: its occupancy rows restrict the species, its owner and pairs give
    the sizes. `log_prob` scores exactly what `sample` drew, or it is `None`.
    """

    init: InitGenerator
    loss: Loss
    noise: DrawNoise
    decode: Decode
    sample: Sample
    log_prob: LogProb | None = None


class Process(NamedTuple):
    """How one field is noised and denoised; diffusion, flow matching and discrete diffusion differ only here.

    Time runs from 0 (data) to 1 (noise), one time per site or per crystal, shaped to broadcast against the field.
    """

    prior: Prior
    corrupt: Corrupt
    step: Step
    error: FieldError
    head: str  # the field of `Prediction` that it reads
    dynamics: Dynamics | None = None  # `None`: `step` is all there is (discrete fields)
    answers: int = 1  # how many predictions it needs of its head, one after another along the last axis


class Dynamics(NamedTuple):
    """A continuous process as a differential equation, for samplers that do more than `Process.step`.

    Shapes and times are those of `Process`. The score of the law at t is `-noise / spread`.
    """

    clock: Clock
    velocity: Velocity
    noise: ExpectedNoise | None = None  # `None`: no score is known
    spread: Spread | None = None


class Search(NamedTuple):
    """An optimizer or sampler over a pytree of floats; `search.run` is the one loop. Lower values are better."""

    init: InitSearch
    ask: Ask
    tell: Tell
    needs_grad: bool
    compares: bool = False  # `tell` compares values: it is given that of each part of a point, see `search.run`


class Surrogate(NamedTuple):
    """A regression with uncertainty."""

    fit: FitSurrogate
    predict: AskSurrogate
