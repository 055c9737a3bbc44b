"""`python -m secondlook.edge`: the same as the command `secondlook-edge`."""

from .cli import main

if __name__ == "__main__":
    main()
