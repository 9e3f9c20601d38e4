"""Servers of models that others wrote: where they may be, which they are, and a search for them."""
