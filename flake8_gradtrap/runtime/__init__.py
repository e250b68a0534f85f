"""The real run: what training steps say about a trap. Needs torch (extra `runtime`); the linter never imports this."""
