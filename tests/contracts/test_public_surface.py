"""What applications may rely on: the names of `edgephi` and the parameters of its two entry points."""

from __future__ import annotations

import inspect

import edgephi


def test_every_public_name_is_there() -> None:
    assert sorted(edgephi.__all__) == list(edgephi.__all__)
    for name in edgephi.__all__:
        assert getattr(edgephi, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    try:
        edgephi.nothing  # noqa: B018  # the access is what is tested
    except AttributeError as error:
        assert "nothing" in str(error)
    else:
        raise AssertionError("edgephi.nothing exists")


def test_load_takes_a_bundle_and_keywords() -> None:
    parameters = inspect.signature(edgephi.load).parameters
    assert next(iter(parameters)) == "bundle"
    assert {"device", "threads", "context"} <= parameters.keys()
    kinds = {name: parameter.kind for name, parameter in parameters.items() if name != "bundle"}
    assert set(kinds.values()) == {inspect.Parameter.KEYWORD_ONLY}


def test_stream_takes_a_prompt_and_keywords() -> None:
    parameters = inspect.signature(edgephi.Session.stream).parameters
    assert list(parameters)[:2] == ["self", "prompt"]
    sampling = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed"}
    assert sampling | {"max_tokens", "stop"} <= parameters.keys()


def test_the_session_has_the_agreed_methods() -> None:
    for method in ("stream", "generate", "chat", "encode", "logits", "cancel", "close", "__enter__", "__exit__"):
        assert callable(getattr(edgephi.Session, method))


def test_every_error_is_an_edgephi_error() -> None:
    from edgephi.runtime import errors

    for name in edgephi.__all__:
        if hasattr(errors, name):
            assert issubclass(getattr(edgephi, name), edgephi.EdgePhiError)
