"""Hamiltonian Monte Carlo in several chains at once, and whether they can be believed.

Split R-hat compares halves of chains with one another (Gelman et al., Bayesian Data Analysis, 3rd ed., section 11.4);
the effective sample size divides the number of draws by their autocorrelation time, summed over Geyer's initial
monotone sequence (section 11.5) of whole chains, which are not split. The time is bounded from below as in Stan, so
that draws which alternate about the mean count for at most n log10(n) of n. Both are taken of the logarithms of
positive parameters, the worst one counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

MOST_R_HAT = 1.05
LEAST_EFFECTIVE = 50.0
MOST_DIVERGENT = 0.01  # of the draws
LEAST_DRAWS = 250  # of each chain, so that the numbers above mean something


class Diagnostics(NamedTuple):
    """How the draws of a posterior were made; of an optimum or a fitted guide: no chain, and nothing to doubt."""

    divergences: Array  # () share of the draws whose trajectory left the energy shell
    r_hat: Array  # () largest split R-hat of any parameter; 1 is perfect
    effective: Array  # () smallest effective sample size of any parameter


def unquestioned() -> Diagnostics:
    """Of a posterior without chains."""
    return Diagnostics(jnp.zeros(()), jnp.ones(()), jnp.full((), jnp.inf))


def sound(found: Diagnostics) -> Array:
    """Whether the draws can be believed, () bool: all three numbers are within the bounds above."""
    return (found.divergences <= MOST_DIVERGENT) & (found.r_hat <= MOST_R_HAT) & (found.effective >= LEAST_EFFECTIVE)


def trouble(found: Diagnostics) -> str:
    """What is wrong with the chains, in one line; empty where they can be believed. Of several fits: any of them."""
    share, r_hat, effective = (float(pick(x)) for pick, x in zip((jnp.max, jnp.max, jnp.min), found))
    said = []
    if not share <= MOST_DIVERGENT:
        said.append(f"{share:.1%} of the trajectories diverged (at most {MOST_DIVERGENT:.0%} expected)")
    if not r_hat <= MOST_R_HAT:
        said.append(f"split R-hat is {r_hat:.2f} (at most {MOST_R_HAT} expected)")
    if not effective >= LEAST_EFFECTIVE:
        said.append(f"the effective sample size is {effective:.0f} (at least {LEAST_EFFECTIVE:.0f} expected)")
    return f"surrogate: the chains have not converged: {'; '.join(said)}" if said else ""


def nuts(key: Array, model: Callable, data, *, chains: int, warmup: int, samples: int) -> tuple[dict, Diagnostics]:
    """`samples` draws of every parameter, evenly spaced over all draws of all chains, and the diagnostics of all.

    Chains run side by side in one program (vectorized), `warmup` steps and at least `LEAST_DRAWS` draws each.
    """
    from numpyro.infer import MCMC, NUTS
    from numpyro.infer.initialization import init_to_uniform

    each = max(-(-samples // chains), LEAST_DRAWS)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        kernel = NUTS(model, init_strategy=init_to_uniform(radius=1), max_tree_depth=6)  # chains start apart
        mcmc = MCMC(kernel, num_warmup=warmup, num_samples=each, num_chains=chains, chain_method="vectorized",
                    progress_bar=False)  # fmt: skip
        mcmc.run(key, data)
        drawn = mcmc.get_samples(group_by_chain=True)
        diverged = mcmc.get_extra_fields(group_by_chain=True)["diverging"]
        found = diagnose(drawn, diverged)
    kept = jnp.linspace(0, chains * each - 1, samples).astype(jnp.int32)
    return {name: x.reshape(-1, *x.shape[2:])[kept] for name, x in drawn.items()}, found


def diagnose(drawn: dict[str, Array], diverged: Array) -> Diagnostics:
    """Of draws of positive parameters (chains, draws, ...) and of which draws diverged (chains, draws)."""
    columns = jnp.concatenate([jnp.log(x).reshape(*x.shape[:2], -1) for x in drawn.values()], -1)
    r_hat = jax.vmap(split_r_hat, -1)(columns).max()
    effective = jax.vmap(effective_sample_size, -1)(columns).min()
    return Diagnostics(diverged.astype(r_hat.dtype).mean(), r_hat, effective)


def split_r_hat(x: Array) -> Array:
    """Of one parameter, (chains, draws) -> (); NaN where no chain moved."""
    half = x.shape[1] // 2
    within, total = _variances(jnp.concatenate([x[:, :half], x[:, x.shape[1] - half :]], 0))
    return jnp.sqrt(total / within)


def effective_sample_size(x: Array) -> Array:
    """Of one parameter, (chains, draws) -> (); at most n log10(n) of n draws; NaN where no chain moved."""
    chains, draws = x.shape
    within, total = _variances(x)
    wave = jnp.fft.rfft(x - x.mean(1, keepdims=True), 2 * draws, axis=1)
    covariance = jnp.fft.irfft(jnp.square(jnp.abs(wave)), 2 * draws, axis=1)[:, :draws].mean(0) / draws
    correlation = (1 - (within - covariance) / total).at[0].set(1)
    even = draws // 2 * 2
    pairs = correlation[0:even:2] + correlation[1:even:2]
    later = jax.lax.associative_scan(jnp.minimum, jnp.maximum(pairs[1:], 0))  # positive and falling
    time = 2 * (pairs[0] + later.sum()) - 1  # of antithetic draws near 0, and by noise below it
    return chains * draws / jnp.maximum(time, 1 / np.log10(chains * draws))


def _variances(x: Array) -> tuple[Array, Array]:
    """The mean variance within chains, and the estimate of the whole variance from within and between them."""
    draws = x.shape[1]
    within = x.var(1, ddof=1).mean()
    return within, within * (draws - 1) / draws + x.mean(1).var(ddof=1)
