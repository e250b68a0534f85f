"""gradtrap finds the bugs that let a PyTorch training run finish and teach the model nothing."""

__version__ = "0.1.0"
