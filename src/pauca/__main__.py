"""`python -m pauca`: the command line, where the script `pauca` is not on the path."""

from pauca.cli import run

if __name__ == "__main__":
    run()
