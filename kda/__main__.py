"""`python -m kda` is `kda`."""

from kda.cli import main

if __name__ == "__main__":
    main()
