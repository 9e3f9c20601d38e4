"""A causal language model of a few kilobytes with random weights, and its tokenizer, made in a folder.

The tokenizer works on bytes, as GPT-2's does, with some merges, so that tokens are parts of characters,
characters and words with a leading space. What the model says is noise, but always the same noise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

CONTEXT = 256
TEMPLATE = (
    "{% for message in messages %}{% if message.role not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('no such role: ' + message.role) }}{% endif %}"
    "<|{{ message.role }}|>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TEXTS = [
    "the cat sat on the mat and the dog sat on the cat",
    "one two three four five six seven eight nine ten",
    "a kitten naps by the window while the rain falls on the roof",
    "größer, naïve, déjà vu, smörgåsbord",
    "日本語のテキスト、猫が窓辺で眠る",
]
SPECIAL = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]


def make_tokenizer(*, template: bool = True) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", bos_token="<|end|>")
    fast.chat_template = TEMPLATE if template else None
    return fast


def make_network(vocabulary: int, kind: str = "llama") -> Any:
    """A model with random weights: `llama`, `gpt2`, `mistral` (which looks back 8 tokens) or `mamba`, which
    has no keys and values."""
    import torch
    import transformers as library

    small = {"hidden_size": 48, "num_hidden_layers": 2, "vocab_size": vocabulary}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}
    context = {"max_position_embeddings": CONTEXT}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    configs = {
        "llama": lambda: library.LlamaConfig(**small, **heads, **context, **ends),
        "mistral": lambda: library.MistralConfig(**small, **heads, **context, **ends, sliding_window=8),
        "gpt2": lambda: library.GPT2Config(
            vocab_size=vocabulary, n_embd=48, n_layer=2, n_head=4, n_positions=CONTEXT, **ends
        ),
        "mamba": lambda: library.MambaConfig(**small, **ends),
    }
    torch.manual_seed(7)
    model = library.AutoModelForCausalLM.from_config(configs[kind]())
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.mul_(4)  # so that what is likeliest is so by more than a rounding
    return model.eval()


def make_model(
    folder: Path, kind: str = "llama", *, template: bool = True, generation: dict[str, Any] | None = None
) -> Path:
    """The files of a model and its tokenizer, as `--model` takes them."""
    tokenizer = make_tokenizer(template=template)
    tokenizer.save_pretrained(folder)
    model = make_network(len(tokenizer), kind)
    model.generation_config.update(**(generation or {}))
    model.save_pretrained(folder)
    return folder
