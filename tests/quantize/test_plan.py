"""Which format each role gets at each precision, and what happens to shapes that do not fit."""

from __future__ import annotations

import pytest

from edgephi.quantize.formats import BlockFormat, FloatFormat, Format, ScreenedFormat
from edgephi.quantize.plan import PRECISIONS, PRESETS, SCREENING, Role, Weight, plan

FLOAT32, FLOAT16 = FloatFormat("float32"), FloatFormat("float16")
INT8, LORA = BlockFormat(8, 128, symmetric=True), BlockFormat(8, 64, symmetric=True)


def chosen(role: Role, shape: tuple[int, ...], precision: str = "int4", preset: str = "balanced") -> Format:
    return plan([Weight("w", shape, role)], precision, preset)["w"]


@pytest.mark.parametrize(("preset", "size"), [("fast", 256), ("balanced", 64), ("quality", 32)])
def test_presets_choose_the_block_of_the_body(preset: str, size: int) -> None:
    assert chosen("linear", (3072, 8192), "int4", preset) == BlockFormat(4, size)
    assert PRESETS[preset] == size


@pytest.mark.parametrize("role", ["head", "tied", "embedding", "encoder"])
@pytest.mark.parametrize("precision", ["int4", "int8"])
@pytest.mark.parametrize("preset", list(PRESETS))
def test_what_makes_or_breaks_quality_is_int8(role: Role, precision: str, preset: str) -> None:
    assert chosen(role, (1000, 3072), precision, preset) == INT8


def test_int8_and_floats() -> None:
    assert chosen("linear", (3072, 3072), "int8", "quality") == INT8
    assert chosen("lora", (3072, 320), "int4") == chosen("lora", (320, 3072), "int8") == LORA
    for role in ("linear", "head", "tied", "embedding", "encoder", "lora"):
        assert chosen(role, (64, 64), "fp16") == FLOAT16
        assert chosen(role, (64, 64), "fp32") == FLOAT32


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", [(3072,), (4096, 48), (1152, 3, 14, 14)])
def test_norms_tables_and_convolutions_stay_float32(precision: str, shape: tuple[int, ...]) -> None:
    assert chosen("float", shape, precision) == FLOAT32


@pytest.mark.parametrize(("role", "inputs", "expected"), [
    ("linear", 96, BlockFormat(4, 32)),  # 32 divides, 64 does not
    ("linear", 4304, BlockFormat(4, 64)),  # nothing from 32 on divides: the last block is padded
    ("linear", 48, BlockFormat(4, 64)),
    ("linear", 31, FLOAT32),
    ("encoder", 4352, INT8),
    ("encoder", 4304, INT8),
    ("encoder", 1024, INT8),
    ("lora", 320, LORA),
    ("embedding", 80, BlockFormat(8, 16, symmetric=True)),  # a table has no padding
    ("tied", 72, FLOAT32),
    ("head", 72, INT8),
    ("head", 64, BlockFormat(8, 64, symmetric=True)),
])
def test_blocks_fit_the_inputs(role: Role, inputs: int, expected: Format) -> None:
    assert chosen(role, (100, inputs)) == expected


@pytest.mark.parametrize("shape", [(3072,), (2, 64, 64), ()])
def test_what_is_no_matrix_stays_float32(shape: tuple[int, ...]) -> None:
    assert chosen("linear", shape) == FLOAT32


def test_encoders_and_adapters_may_have_a_precision_of_their_own() -> None:
    weights = [Weight(role, (512, 512), role) for role in ("linear", "encoder", "lora")]

    def formats(
        precision: str, encoder_precision: str | None = None, adapter_precision: str | None = None
    ) -> list[Format]:
        found = plan(
            weights, precision, "fast", encoder_precision=encoder_precision, adapter_precision=adapter_precision
        )
        return list(found.values())

    body = BlockFormat(4, 256)
    assert formats("int4") == [body, INT8, LORA]
    assert formats("int4", encoder_precision="fp16", adapter_precision="fp32") == [body, FLOAT16, FLOAT32]
    assert formats("int4", encoder_precision="int4", adapter_precision="int4") == [body, body, body]
    assert formats("fp16", encoder_precision="int8") == [FLOAT16, INT8, FLOAT16]
    assert formats("fp32") == [FLOAT32, FLOAT32, FLOAT32]


def test_their_precision_is_checked_too() -> None:
    with pytest.raises(ValueError, match="precision 'int2' is not known"):
        plan([], "int4", "fast", encoder_precision="int2")
    with pytest.raises(ValueError, match="precision 'int2' is not known"):
        plan([], "int4", "fast", adapter_precision="int2")


def test_every_weight_is_planned_by_name() -> None:
    weights = [Weight("a", (64, 64), "linear"), Weight("b", (64,), "float")]
    assert plan(weights, "int4", "balanced") == {"a": BlockFormat(4, 64), "b": FLOAT32}


def test_unknown_choices_are_named() -> None:
    with pytest.raises(ValueError, match="precision 'int3' is not known: choose one of int4, int8, fp16, fp32"):
        plan([], "int3", "balanced")
    with pytest.raises(ValueError, match="preset 'best' is not known: choose one of fast, balanced, quality"):
        plan([], "int4", "best")


def test_a_device_may_limit_the_block() -> None:
    weights = [Weight("w", (3072, 8192), "linear")]
    found = [plan(weights, "int4", preset, largest_block=128)["w"] for preset in ("fast", "balanced", "quality")]
    assert found == [BlockFormat(4, 128), BlockFormat(4, 64), BlockFormat(4, 32)]


@pytest.mark.parametrize("role", ["head", "tied"])
@pytest.mark.parametrize(("shape", "candidates"), [((200064, 3072), 256), ((2048, 256), 64), ((1024, 256), 32)])
def test_a_fast_head_is_screened_where_the_device_takes_it(
    role: Role, shape: tuple[int, int], candidates: int
) -> None:
    weights = [Weight("w", shape, role), Weight("e", shape, "embedding"), Weight("l", shape, "linear")]
    formats = plan(weights, "int4", "fast", screens=True)
    screened = ScreenedFormat(BlockFormat(4, 128), INT8, candidates)
    assert formats == {"w": screened, "e": INT8, "l": BlockFormat(4, 256)}
    assert str(formats["w"]) == "int8-block128+uint4-block128"
    assert plan(weights, "int4", "fast")["w"] == INT8


@pytest.mark.parametrize(("precision", "preset", "shape"), [
    ("int8", "fast", (2048, 256)), ("fp16", "fast", (2048, 256)), ("int4", "fast", (1000, 256)),
    ("int4", "fast", (2048, 72)), *(("int4", preset, (2048, 256)) for preset in PRESETS if preset not in SCREENING),
])
def test_other_heads_are_not(precision: str, preset: str, shape: tuple[int, int]) -> None:
    weights = [Weight("w", shape, "tied")]
    assert plan(weights, precision, preset, screens=True) == plan(weights, precision, preset)
