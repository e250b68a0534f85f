"""`python -m flake8_gradtrap` is `gradtrap`."""

from flake8_gradtrap.cli import main

main(prog_name="gradtrap")
