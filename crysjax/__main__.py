"""`python -m crysjax`: the command line."""

from crysjax.cli import console

if __name__ == "__main__":
    console()
