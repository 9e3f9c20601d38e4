"""Faults on purpose, and the proof that nothing was lost: histories, their checker, and who stages them."""
