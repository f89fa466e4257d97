"""Which crystals resemble those that have been made: a classifier from positive and unlabeled examples.

Nobody records the syntheses that failed. A data set knows some crystals that have been made (`observed` = 1); all the
others (0 or NaN) are unlabeled, and a share `prior` of those could have been labeled too. The risk of a classifier
on data with both labels can still be estimated without bias (du Plessis, Niu & Sugiyama 2015), and with its negative
part kept from going below zero a flexible network does not overfit it (nnPU: Kiryo et al. 2017). With the logistic
loss the score is the posterior P(made | crystal) among crystals like the unlabeled ones, if the prior is right and
the labeled were picked at random from the made. Neither can be told from such data alone: hence `meaning`.

Members of an ensemble weigh every crystal by their own draw, which is bagging (Mordelet & Vert 2014; for crystals
Jang et al. 2020) with the Bayesian bootstrap; unlike there each member's loss is the one above.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Crystal, Estimate, Network, Oracle, Pack, Params, num_sites
from crysjax.data import batching, datasets
from crysjax.data.datasets import Dataset
from crysjax.predictors import ensembles
from crysjax.predictors.heads import Heads, Whole, heads

SCORE = "synthesizability_score"
RISKS = ("non_negative", "unbiased", "ratio")


def meaning(prior: float) -> str:
    """What the score says and what it does not; printed wherever a score is."""
    return (
        f"probability-like score of resembling crystals that have been made, given prior {prior:g}; "
        "not a probability of synthesis, and not the distance to the convex hull"
    )


def classifier(
    network: Network, *, prior: float, hidden: int = 64, risk: str = "non_negative", slack: float = 0.0
) -> Heads:
    """One network that scores crystals, as `Heads` of one column `SCORE`.

    Args:
        network: the backbone; `Prediction.crystal` is read.
        prior: share of the unlabeled crystals that belong to the made ones, above 0 and below 1. A statement of
            the user's: the score is only as good as it (`estimate_share` gives an upper bound).
        hidden: width of the perceptron on top.
        risk: "non_negative"; "unbiased", which a flexible network overfits; or "ratio": the unlabeled are taken for
            negatives, as in bagging (Mordelet & Vert 2014), with both kinds weighing the same. The odds are then the
            ratio of the densities of made and unlabeled crystals, and the score is `prior` times it, at most 1: the
            same posterior (Elkan & Noto 2008), of which the loss does not use the prior.
        slack: how far below zero the negative part may go before it is pushed back (Kiryo et al. 2017, beta).

    `loss` reads column 0 of the targets: 1 = made, anything else (0, NaN) = unlabeled; see `pu_risk`.
    `predict` answers scores (b, 1) in [0, 1]; its std is 0.5, no claim to knowledge, until `bagged` measures a spread.
    """
    if not 0 < prior < 1:
        raise ValueError(f"prior: {prior}; expected a number above 0 and below 1")
    if risk not in RISKS:
        raise ValueError(f"risk: {risk!r}; expected one of {', '.join(RISKS)}")
    if slack < 0:
        raise ValueError(f"slack: {slack}; expected a number from 0 on")
    if hidden < 1:
        raise ValueError(f"hidden: {hidden}; expected a whole number of at least 1")
    raw = heads(network, names=(SCORE,), center=(0.0,), scale=(1.0,), hidden=hidden)

    def loss(params: Params, key: Array, pack: Pack, targets: Array, weights: Array | None = None):
        logit = raw.predict(params, pack).value[:, 0]
        used = (num_sites(pack) > 0).astype(logit.dtype) * (1 if weights is None else weights)
        return pu_risk(logit, targets[:, 0] == 1, used, prior=prior, risk=risk, slack=slack)

    def scored(logit: Estimate) -> Estimate:
        odds = jnp.exp(jnp.minimum(logit.value, -jnp.log(prior)))  # no overflow
        score = prior * odds if risk == "ratio" else jax.nn.sigmoid(logit.value)
        return Estimate(score, jnp.full_like(score, 0.5), logit.valid)

    def predict(params: Params, pack: Pack) -> Estimate:
        return scored(raw.predict(params, pack))

    def whole(params: Params, pack: Pack) -> Whole:
        said = raw.together(params, pack)
        return said._replace(estimate=scored(said.estimate))

    return Heads((SCORE,), raw.init, loss, predict, raw.features, raw.novelty, whole=whole)


def pu_risk(
    logit: Array, observed: Array, weight: Array, *, prior: float, risk: str = "non_negative", slack: float = 0.0
) -> tuple[Array, dict]:
    """The logistic risk over positive and unlabeled examples, (b,) each: (scalar, metrics).

    With l(z) = log(1 + exp(-z)), and means over the observed (P) and the unlabeled (U), each weighted:
    `prior * P[l(g)]` plus the negative part `U[l(-g)] - prior * P[l(-g)]`, whose expectation is the risk on the
    negatives and so not negative. "non_negative" takes at least 0 for it (Kiryo et al. 2017, eq. 6) and, where it is
    below `-slack`, descends on its opposite alone (algorithm 1, with gamma = 1). A pack without examples of both
    kinds counts nothing: the others' expectation stays the risk. "ratio" is the mean of P[l(g)] and U[l(-g)].
    """
    positive, unlabeled = (weight * mask.astype(weight.dtype) for mask in (observed, ~observed))
    both = (positive.sum() > 0) & (unlabeled.sum() > 0)
    share, hidden, half = (1.0, 0.0, 0.5) if risk == "ratio" else (prior, prior, 1.0)
    attract = half * share * _mean(jax.nn.softplus(-logit), positive)
    repel = half * (_mean(jax.nn.softplus(logit), unlabeled) - hidden * _mean(jax.nn.softplus(logit), positive))
    attract, repel = (jnp.where(both, part, 0) for part in (attract, repel))
    metrics = {"risk_positive": attract, "risk_negative": repel}
    if risk != "non_negative":
        return attract + repel, metrics
    pushed = jnp.where(repel < -slack, -repel, attract + repel)  # has the gradient of algorithm 1
    value = attract + jnp.maximum(repel, 0)
    return pushed + jax.lax.stop_gradient(value - pushed), metrics | {
        "pushed_back": (repel < -slack).astype(value.dtype)
    }


def _mean(values: Array, weight: Array) -> Array:
    return (values * weight).sum() / jnp.maximum(weight.sum(), 1e-6)


def bagged(one: Heads, *, members: int = 4, bootstrap: bool = True, together: int = 1) -> Heads:
    """`members` classifiers, each on its own bootstrap of the crystals: the score is their mean, std their spread.

    Args:
        one: one classifier.
        members: number of classifiers, at least 2.
        bootstrap: whether each weighs the crystals by random draws of its own; without it they differ by initialization
            alone, and each sees all that there is to learn from.
        together: members computed at once; 1 keeps the working set in a CPU's cache, `members` fills an accelerator.

    The spread is what the data leave open given the prior; an error of the prior moves all members alike.
    `ensembles.bootstrap_weights` draws by label and size, which crystals share here; the lattice tells them apart.
    """
    many = ensembles.ensemble(one, members=members, bootstrap=bootstrap, together=together)

    def loss(params: Params, key: Array, pack: Pack, targets: Array, weights: Array | None = None):
        return many.loss(params, key, pack, identified(pack, targets), weights)

    return many._replace(loss=loss)


def identified(pack: Pack, targets: Array) -> Array:
    """Targets with the nine entries of the lattice behind them: (b, k) -> (b, k + 9)."""
    return jnp.concatenate([targets, pack.lattice.reshape(-1, 9).astype(targets.dtype)], -1)


def labeled(dataset: Dataset, column: str) -> np.ndarray:
    """Whether each crystal is known to have been made: (m,) bool.

    Raises:
        ValueError: no such column, a value that is not 1, 0 or missing, or one of the two kinds is absent.
    """
    if column not in dataset.properties:
        raise ValueError(f"property {column!r} is not in the data set, which has {sorted(dataset.properties)}")
    values = dataset.properties[column]
    strange = values[np.isfinite(values) & ~np.isin(values, (0, 1))]
    if len(strange):
        raise ValueError(f"property {column!r}: {strange[0]:g}; expected 1 (made), 0 or missing (both unlabeled)")
    observed = values == 1
    if observed.all() or not observed.any():
        kind = "observed" if observed.all() else "unlabeled"
        raise ValueError(f"property {column!r}: all {len(values)} crystals are {kind}; expected some of both kinds")
    return observed


def check_packs(observed: np.ndarray, crystals: float) -> None:
    """An error where packs of so many crystals hold less than one observed or unlabeled crystal on average."""
    expected = crystals * min(observed.mean(), 1 - observed.mean())
    if expected < 1:
        raise ValueError(
            f"pairs: a pack holds {crystals:.1f} crystals and of these {expected:.2f} of the rarer kind (observed or "
            "unlabeled); expected at least 1: raise pairs, or leave out some of the more frequent kind"
        )


def estimate_share(observed: np.ndarray, unlabeled: np.ndarray, *, delta: float = 0.1) -> float:
    """Share of made crystals among the unlabeled, from scores of crystals that were not trained on.

    The best bin of Garg et al. 2021 (algorithm 1, with their gamma = 0.01): the ratio of the shares above the
    threshold where it is smallest with a margin for sampling error at confidence 1 - `delta`. It needs no prior, but
    errs upwards as far as the best scored of the unlabeled still hold crystals that were never made.
    """
    observed, unlabeled = np.sort(observed), np.sort(unlabeled)
    if not len(observed) or not len(unlabeled):
        raise ValueError(f"estimate_share: {len(observed)} observed, {len(unlabeled)} unlabeled; expected some of both")
    threshold = np.unique(observed)
    above = [1 - np.searchsorted(scores, threshold) / len(scores) for scores in (observed, unlabeled)]
    margin = 1.01 * sum(np.sqrt(np.log(4 / delta) / (2 * len(scores))) for scores in (observed, unlabeled))
    best = np.argmin((above[1] + margin) / above[0])
    return float(min(above[1][best] / above[0][best], 1.0))


def report(score: np.ndarray, observed: np.ndarray, prior: float) -> dict:
    """What held-out data can tell of scores (m,): recall of the observed at 0.5, and shares among the unlabeled."""
    rest = score[~observed]
    return {
        "meaning": meaning(prior),
        "prior": prior,
        "observed": int(observed.sum()),
        "unlabelled": int((~observed).sum()),
        "recall_of_observed": round(float((score[observed] > 0.5).mean()), 4),
        "unlabelled_above_half": round(float((rest > 0.5).mean()), 4),
        "mean_score_of_unlabelled": round(float(rest.mean()), 4),
        "share_by_best_bin": round(estimate_share(score[observed], rest), 4),
    }


def oracle(model: Heads, params: Params, *, prior: float, cost: float = 1e-3) -> Oracle:
    """The scores as an oracle: `batch` takes a stacked `Crystal` and answers (m,); an empty crystal is not valid."""

    @jax.jit
    def batch(crystals: Crystal) -> Estimate:
        said = model.predict(params, batching.pack_stacked(crystals))
        return Estimate(*(leaf[:, 0] for leaf in said))

    return Oracle(SCORE, meaning(prior), cost, batch)


def ask(oracle: Oracle, dataset: Dataset, *, together: int = 64, slots: int | None = None) -> Estimate:
    """What any oracle says of a data set, `together` crystals a call with as many slots each: host arrays (m,).

    `slots`: room for atoms, as many as the largest crystal has unless given: one shape is one compilation.
    """
    slots, rows = slots or int(dataset.num_atoms.max()), datasets.entries(dataset)
    said = []
    for start in range(0, len(rows), together):
        part = rows[start : start + together]
        filled = part + part[-1:] * (together - len(part))  # one shape, one compilation
        answer = oracle.batch(_stacked(filled, slots))
        said.append([np.asarray(leaf)[: len(part)] for leaf in answer])
    return Estimate(*(np.concatenate(leaves) for leaves in zip(*said)))


def _stacked(rows: list[datasets.Entry], slots: int) -> Crystal:
    shape = batching.Capacity(slots, max(slots * (slots - 1) // 2, 1), 1)
    packs = [batching.pack_rows(datasets.from_entries([row]), np.array([0]), shape) for row in rows]
    return Crystal(*(jnp.asarray(np.stack(a)) for a in zip(*((p.occupancy, p.frac, p.lattice[0]) for p in packs))))
