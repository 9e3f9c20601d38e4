"""The racks that come with the product: worker processes, each in front of a model. One file a kind.

A rack builds on `wrk_base` alone; it meets orchestrators on the wire only. Nothing is imported here,
so that one kind's libraries never slow down or break another.
"""
