"""`python -m openloopy`, also under torchrun."""

from openloopy.apps.cli import main

main()
