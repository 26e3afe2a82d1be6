"""What every file of export/families provides, held for each by its TINY configuration."""

from __future__ import annotations

import pytest

from edgephi.export import families
from edgephi.export.families import ROTARY, Family, weight_shapes
from edgephi.export.weights import Drop, Join, Rename, Split, Strip, Tie, bind
from edgephi.runtime.manifest import TextModel
from edgephi.runtime.providers import find


@pytest.fixture(params=families.names())
def family(request: pytest.FixtureRequest) -> Family:
    return families.find(request.param)


def test_names_and_architectures_are_its_own(family: Family) -> None:
    assert families.find(family.NAME) is family
    assert family.ARCHITECTURES and "text" in family.CAPABILITIES
    for architecture in family.ARCHITECTURES:
        assert families.for_architecture(architecture) is family


def test_there_is_a_plan_for_every_graph(family: Family) -> None:
    graphs = family.build(family.TINY, find("cpu"))
    assert list(graphs) == list(family.PARTS)
    for graph in graphs.values():
        names = [node.name for node in graph.graph.all_nodes()]
        assert len(set(names)) == len(names), "a name in a branch may not hide one outside"
        assert graph.graph.inputs and graph.graph.outputs


def test_the_rules_fill_every_weight_once(family: Family) -> None:
    """From tensors of the shapes of the weights, which every rule allows."""
    declared = weight_shapes(family.build(family.TINY, find("cpu")))
    weights = {name: shape for name, shape in declared.items() if name not in ROTARY}
    rules = family.rules(family.TINY)
    tensors: dict[str, tuple[int, ...]] = {}
    for rule in rules:
        if isinstance(rule, Rename):
            for layer in range(max(1, rule.layers)):
                source, target = (name.replace("{layer}", str(layer)) for name in (rule.source, rule.target))
                tensors[source] = weights[target]
        else:
            assert isinstance(rule, Tie | Drop | Strip | Join | Split)
    assert bind(rules, tensors, weights).weights.keys() == weights.keys()


def test_the_manifest_learns_the_shape_of_the_decoder(family: Family) -> None:
    text = family.text_model(family.TINY, ())
    shape = family.decoder(family.TINY)
    assert isinstance(text, TextModel)
    assert (text.layers, text.hidden_size, text.heads) == (
        shape.layers, shape.attention.hidden, shape.attention.heads,
    )
    limits = [table.limit for table in family.rotary(family.TINY)]
    assert limits == sorted(set(limits)) and limits[-1] == text.context_length


def test_placeholders_are_there_for_what_it_takes(family: Family) -> None:
    image, audio = family.media_tokens(family.TINY)
    assert (image is not None, audio is not None) == ("image" in family.CAPABILITIES, "audio" in family.CAPABILITIES)


def test_norms_feed_linears_that_there_are(family: Family) -> None:
    weights = weight_shapes(family.build(family.TINY, find("cpu")))
    feeding = family.norm_feeding(family.TINY)
    assert feeding
    for linear, norm in feeding.items():
        assert weights[linear][1:] == weights[norm]
