"""Answers that take their steps together, as the rows of one tensor, and what the model has read of each.

Rows of different lengths are padded on the left; the mask hides the padding, and positions are counted
from each row's own beginning, so a row's numbers are those it would have alone (up to rounding). Rows come
and go between any two steps. Models whose memory is no list of keys and values (state space models) cannot
share one: each of their answers has a lane of its own. Knows nothing of texts and of how tokens are chosen.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Hashable, Sequence
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
Tensor = Any  # torch.Tensor, which may not be here when this is imported


class Network:
    """A model of the library: one forward call, whatever its `forward` names its parameters.

    With `shares` its caches may be put together as rows. Only then is there a mask: without padding it says
    nothing, and some models that keep no keys and values misread it.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.shares = False
        self._takes = inspect.signature(model.forward).parameters
        self._cache = "past_key_values" if "past_key_values" in self._takes else "cache_params"
        self.vocabulary: int = model.get_input_embeddings().num_embeddings

    def new_cache(self) -> Any:
        """One that is shared keeps whole keys and values, also of layers that look back a few tokens only:
        the mask sees to that."""
        from transformers import DynamicCache

        return DynamicCache() if self.shares else DynamicCache(config=self.model.config)

    def can_share(self) -> bool:
        """Whether its memory is keys and values, a list for each layer."""
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

        layers = DynamicCache(config=self.model.config).layers
        return all(type(layer) in {DynamicLayer, DynamicSlidingWindowLayer} for layer in layers)

    def __call__(self, tokens: Sequence[Sequence[int]], lengths: Sequence[int], cache: Any) -> Tensor:
        """Read the next tokens of each row, of which `lengths` are cached; numbers for the token after."""
        import torch

        device = self.model.device
        ids = torch.tensor(tokens, device=device)
        before = torch.tensor(lengths, device=device)[:, None]
        count, width = ids.shape[1], max(lengths)
        columns = torch.arange(width + count, device=device)[None]
        given = {"position_ids": before + torch.arange(count, device=device)[None], "logits_to_keep": 1}
        if self.shares:
            given["attention_mask"] = (columns >= width - before).long()
        given = {name: value for name, value in given.items() if name in self._takes}
        with torch.inference_mode():
            out = self.model(input_ids=ids, use_cache=True, **{self._cache: cache}, **given)
        return out.logits[:, -1].float().cpu()

    def at_once(self, tokens: Sequence[int]) -> Tensor:
        """The numbers for the token after these, without any cache: what all else is measured by."""
        import torch

        with torch.inference_mode():
            out = self.model(input_ids=torch.tensor([tokens], device=self.model.device), use_cache=False)
        return out.logits[0, -1].float().cpu()


class Lane(Generic[K]):
    """Rows that are stepped together. `keys` says whose they are."""

    def __init__(self, network: Network, key: K, cache: Any, length: int) -> None:
        self._network, self._cache = network, cache
        self.keys: list[K] = [key]
        self._lengths = [length]

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Read one token for each row, in the order of `keys`; a row of numbers each."""
        numbers = self._network([[token] for token in tokens], self._lengths, self._cache)
        self._lengths = [length + 1 for length in self._lengths]
        return numbers

    def join(self, key: K, cache: Any, length: int) -> None:
        """Another row, which has read by itself so far."""
        width = max(length, *self._lengths)
        self._cache = self._merged([(self._cache, max(self._lengths)), (cache, length)], width)
        self.keys.append(key)
        self._lengths.append(length)

    def leave(self, gone: Collection[K]) -> None:
        """Rows that have ended make room; the others move up to what the longest of them needs."""
        stay = [row for row, key in enumerate(self.keys) if key not in gone]
        if len(stay) == len(self.keys):
            return
        self.keys = [self.keys[row] for row in stay]
        self._lengths = [self._lengths[row] for row in stay]
        if stay:
            self._cache = self._selected(stay, max(self._lengths))

    def _merged(self, parts: Sequence[tuple[Any, int]], width: int) -> Any:
        import torch
        from torch.nn.functional import pad

        merged = self._network.new_cache()
        for index, layers in enumerate(zip(*(cache.layers for cache, _ in parts), strict=True)):
            padding = [(0, 0, width - length, 0) for _, length in parts]
            keys = torch.cat([pad(layer.keys, left) for layer, left in zip(layers, padding, strict=True)])
            values = torch.cat([pad(layer.values, left) for layer, left in zip(layers, padding, strict=True)])
            merged.update(keys, values, index)
        return merged

    def _selected(self, rows: Sequence[int], width: int) -> Any:
        selected = self._network.new_cache()
        for index, layer in enumerate(self._cache.layers):
            keys, values = (tensor[rows][:, :, -width:] for tensor in (layer.keys, layer.values))
            selected.update(keys, values, index)
        return selected
