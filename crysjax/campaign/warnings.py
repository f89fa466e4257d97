"""What a campaign should make its reader wary of: did the validated values keep what the predictions promised?"""

from __future__ import annotations

import numpy as np

from crysjax.campaign import outside
from crysjax.campaign.goals import Goals
from crysjax.campaign.outcomes import Outcomes
from crysjax.evaluation.failures import detectors
from crysjax.evaluation.failures.detectors import Finding

FEWEST = 10  # validated candidates below which nothing can be told


def warnings(
    outcomes: Outcomes, goals: Goals, far: dict[str, tuple[float, bool]] | None = None, limit: float = np.inf
) -> list[Finding]:
    """Candidates outside the training data, and miscalibration of each target property, among those validated.

    `far`: candidate -> novelty and whether it is beyond the heads' `limit` (`campaign.outside`). Candidates were chosen
    for their predictions. Error is validated minus predicted, the std that of the predictive law: it is the law of the
    validated value.
    """
    ids = [] if outcomes.crystals is None else outcomes.crystals.ids.tolist()
    found = outside.warning(ids, far or {}, limit)
    for k, name in enumerate(goals.names):
        error = outcomes.validated[:, k] - outcomes.predicted[:, k]
        std = outcomes.predicted_std[:, k]
        known = np.isfinite(error) & (std > 0)
        if known.sum() >= FEWEST:
            said = detectors.miscalibration(error[known], std[known])
            found.append(said._replace(name=f"miscalibration of {name}", worst=np.flatnonzero(known)[said.worst]))
    return found
