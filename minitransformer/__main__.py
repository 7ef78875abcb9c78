"""`python -m minitransformer` is the command line."""

from minitransformer.cli import main

main()
