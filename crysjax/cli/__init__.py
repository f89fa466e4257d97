"""The command line. Names become factories here and nowhere else; heavy imports wait until a command needs them."""

from crysjax.cli.app import main

__all__ = ["main"]
