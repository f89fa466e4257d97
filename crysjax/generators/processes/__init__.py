"""The processes by name: one a field, which says how positions, lattices or species are noised and denoised.

Diffusion, flow matching, stochastic interpolants and discrete diffusion differ in a `Process` only.
"""

from __future__ import annotations

from crysjax.generators.processes.diffusions import euclidean_diffusion, euclidean_edm, torus_diffusion, torus_edm
from crysjax.generators.processes.discrete import discrete_flow
from crysjax.generators.processes.flows import euclidean_flow, simplex_flow, torus_flow
from crysjax.generators.processes.interpolants import euclidean_interpolant, torus_interpolant

POSITIONS = {"flow": torus_flow, "diffusion": torus_diffusion, "edm": torus_edm, "interpolant": torus_interpolant}
LATTICE = {
    "flow": euclidean_flow,
    "diffusion": euclidean_diffusion,
    "edm": euclidean_edm,
    "interpolant": euclidean_interpolant,
}
SPECIES = {"simplex": simplex_flow, "discrete": discrete_flow}
