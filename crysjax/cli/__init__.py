"""The command line. Names become factories here and nowhere else; heavy imports wait until a command needs them."""

from crysjax.cli.app import main
from crysjax.cli.compiled import keep_compiled

__all__ = ["console", "main"]


def console() -> None:
    """The command `crysjax`: `main` in a process of its own, whose compiled programs are kept."""
    keep_compiled()
    main()
