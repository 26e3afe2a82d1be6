"""Control tokens, segments and the incremental way back, on tokenizers small enough to write down."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import ByteLevel

from edgephi.runtime.errors import BundleError, RequestError
from edgephi.runtime.tokens import Segment, Tokenizer, read_controls

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def _added(number: int, content: str, **flags: bool) -> dict[str, Any]:
    unset = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": number, "content": content, **unset, **flags}


def _spec(**changes: Any) -> dict[str, Any]:
    """Byte-level BPE of 256 bytes; `merges` would build the control token <c> if they were let."""
    vocab = {character: number for number, character in enumerate(sorted(ByteLevel.alphabet()))}
    vocab |= {"<c": 256, "<c>": 257, "ab": 258}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "normalizer": None,
        "pre_tokenizer": BYTE_LEVEL,
        "post_processor": None,
        "decoder": BYTE_LEVEL,
        "added_tokens": [
            _added(257, "<c>"),
            _added(259, "<left>", lstrip=True),
            _added(260, "<right>", rstrip=True),
            _added(261, "<show>", special=False),
        ],
        "model": {
            "type": "BPE",
            "vocab": vocab,
            "merges": [["<", "c"], ["<c", ">"], ["a", "b"]],
            "byte_fallback": False,
        },
        **changes,
    }


def _open(folder: Path, spec: object) -> Tokenizer:
    (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    return Tokenizer.open(folder)


def test_merges_cannot_build_a_control_token(tmp_path: Path) -> None:
    tokenizer = _open(tmp_path, _spec())
    ids = tokenizer.encode_text("ab<c>")
    assert tokenizer.control_id("<c>") == 257 and 257 not in ids
    assert 258 in ids and 256 in ids and tokenizer.decode(ids) == "ab<c>"
    assert tokenizer.encode_segments([Segment("ab<c>", trusted=True)]) == [258, 257]


def test_a_control_token_across_a_border_of_trust_stays_text(tmp_path: Path) -> None:
    tokenizer = _open(tmp_path, _spec())
    for pieces in (("<", "c>"), ("<c", ">"), ("<c>", "")):
        for trusts in ((True, False), (False, True), (False, False)):
            segments = [Segment(text, trusted=trust) for text, trust in zip(pieces, trusts, strict=True)]
            whole = "<c>" in (segment.text for segment in segments if segment.trusted)
            assert (257 in tokenizer.encode_segments(segments)) is whole
    assert tokenizer.encode_segments([Segment("<", trusted=True), Segment("c>", trusted=True)]) == [257]


def test_control_tokens_swallow_white_space_of_either_trust(tmp_path: Path) -> None:
    tokenizer = _open(tmp_path, _spec())
    segments = [
        Segment("a \n", trusted=False),
        Segment("<left>", trusted=True),
        Segment("  b  ", trusted=False),
        Segment("<right>", trusted=True),
        Segment("\t a", trusted=False),
    ]
    a, space = tokenizer.encode_text("a"), tokenizer.encode_text(" ")
    assert tokenizer.encode_segments(segments) == [
        *a,
        259,
        *space,
        *space,
        *tokenizer.encode_text("b"),
        *space,
        *space,
        260,
        *a,
    ]


def test_text_around_a_border_without_a_control_token_is_one_text(tmp_path: Path) -> None:
    tokenizer = _open(tmp_path, _spec())
    assert tokenizer.encode_segments([Segment("a", trusted=True), Segment("b", trusted=False)]) == [258]


def test_special_tokens_are_skipped_and_visible_ones_shown(tmp_path: Path) -> None:
    tokenizer = _open(tmp_path, _spec())
    assert tokenizer.decode([257, 258, 261]) == "ab<show>"
    assert tokenizer.decode([257, 258, 261], skip_special=False) == "<c>ab<show>"


def test_ids_without_a_name_show_and_negative_ones_are_refused(tmp_path: Path) -> None:
    tokenizer = _open(tmp_path, _spec())
    assert tokenizer.decode([300, 1 << 40, 258]) == "\ufffd\ufffdab"
    with pytest.raises(RequestError, match="negative"):
        tokenizer.decode([-1])


def test_bytes_that_never_become_a_character_show_at_the_end(tmp_path: Path) -> None:
    tokenizer = _open(tmp_path, _spec())
    detokenizer = tokenizer.detokenizer()
    assert [detokenizer.push(token) for token in tokenizer.encode_text("€")[:2]] == ["", ""]
    assert detokenizer.flush() == "\ufffd"


@settings(max_examples=200, deadline=None, derandomize=True)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back_character_by_character(text: str) -> None:
    tokenizer = Tokenizer(_spec(), "tokenizer.json")
    ids = tokenizer.encode_text(text)
    assert not tokenizer.control_ids & set(ids)
    detokenizer = tokenizer.detokenizer()
    assert "".join(map(detokenizer.push, ids)) == text
    assert detokenizer.flush() == ""


def _sentencepiece(**changes: Any) -> dict[str, Any]:
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "a", "b", "\u2581a"]
    decoders = [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    return (
        _spec(
            pre_tokenizer={"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False},
            decoder={"type": "Sequence", "decoders": decoders},
            added_tokens=[_added(300, "<c>")],
            model={
                "type": "BPE",
                "vocab": {piece: number for number, piece in enumerate(pieces)},
                "merges": [["\u2581", "a"]],
                "byte_fallback": True,
                "unk_token": "<unk>",
                "fuse_unk": True,
            },
        )
        | changes
    )


def test_only_the_first_word_of_a_prompt_gets_a_space(tmp_path: Path) -> None:
    tokenizer = _open(tmp_path, _sentencepiece())
    start, letter = 260, 258
    assert tokenizer.encode_segments([Segment("a<c>a", trusted=True)]) == [start, 300, letter]
    assert tokenizer.encode_segments([Segment("<c>a", trusted=True)]) == [300, letter]


def test_sentencepiece_drops_the_first_space_only_and_joins_bytes(tmp_path: Path) -> None:
    tokenizer = _open(tmp_path, _sentencepiece())
    ids = tokenizer.encode_text("a €a ")
    detokenizer = tokenizer.detokenizer()
    pieces = [*map(detokenizer.push, ids), detokenizer.flush()]
    assert "".join(pieces) == "a €a " and "€" in pieces


def test_a_panic_of_the_library_is_an_error_of_ours(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    exponential = {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": False}
    tokenizer = _open(tmp_path, _spec(pre_tokenizer={"type": "Sequence", "pretokenizers": [exponential, BYTE_LEVEL]}))
    with pytest.raises(RequestError, match=r"gave up .*retry-limit"):
        tokenizer.encode_text("x" * 60)


def test_half_a_surrogate_pair_is_named(tmp_path: Path) -> None:
    tokenizer = _open(tmp_path, _spec())
    with pytest.raises(RequestError, match=r"U\+D83D at character 2"):
        tokenizer.encode_text("ab\ud83d")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"model": 1}',
        "{" * 100_000,
        '{"model": {"type": "none"}}',
        '{"model": {"type": "BPE"}, "added_tokens": [{"id": 1}]}',
        "\x00",
        '{"model": {"type": "BPE", "vocab": [1], "merges": []}}',
        '{"model": {"type": "BPE", "vocab": {}, "merges": [1]}}',
        '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}',
        '{"model": {"type": "BPE", "vocab": {"a": "0"}, "merges": []}}',
        '{"model": {"type": "BPE", "vocab": {}, "merges": [], "fuse_unk": 7}}',
        '{"model": {"type": "BPE", "vocab": {}, "merges": []}, "pre_tokenizer": "ByteLevel"}',
    ],
)
def test_a_damaged_tokenizer_is_a_bundle_error_in_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(BundleError, match=r"tokenizer\.json") as caught:
        Tokenizer.open(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_tokenizer_is_a_bundle_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        Tokenizer.open(tmp_path)


def test_a_decoder_that_cannot_be_streamed_is_refused(tmp_path: Path) -> None:
    tokenizer = _open(tmp_path, _spec(decoder={"type": "WordPiece", "prefix": "##", "cleanup": True}))
    with pytest.raises(BundleError, match="WordPiece"):
        tokenizer.decode([258])


def test_the_tiny_checkpoint_reads_the_same_controls(tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("mini")
    assert read_controls(folder) == Tokenizer.open(folder).controls >= {"<|user|>", "<|tool_call|>"}
