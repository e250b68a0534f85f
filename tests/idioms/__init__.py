"""Correct training programs in quantity: every way to write a step, times every other."""
