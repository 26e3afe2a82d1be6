"""Makes the demo's tokenizer: byte-level BPE with Phi-4-mini's control tokens, flags and chat format.

Merges come in three groups. First every syllable of the tasks' coined words, then a space before each of them and
before each letter, so that a word splits alike at the start of an answer and inside a sentence; the rest is learned
from text by byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from .tasks.source import SYLLABLES

END_OF_TEXT, END, ASSISTANT = "<|endoftext|>", "<|end|>", "<|assistant|>"
TOOL_MARKS = ("<|tool|>", "<|/tool|>", "<|tool_call|>", "<|/tool_call|>", "<|tool_response|>")
IMAGE, AUDIO = "<|endoftext10|>", "<|endoftext11|>"  # places of pictures and recordings in the multimodal format
PLAIN = (END_OF_TEXT, IMAGE, AUDIO, "<|endofprompt|>")
ROLES = (ASSISTANT, END, "<|user|>", "<|system|>", *TOOL_MARKS, "<|tag|>")
ADDED = (*PLAIN, *ROLES)

VOCABULARY_ROWS = 2048
UNUSED_ROWS = 8  # published checkpoints have some too
LEARNED_FROM = 12  # pieces of text rarer than this teach no merge: they are the coined words

SPACE = "Ġ"  # the byte-level alphabet's sign for a space
# a word with the space before it | one digit | punctuation with the space before it | line ends | other white space
PIECES = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"

CHAT_TEMPLATE = """\
{%- if tools and messages[0]['role'] != 'system' -%}<|system|><|tool|>{{ tools | tojson }}<|/tool|><|end|>{%- endif -%}
{%- for message in messages -%}
{%- set content = message['content'] or '' -%}
{%- set offered = message['tools'] or (tools if loop.first else none) -%}
{%- if message['role'] == 'system' and offered -%}
<|system|>{{ content }}<|tool|>{{ offered if offered is string else offered | tojson }}<|/tool|><|end|>
{%- elif message['role'] == 'tool' -%}
<|tool_response|>{{ content }}<|end|>
{%- elif message['tool_calls'] -%}
<|assistant|>{{ content }}<|tool_call|>[
{%- for call in message['tool_calls'] -%}
{%- set arguments = call['function']['arguments'] -%}
{%- set written = arguments if arguments is string else arguments | tojson -%}
{"name": {{ call['function']['name'] | tojson }}, "arguments": {{ written }}}
{%- if not loop.last %}, {% endif -%}
{%- endfor -%}
]<|/tool_call|><|end|>
{%- else -%}
{{ '<|' + message['role'] + '|>' }}{{ content }}<|end|>
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- else -%}{{ eos_token }}{%- endif -%}
"""


def token_id(token: str) -> int:
    """Id of a control token: they fill the rows below the unused ones, in the order of ADDED."""
    return VOCABULARY_ROWS - UNUSED_ROWS - len(ADDED) + ADDED.index(token)


def make(texts: Iterable[str]) -> Tokenizer:
    """Learn the tokenizer from texts without control tokens. Equal texts give equal tokenizers."""
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    counts = Counter(piece for text in texts for piece, _ in splitter.pre_tokenize_str(text))
    known = {piece: count for piece, count in counts.items() if count >= LEARNED_FROM}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = learn(known, fixed_merges(), token_id(ADDED[0]) - len(alphabet))
    vocabulary = [*alphabet, *(left + right for left, right in merges)]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(vocabulary)}, merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = splitter, decoders.ByteLevel()
    for token in ADDED:
        (tokenizer.add_tokens if token in TOOL_MARKS else tokenizer.add_special_tokens)([_added(token)])
    return tokenizer


def fixed_merges() -> list[tuple[str, str]]:
    """Syllables small and capitalized, then a space before each and before every letter."""
    syllables = [*SYLLABLES, *(syllable.capitalize() for syllable in SYLLABLES)]
    letters = [chr(code + shift) for code in (ord("a"), ord("A")) for shift in range(26)]
    return [
        *((syllable[0], syllable[1]) for syllable in syllables),
        *((SPACE, piece) for piece in (*syllables, *letters)),
    ]


def learn(counts: Mapping[str, int], fixed: list[tuple[str, str]], size: int) -> list[tuple[str, str]]:
    """`size` merges: the fixed ones, then always the most frequent pair of neighbours; ties go by the alphabet."""
    merges = list(fixed)
    pieces = {piece: list(piece) for piece in sorted(counts)}
    for pair in fixed:
        for piece in pieces:
            pieces[piece] = _merged(pieces[piece], pair)
    made = {left + right for left, right in merges}
    while len(merges) < size:
        pairs: Counter[tuple[str, str]] = Counter()
        for piece, symbols in pieces.items():
            for pair in pairwise(symbols):
                pairs[pair] += counts[piece]
        if not pairs:
            raise ValueError(f"the texts give {len(merges)} merges, {size} are needed: give more texts")
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        for piece, symbols in pieces.items():
            pieces[piece] = _merged(symbols, best)
        if "".join(best) not in made:
            made.add("".join(best))
            merges.append(best)
    return merges


def write(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json, special_tokens_map.json and chat_template.jinja."""
    tokenizer.save(str(folder / "tokenizer.json"))
    flags = {
        str(token_id(token)): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": token in ROLES,
            "single_word": False,
            "special": token not in TOOL_MARKS,
        }
        for token in ADDED
    }
    named = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), END_OF_TEXT)
    settings = {
        "add_bos_token": False,
        "add_eos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": flags,
        **named,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    for name, content in (("tokenizer_config.json", settings), ("special_tokens_map.json", named)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def _added(token: str) -> AddedToken:
    return AddedToken(
        token, single_word=False, lstrip=False, rstrip=token in ROLES, normalized=False, special=token not in TOOL_MARKS
    )


def _merged(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    """The symbols with every occurrence of the pair joined, from the left."""
    if pair[0] not in symbols:
        return symbols
    joined: list[str] = []
    position = 0
    while position < len(symbols):
        if tuple(symbols[position : position + 2]) == pair:
            joined.append("".join(pair))
            position += 2
        else:
            joined.append(symbols[position])
            position += 1
    return joined
