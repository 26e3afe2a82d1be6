"""A tokenizer for random weights: the real ids of the control tokens, single bytes for text, made-up words elsewhere.

Boundary: files that a published tokenizer has, in its folder. Every id of the vocabulary decodes to some text, so that
whatever a random model picks can be streamed.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from .published import Model


def write(model: Model, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json."""
    controls = dict(model.chat.controls)
    by_id = {number: text for text, number in controls.items()}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {number: f"Ġ{_word(number)}" for number in range(len(alphabet), model.vocabulary)}
    vocabulary = {text: number for number, text in ({**dict(enumerate(alphabet)), **words, **by_id}).items()}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in controls])
    tokenizer.save(str(folder / "tokenizer.json"))
    end = by_id[model.chat.ends[-1]]
    settings = {
        "bos_token": end, "eos_token": end, "pad_token": by_id[model.chat.padding], "unk_token": end,
        "chat_template": model.chat.template, "clean_up_tokenization_spaces": False,
        "model_max_length": model.context, "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")


def _word(number: int) -> str:
    """A number as a pronounceable word, another one for each number."""
    consonants, vowels = "bdfgklmnprstvz", "aeiou"
    word = ""
    while number:
        number, syllable = divmod(number, len(consonants) * len(vowels))
        consonant, vowel = divmod(syllable, len(vowels))
        word += consonants[consonant] + vowels[vowel]
    return word
