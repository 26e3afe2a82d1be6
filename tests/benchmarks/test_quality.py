"""The statistics of `quality` against other computations of the same, and the whole measurement on a few questions."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest

from edgephi.benchmarks import quality, quality_plot
from edgephi.benchmarks.quality_reference import word_error_rate
from edgephi.demo.tasks import TASKS, media
from edgephi.demo.tasks.images import drawing
from edgephi.demo.tasks.speech import voices


def test_divergence_is_that_of_torch() -> None:
    import torch

    generator = np.random.default_rng(0)
    expected, found = (generator.normal(0, 3, (20, 50)).astype(np.float32) for _ in range(2))
    one, other = (torch.log_softmax(torch.tensor(logits, dtype=torch.float64), -1) for logits in (expected, found))
    reference = torch.nn.functional.kl_div(other, one, log_target=True, reduction="none").sum(-1).numpy()
    # both in float64; only the order of summation differs
    np.testing.assert_allclose(quality.kl_divergence(expected, found), reference, rtol=1e-12)


def test_divergence_ignores_a_shift_and_is_never_negative() -> None:
    generator = np.random.default_rng(1)
    expected, found = (generator.normal(0, 3, (20, 50)) for _ in range(2))
    assert np.abs(quality.kl_divergence(expected, expected + 7)).max() < 1e-14
    assert (quality.kl_divergence(expected, found) > 0).all()


def test_error_of_single_values_is_the_usual_one() -> None:
    values = np.random.default_rng(2).normal(1, 2, 400)
    error = quality.clustered_error([values[i : i + 1] for i in range(len(values))])
    # equal up to rounding: with one value in each cluster, the formula is that of the standard error of a mean
    assert error == pytest.approx(values.std(ddof=1) / math.sqrt(len(values)), rel=1e-9)


def test_error_counts_clusters_not_values() -> None:
    """Repeating every value within its cluster adds no information."""
    values = np.random.default_rng(3).normal(1, 2, 100)
    single = quality.clustered_error([np.full(1, value) for value in values])
    repeated = quality.clustered_error([np.full(30, value) for value in values])
    assert repeated == pytest.approx(single, rel=1e-9)
    assert quality.clustered_error([values]) == math.inf


def test_error_is_the_spread_of_means_over_repeated_experiments() -> None:
    generator = np.random.default_rng(4)

    def experiment() -> list[np.ndarray]:
        sizes = generator.integers(1, 30, 60)
        return [np.exp(generator.normal(0, 0.5)) + generator.normal(0, 0.3, size) for size in sizes]

    drawn = [experiment() for _ in range(2000)]
    spread = np.std([np.concatenate(clusters).mean() for clusters in drawn])
    # the mean of 2000 estimates of a spread that is itself known to 1/√(2·2000) = 1.6 %; linearization costs a little
    assert np.mean([quality.clustered_error(clusters) for clusters in drawn]) == pytest.approx(spread, rel=0.06)


@pytest.fixture(scope="module")
def measured() -> quality.Measured:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers warns about spellings of configurations
        try:
            return quality.measure(["fp32", "int4:balanced"], 2, 2, 1, lambda name, number, total: None)
        except (drawing.FontMissing, voices.SpeakerMissing) as error:
            pytest.skip(str(error))


def test_a_float32_bundle_computes_what_the_reference_does(measured: quality.Measured) -> None:
    reference, exact, rounded, bare = measured.qualities
    assert bare.accuracy.keys() == media.TASKS.keys() and bare.divergence is None
    assert exact.accuracy == reference.accuracy
    assert exact.divergence is not None and rounded.divergence is not None
    # float32 in two orders of summation: logits agree to about 1e-5, and KL is quadratic in the difference
    assert exact.divergence.maximum < 1e-6
    assert exact.divergence.agreement == 1.0
    assert rounded.divergence.mean > 100 * exact.divergence.mean
    assert reference.perplexity is not None and exact.perplexity is not None and rounded.perplexity is not None
    # a model that is sure is compared by its doubt; logits off by 1e-5 change that by as small a share
    doubt = pytest.approx(reference.perplexity - 1, rel=1e-3)
    assert exact.perplexity - 1 == doubt != rounded.perplexity - 1
    assert rounded.nbytes < 0.7 * reference.nbytes < reference.nbytes < exact.nbytes


@pytest.mark.parametrize(("truth", "found", "edits"), [
    ("the fox eats", "the fox eats", 0), ("the fox eats", "a fox", 2), ("fox", "the fox fox", 2), ("fox", "", 1),
    ("a b c d", "b c d e", 2),
])
def test_word_errors_are_the_fewest_edits(truth: str, found: str, edits: int) -> None:
    assert word_error_rate([(truth, found)]) == edits / len(truth.split())
    assert word_error_rate([(truth, found), ("one two", "one two")]) == edits / (len(truth.split()) + 2)


def test_the_plot_has_a_point_for_every_bundle(measured: quality.Measured, tmp_path: Path) -> None:
    path = quality_plot.write(measured, tmp_path)
    drawn = path.read_text(encoding="utf-8")
    assert all(f"<!-- {column.name} -->" in drawn for column in measured.qualities[:3])
    assert quality.WITHOUT_ADAPTERS not in drawn  # it answers a part of the tasks only


def test_results_are_written_as_measured(measured: quality.Measured, tmp_path: Path) -> None:
    quality.write(measured, tmp_path)
    stored = json.loads((tmp_path / quality.RESULTS_NAME).read_bytes())
    assert [row["name"] for row in stored["qualities"]] == [
        quality.REFERENCE, "fp32", "int4 balanced", quality.WITHOUT_ADAPTERS,
    ]  # fmt: skip
    assert all(row["accuracy"].keys() == TASKS.keys() | media.TASKS.keys() for row in stored["qualities"][:3])
    table = (tmp_path / quality.TABLE_NAME).read_text(encoding="utf-8")
    assert f"**{measured.qualities[2].overall:.2%}**" in table
    assert all(f"| {task}: " in table for task in TASKS)
