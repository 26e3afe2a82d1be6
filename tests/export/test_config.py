"""config.json and generation_config.json: asked for by name and type, nothing guessed, nothing run."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgephi import ConfigMismatch
from edgephi.export.config import ConfigReader, read_config, read_generation
from edgephi.export.families import find, for_architecture
from edgephi.runtime.errors import UnsupportedModel
from edgephi.runtime.manifest import RecommendedSampling, Tokens

phi3: Any = find("phi3")


def reader(values: Mapping[str, Any]) -> ConfigReader:
    return ConfigReader(Path("config.json"), values)


def test_types_are_exact() -> None:
    raw = reader({"n": 3, "x": 0.5, "yes": True, "name": "a", "none": None, "list": [1], "huge": 2**60})
    assert raw.require("n", int) == 3 and raw.require("x", float) == 0.5 and raw.require("n", float) == 3.0
    assert raw.optional("none", int, 7) == 7 and raw.optional("absent", int, 7) == 7
    assert raw.optional_list("n") == (3,) and raw.optional_list("list") == (1,) and raw.optional_list("none") == ()
    wrong = (("yes", int), ("x", int), ("n", str), ("name", float), ("yes", float), ("huge", int), ("n", bool))
    for key, kind in wrong:
        with pytest.raises(ConfigMismatch, match=f"{key} is .*{kind.__name__} is needed"):
            raw.optional(key, kind, None)
    with pytest.raises(ConfigMismatch, match="absent is missing, a int is needed"):
        raw.require("absent", int)


def test_expect_names_what_is_implemented() -> None:
    raw = reader({"hidden_act": "gelu", "flag": 1})
    with pytest.raises(ConfigMismatch, match="hidden_act is 'gelu', this family implements 'silu' or 'swish'"):
        raw.expect("hidden_act", "silu", "swish")
    with pytest.raises(ConfigMismatch, match="flag is 1"):
        raw.expect("flag", True)
    raw.expect("absent", False, default=False)


def test_unread_keys_are_reported_with_their_section() -> None:
    raw = reader({"a": 1, "b": 2, "inner": {"c": 3, "d": 4}, "other": {"e": 5}})
    raw.require("a", int)
    inner = raw.section("inner")
    assert inner is not None and raw.section("inner") is inner and raw.section("nothing") is None
    inner.ignore("c")
    assert raw.unread() == ("b", "inner.d", "other")


@pytest.mark.parametrize(("text", "found"), [
    ("", "JSON"), ("[]", "object"), ("[" * 200_000, "JSON"), ('{"hidden_size": 1e400}', "does not fit"),
    ('{"a": NaN}', "NaN"), ('{"a": -Infinity}', "Infinity"), ('{"a": 1, "a": 2}', "twice"),
    ('{"a":' * 70 + "1" + "}" * 70, "nested"), ('{"a": ' + "9" * 5000 + "}", "JSON"), ('{"a": "\x1b"}', "JSON"),
])
def test_a_file_that_is_no_strict_json(tmp_path: Path, text: str, found: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigMismatch, match=found) as caught:
        read_config(path)
    assert str(path) in str(caught.value) and str(caught.value).isprintable()


def test_a_file_that_is_missing_or_too_large(tmp_path: Path) -> None:
    with pytest.raises(ConfigMismatch, match="cannot be read"):
        read_config(tmp_path / "config.json")
    (tmp_path / "config.json").write_bytes(b" " * (9 << 20))
    with pytest.raises(ConfigMismatch, match="larger than"):
        read_config(tmp_path / "config.json")


@pytest.mark.parametrize("architectures", [None, [], ["A", "B"], "Phi3ForCausalLM", [3]])
def test_exactly_one_architecture(architectures: object) -> None:
    with pytest.raises(ConfigMismatch, match="architectures"):
        reader({"architectures": architectures}).architecture()


def test_an_unknown_architecture_names_those_that_exist() -> None:
    with pytest.raises(UnsupportedModel, match=r"LlamaForCausalLM.*Phi3ForCausalLM"):
        for_architecture("LlamaForCausalLM")


@pytest.mark.parametrize("name", [
    "Phi-4-mini-instruct", "Phi-4-mini-reasoning", "phi-4", "Phi-4-reasoning", "Phi-4-reasoning-plus",
    "Phi-3.5-mini-instruct", "Phi-3-mini-4k-instruct",
])
def test_a_published_configuration_is_read_completely(
    published: Mapping[str, Mapping[str, Any]], name: str
) -> None:
    values = published[name]
    raw = reader(values)
    assert raw.architecture() == "Phi3ForCausalLM"
    config = phi3.read(raw)
    assert raw.unread() == ()
    assert (config.vocabulary, config.hidden, config.layers) == (
        values["vocab_size"], values["hidden_size"], values["num_hidden_layers"],
    )
    assert (config.heads, config.kv_heads) == (values["num_attention_heads"], values["num_key_value_heads"])
    assert config.head_dim == values["hidden_size"] // values["num_attention_heads"]
    assert config.context_length == values["max_position_embeddings"]
    assert config.rope.theta == values["rope_theta"] and config.tied == values["tie_word_embeddings"]
    assert config.sliding_window == (2047 if name == "Phi-3-mini-4k-instruct" else None)
    assert config.rope.rotary_dim == int(config.head_dim * values.get("partial_rotary_factor", 1.0))
    assert (config.rope.long_factor is None) == (values["rope_scaling"] is None)
    # √(1 + ln 32 / ln 4096), which the reports of both LongRoPE models round to 1.19
    assert config.rope.attention_factor == pytest.approx(1.0 if values["rope_scaling"] is None else 1.1902380714, 1e-9)


def test_the_shared_configuration_is_the_restated_one(published: Mapping[str, Mapping[str, Any]]) -> None:
    path = shared_data() / "phi-4-mini" / "config.json"
    if not path.is_file():
        pytest.skip(f"the published config.json is not beside the repository ({path})")
    assert json.loads(path.read_text()) == published["Phi-4-mini-instruct"]


def shared_data() -> Path:
    import os

    return Path(os.environ.get("EDGEPHI_SHARED_DATA") or Path(__file__).parents[2].parent / "shared" / "data")


def respelled(values: Mapping[str, Any], **inner: Any) -> dict[str, Any]:
    """The same settings as transformers 5 saves them."""
    scaling = dict(values["rope_scaling"] or {"rope_type": "default"})
    block = {
        "rope_type": scaling.pop("type", "default"), "rope_theta": values["rope_theta"],
        "partial_rotary_factor": values.get("partial_rotary_factor", 1.0), **scaling, **inner,
    }
    gone = ("rope_theta", "rope_scaling", "partial_rotary_factor", "torch_dtype")
    return {key: value for key, value in values.items() if key not in gone} | {
        "rope_parameters": block, "dtype": "bfloat16",
    }


@pytest.mark.parametrize("name", ["Phi-4-mini-instruct", "phi-4", "Phi-3.5-mini-instruct", "Phi-3-mini-4k-instruct"])
def test_both_spellings_of_rope_mean_the_same(published: Mapping[str, Mapping[str, Any]], name: str) -> None:
    older, newer = reader(published[name]), reader(respelled(published[name], type="longrope"))
    assert phi3.read(newer) == phi3.read(older)
    assert newer.unread() == ()


def test_what_transformers_saves_is_read(published: Mapping[str, Mapping[str, Any]], tmp_path: Path) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import Phi3Config

        for name, values in published.items():
            Phi3Config.from_dict(copy.deepcopy(dict(values))).save_pretrained(tmp_path)
            saved = read_config(tmp_path / "config.json")
            assert phi3.read(saved) == phi3.read(reader(values)), name


@pytest.mark.parametrize(("change", "found"), [
    ({"hidden_act": "gelu"}, "hidden_act"), ({"attention_bias": True}, "attention_bias"),
    ({"hidden_size": 3073}, "do not divide"), ({"num_key_value_heads": 7}, "must divide heads"),
    ({"rope_scaling": {"type": "yarn", "factor": 4}}, "rope type is 'yarn'"),
    ({"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 47, "long_factor": [1.0] * 48}}, "48 positive"),
    ({"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [0.0] * 48}}, "48 positive"),
    ({"rope_scaling": {"type": "longrope", "short_factor": ["1"] * 48, "long_factor": [1] * 48}}, "48 positive"),
    ({"rope_scaling": {"type": "longrope"}}, "short_factor is missing"),
    ({"partial_rotary_factor": 0.0}, "rotary dimensions"),
    ({"rope_scaling": None, "partial_rotary_factor": 0.1}, "multiples of 16"),
    ({"vocab_size": True}, "vocab_size"), ({"rms_norm_eps": "1e-5"}, "rms_norm_eps"),
    ({"num_hidden_layers": None}, "num_hidden_layers is missing"), ({"hidden_size": 10**20}, "hidden_size"),
    ({"model_type": "phi4flash"}, "model_type"), ({"full_attn_mod": 2}, "full_attn_mod"),
    ({"num_hidden_layers": 0}, "num_hidden_layers"), ({"vocab_size": -1}, "vocab_size"),
    ({"num_attention_heads": 0}, "num_attention_heads"), ({"sliding_window": 0}, "sliding_window"),
    ({"max_position_embeddings": 10**9}, "max_position_embeddings"),
])
def test_what_the_family_does_not_implement_is_refused(
    published: Mapping[str, Mapping[str, Any]], change: dict[str, Any], found: str
) -> None:
    with pytest.raises(ConfigMismatch, match=found) as caught:
        phi3.read(reader(dict(published["Phi-4-mini-instruct"]) | change))
    assert str(caught.value).startswith("config.json: ") and str(caught.value).isprintable()


def test_code_named_by_a_configuration_is_never_imported(
    published: Mapping[str, Mapping[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "configuration_phi3.py").write_text("raise SystemExit('imported')")
    values = dict(published["Phi-4-mini-instruct"]) | {
        "_attn_implementation_internal": "configuration_phi3", "trust_remote_code": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(values))
    seen: list[str] = []
    active = True

    def watch(event: str, _: tuple[Any, ...]) -> None:
        if active and event in ("socket.connect", "subprocess.Popen", "os.system", "exec"):
            seen.append(event)

    sys.addaudithook(watch)
    raw = read_config(tmp_path / "config.json")
    phi3.read(raw)
    active = False
    assert not seen and "configuration_phi3" not in sys.modules
    assert raw.unread() == ("_attn_implementation_internal", "trust_remote_code")


def generation(folder: Path, config: dict[str, Any], own: dict[str, Any] | None) -> tuple[Tokens, RecommendedSampling]:
    (folder / "config.json").write_text(json.dumps(config))
    if own is not None:
        (folder / "generation_config.json").write_text(json.dumps(own))
    found = read_generation(folder, 300, (20,))
    return found.tokens, found.sampling


def test_generation_settings(tmp_path: Path) -> None:
    tokens, sampling = generation(tmp_path, {"eos_token_id": 99, "bos_token_id": 1}, {
        "eos_token_id": [200, 199, 200], "pad_token_id": 199, "do_sample": True, "temperature": 0.8, "top_p": 0.95,
        "top_k": 50, "transformers_version": "4.45.0",
    })
    assert tokens == Tokens(bos=1, eos=(200, 199), pad=199)
    assert sampling == RecommendedSampling(do_sample=True, temperature=0.8, top_k=50, top_p=0.95)


def test_without_generation_settings_the_end_of_a_turn_stops_too(tmp_path: Path) -> None:
    tokens, sampling = generation(tmp_path, {"eos_token_id": 99, "pad_token_id": None}, None)
    assert tokens == Tokens(bos=None, eos=(99, 20), pad=None) and sampling == RecommendedSampling()


@pytest.mark.parametrize("own", [
    {"eos_token_id": [300]}, {"eos_token_id": [-1]}, {"eos_token_id": "2"}, {"eos_token_id": [True]},
    {"eos_token_id": 2, "temperature": -1}, {"eos_token_id": 2, "top_p": 1.5}, {"eos_token_id": 2, "top_k": -2},
    {"eos_token_id": 2, "do_sample": "yes"}, {},
])
def test_generation_settings_that_mean_nothing(tmp_path: Path, own: dict[str, Any]) -> None:
    with pytest.raises(ConfigMismatch):
        generation(tmp_path, {}, own)
