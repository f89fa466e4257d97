"""crysjax: differentiable inverse design of inorganic materials in JAX."""

__version__ = "0.1.0"
