"""Ours on open links, which no process of the product has: beside peers that do not encrypt either."""

from __future__ import annotations

from benchmarks.side_by_side import cell, ours


def serve() -> None:
    ours.serve(is_open=True)


if __name__ == "__main__":
    cell.main(serve, ours.echo, ours.stream)
