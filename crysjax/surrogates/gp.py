"""Gaussian process regression on feature vectors; hyper-parameters by NUTS or variational inference in NumPyro.

Rasmussen & Williams 2006, algorithm 2.1. The kernel is amplitude² k(r) + noise² on standardized data, with
k = exp(-r²/2) (RBF) or (1 + √5 r + 5r²/3) exp(-√5 r) (Matérn 5/2) and r² = Σ_i (x_i - x'_i)² / ℓ_i².
Hyper-parameters have log-normal priors. A posterior is an even mixture over hyper-parameter samples; one sample is a
plain Gaussian process. NumPyro is imported when a process is fitted for the first time.
"""

from __future__ import annotations

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from crysjax.base import Estimate, Surrogate
from crysjax.surrogates import chains as monte_carlo
from crysjax.surrogates.chains import Diagnostics
from crysjax.surrogates.observations import Observations, observe, pad


class Hyper(NamedTuple):
    """Hyper-parameters in standardized units; a leading axis counts samples."""

    length: Array  # (s, d) or (s, 1)
    amplitude: Array  # (s,)
    noise: Array  # (s,)


class Posterior(NamedTuple):
    data: Observations
    hyper: Hyper
    chol: Array  # (s, capacity, capacity) lower factor of K + noise² I; empty rows are those of the identity
    alpha: Array  # (s, capacity) = (K + noise² I)^-1 y
    diagnostics: Diagnostics  # of the draws of `hyper`; `surrogates.chains.trouble` says it in words


def gp(
    *,
    kernel: Literal["rbf", "matern52"] = "matern52",
    ard: bool = True,
    inference: Literal["map", "normal", "nuts"] = "map",
    capacity: int | None = None,
    steps: int = 300,
    warmup: int = 200,
    samples: int = 32,
    chains: int = 4,
    learning_rate: float = 0.05,
    noise_scale: float = 0.1,
    jitter: float = 1e-5,
    observed: bool = False,
    standardize: bool = True,
    unit_prior: bool = False,
) -> Surrogate:
    """A Gaussian process as a `Surrogate`.

    `fit(key, x (m, d), y (m,)) -> Posterior`; rows whose y is NaN are left out. With `capacity` data are padded to
    that many rows and every fit up to it runs the same compiled program (more rows are an error).
    `predict(posterior, x (q, d)) -> Estimate` of (q,) is differentiable; std is that of the function, or of a new
    observation where `observed`. `valid` is False (value the data's mean) where a feature is not finite, and everywhere
    if the chains of "nuts" have not converged: `posterior.diagnostics` has divergences, split R-hat and effective size.

    `inference`: "map" is SVI with AutoDelta, "normal" SVI with AutoNormal (`steps` of Adam; `samples` draws), "nuts"
    is Hamiltonian Monte Carlo in `chains` chains side by side (`warmup` steps and at least 250 draws each, of which
    `samples` are kept in all). `ard`: one length-scale per feature.
    `unit_prior`: y is given in units of its known prior std, so it is not standardized and the amplitude is 1.
    Priors: length LogNormal(log sqrt(d), 1), amplitude LogNormal(0, 0.5), noise LogNormal(log noise_scale, 1).
    """
    kernel_fn = {"rbf": rbf, "matern52": matern52}[kernel]
    infer = {"map": _svi, "normal": _svi, "nuts": _nuts}[inference]
    draws = 1 if inference == "map" else samples
    if chains < 2:
        raise ValueError(f"gp: chains is {chains}; expected at least 2, for R-hat compares them")

    def model(data: Observations):
        hyper = _prior(data.x.shape[-1] if ard else 1, data.x.shape[-1], noise_scale, unit_prior)
        _observe(kernel_fn, hyper, data, jitter)

    @jax.jit
    def fit_padded(key: Array, x: Array, y: Array) -> Posterior:
        data = observe(x, y, standardize, not unit_prior)
        optimizer = {"steps": steps, "rate": learning_rate, "normal": inference == "normal"}
        run = {"warmup": warmup, "chains": chains} if inference == "nuts" else optimizer
        hyper, diagnostics = infer(key, model, data, draws, **run)
        return condition(kernel_fn, hyper, data, jitter)._replace(diagnostics=diagnostics)

    def fit(key: Array, x: Array, y: Array) -> Posterior:
        return fit_padded(key, *pad(x, y, capacity))

    return Surrogate(fit, partial(predict, kernel_fn, observed=observed))


def rbf(distance2: Array) -> Array:
    """exp(-r²/2) of the squared distance."""
    return jnp.exp(-distance2 / 2)


def matern52(distance2: Array) -> Array:
    """(1 + √5 r + 5r²/3) exp(-√5 r); its slope in r² is finite at 0, and so is this one's."""
    r = jnp.sqrt(5 * jnp.maximum(distance2, 1e-12))
    return (1 + r + r**2 / 3) * jnp.exp(-r)


def gram(kernel_fn, hyper: Hyper, a: Array, b: Array) -> Array:
    """amplitude² k(a, b) of ONE hyper-parameter sample: (m, d), (q, d) -> (m, q).

    Distances are summed over differences, not expanded into products: in float32 the expansion loses close pairs.
    """
    difference = (a[:, None, :] - b[None, :, :]) / hyper.length[None, None, :]
    return hyper.amplitude**2 * kernel_fn((difference**2).sum(-1))


def condition(kernel_fn, hyper: Hyper, data: Observations, jitter: float) -> Posterior:
    """The exact posterior at given hyper-parameters (leading axis: samples)."""

    def one(h: Hyper):
        chol = jnp.linalg.cholesky(_covariance(kernel_fn, h, data, jitter))
        return chol, jax.scipy.linalg.cho_solve((chol, True), data.y)

    return Posterior(data, hyper, *jax.lax.map(one, hyper), monte_carlo.unquestioned())


def predict(kernel_fn, posterior: Posterior, x: Array, *, observed: bool = False) -> Estimate:
    """Mean and std of the mixture over hyper-parameter samples: law of total variance."""
    data = posterior.data
    valid = jnp.isfinite(x).all(-1)
    x = (jnp.where(valid[:, None], x, data.x_mean[None, :]) - data.x_mean[None, :]) / data.x_std[None, :]

    def one(hyper: Hyper, chol: Array, alpha: Array):
        cross = gram(kernel_fn, hyper, data.x, x) * data.mask[:, None]
        explained = jax.scipy.linalg.solve_triangular(chol, cross, lower=True)
        variance = hyper.amplitude**2 - (explained**2).sum(0)
        # rounding can push it below zero at a data point, where the square root has no slope
        variance = jnp.maximum(variance, 1e-6 * hyper.amplitude**2)
        return cross.T @ alpha, variance + hyper.noise**2 if observed else variance

    mean, variance = jax.vmap(one)(posterior.hyper, posterior.chol, posterior.alpha)
    std = jnp.sqrt(variance.mean(0) + mean.var(0)) * data.y_std
    value = jnp.where(valid, mean.mean(0) * data.y_std + data.y_mean, data.y_mean)
    return Estimate(value, std, valid & monte_carlo.sound(posterior.diagnostics))


def _covariance(kernel_fn, hyper: Hyper, data: Observations, jitter: float) -> Array:
    """K + (noise² + jitter amplitude²) I among the rows that count, the identity elsewhere."""
    both = data.mask[:, None] * data.mask[None, :]
    nugget = hyper.noise**2 + jitter * hyper.amplitude**2
    return gram(kernel_fn, hyper, data.x, data.x) * both + jnp.diag(jnp.where(data.mask > 0, nugget, 1))


def _prior(lengths: int, features: int, noise_scale: float, unit: bool = False) -> Hyper:
    import numpyro
    from numpyro.distributions import LogNormal

    length = numpyro.sample("length", LogNormal(0.5 * jnp.log(1.0 * features), 1.0).expand([lengths]).to_event(1))
    amplitude = jnp.ones(()) if unit else numpyro.sample("amplitude", LogNormal(0.0, 0.5))
    return Hyper(length, amplitude, numpyro.sample("noise", LogNormal(jnp.log(noise_scale), 1.0)))  # fmt: skip


def _observe(kernel_fn, hyper: Hyper, data: Observations, jitter: float) -> None:
    """Marginal likelihood (R&W 2.30); an empty row has y = 0 and variance 1, so it adds a constant and no slope."""
    import numpyro

    chol = jnp.linalg.cholesky(_covariance(kernel_fn, hyper, data, jitter))
    white = jax.scipy.linalg.solve_triangular(chol, data.y, lower=True)
    numpyro.factor("marginal", -0.5 * (white**2).sum() - jnp.log(jnp.diagonal(chol)).sum())


def _svi(key, model, data, draws, *, steps, rate, normal) -> tuple[Hyper, Diagnostics]:
    import optax
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoDelta, AutoNormal
    from numpyro.infer.initialization import init_to_median

    guide = (AutoNormal if normal else AutoDelta)(model, init_loc_fn=init_to_median)
    key_fit, key_draw = jax.random.split(key)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        svi = SVI(model, guide, optax.adam(rate), Trace_ELBO(num_particles=4 if normal else 1))
        params = svi.run(key_fit, steps, data, progress_bar=False).params
        drawn = guide.sample_posterior(key_draw, params, sample_shape=(draws,))
        hyper = Hyper(**{"amplitude": jnp.ones(draws)} | drawn)  # 1 where it is not learned
    return hyper, monte_carlo.unquestioned()


def _nuts(key, model, data, draws, *, warmup, chains) -> tuple[Hyper, Diagnostics]:
    drawn, diagnostics = monte_carlo.nuts(key, model, data, chains=chains, warmup=warmup, samples=draws)
    return Hyper(**{"amplitude": jnp.ones(draws)} | drawn), diagnostics
