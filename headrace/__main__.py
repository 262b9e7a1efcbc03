"""`python -m headrace`."""

from headrace.cli import command

command()
