"""`python -m ssmpress` is the command `compress`."""

from ssmpress.cli.compress import main

if __name__ == "__main__":
    main()
