"""The abstract run: source is executed on abstract values, and emits events."""
