"""Which beginnings of prompts a simulated model still has in its memory. Pure.

Servers keep what they computed of a prompt in blocks of tokens, each known by a hash of itself and of all
before it, so that a prompt which begins like an earlier one starts where they part. This does the same with
blocks of characters: the longest known beginning counts, a last block that is not full never does, and the
block unused for longest goes first. The invariant: no block stays whose predecessor has gone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from hashlib import blake2b

BLOCK = 64  # characters: some sixteen tokens, which is the block of vLLM
DIGEST = 16  # bytes; blocks that are taken for one another would be a wrong count, no more


class PrefixCache:
    """At most `size` blocks; with 0 nothing is ever found. `asked` and `hits` count blocks."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.asked = 0
        self.hits = 0
        self._blocks: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def take(self, prompt: str) -> int:
        """How many characters of `prompt` need no computing; from now on, all of its blocks are known."""
        whole = len(prompt) // BLOCK
        # Further blocks would only push out their own beginning.
        chain = list(_chain(prompt, min(whole, self.size)))
        found = next((at for at, block in enumerate(chain) if block not in self._blocks), len(chain))
        self.asked += whole
        self.hits += found
        self._remember(chain)
        return found * BLOCK

    def _remember(self, chain: list[bytes]) -> None:
        for block in reversed(chain):  # the beginning is the youngest, and outlives what follows it
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self.size:
            self._blocks.popitem(last=False)


def _chain(prompt: str, blocks: int) -> Iterator[bytes]:
    before = b""
    for at in range(0, blocks * BLOCK, BLOCK):
        text = prompt[at : at + BLOCK].encode(errors="surrogatepass")
        before = blake2b(before + text, digest_size=DIGEST).digest()
        yield before
