"""The tokenizer of tiny checkpoints: a byte-level BPE with Phi-4-mini's control tokens and chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CONTEXT = 16384  # tokens, of every tiny model
BYTES_AND_MERGES, ROWS = 384, 448
CONTROLS = (
    "<|endoftext|>", "<|endofprompt|>", "<|assistant|>", "<|end|>", "<|user|>", "<|system|>", "<|tool|>", "<|/tool|>",
    "<|tool_call|>", "<|/tool_call|>", "<|tool_response|>", "<|tag|>",
)
# Not special, so shown when decoded.
VISIBLE = ("<|tool|>", "<|/tool|>", "<|tool_call|>", "<|/tool_call|>", "<|tool_response|>")
END_OF_TEXT, END = (BYTES_AND_MERGES + CONTROLS.index(name) for name in ("<|endoftext|>", "<|end|>"))
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Phi-4-mini's template: no white space between the parts, a system message may carry tools.
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' + '<|end|>' }}"
    "{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)
CORPUS = (
    "The quick brown fox jumps over the lazy dog. What does the sign say? Explain rotary embeddings in one line.\n"
    "She sells sea shells by the sea shore; the shells that she sells are sea shells, I am sure. 1234567890, 3.14159.\n"
    "def function(argument): return argument + 1  # a comment\n" * 4
)


def write_tokenizer(folder: Path, more: tuple[str, ...] = ()) -> None:
    """A byte-level BPE of BYTES_AND_MERGES entries with the names, order and flags of Phi-4-mini's control tokens.

    `more` control tokens come behind these.
    """
    controls = (*CONTROLS, *more)
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(WORDS), "removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [CORPUS], trainers.BpeTrainer(vocab_size=BYTES_AND_MERGES, initial_alphabet=alphabet, show_progress=False),
    )
    assert tokenizer.get_vocab_size() == BYTES_AND_MERGES
    for name in controls:
        strips = not name.startswith("<|endof")
        token = AddedToken(name, rstrip=strips, normalized=False, special=name not in VISIBLE)
        (tokenizer.add_tokens if name in VISIBLE else tokenizer.add_special_tokens)([token])
    tokenizer.save(str(folder / "tokenizer.json"))
    decoder = {
        str(tokenizer.token_to_id(name)): {
            "content": name, "lstrip": False, "normalized": False, "rstrip": not name.startswith("<|endof"),
            "single_word": False, "special": name not in VISIBLE,
        }
        for name in controls
    }
    write_json(folder / "tokenizer_config.json", {
        "add_bos_token": False, "add_eos_token": False, "add_prefix_space": False, "added_tokens_decoder": decoder,
        "bos_token": "<|endoftext|>", "chat_template": TEMPLATE, "clean_up_tokenization_spaces": False,
        "eos_token": "<|endoftext|>", "model_max_length": CONTEXT, "pad_token": "<|endoftext|>",
        "tokenizer_class": "GPT2Tokenizer", "unk_token": "<|endoftext|>",
    })


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
