"""Every task's answer is the right one, by a solution of its own; the two sides of the split never meet."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

import pytest

from edgephi.demo.tasks import RANGES, TASKS, draw
from edgephi.demo.tasks.example import Example, Message
from edgephi.demo.tasks.source import Source, is_held_out
from edgephi.demo.tasks.story import STORIES
from edgephi.demo.tasks.talk import ABLE, UNABLE, WHO

EXAMPLES = 200


def _question(turns: Sequence[Message]) -> str:
    return str(turns[-1]["content"])


def _items(question: str) -> list[str]:
    listed = question.split(": ", 1)[1]
    return listed.split(", ") if ", " in listed or " " not in listed else listed.split(" ")


def _sum(example: Example) -> str:
    return str(sum(map(int, re.findall(r"\d+", _question(example.turns)))))


def _working(example: Example) -> str:
    assert all(eval(left) == int(right) for left, right in re.findall(r"([\d +]+) = (\d+)\.", example.answer))
    a, b = re.findall(r"\d+", _question(example.turns))
    columns = [f"{x} + {y}" for x, y in zip(reversed(a), reversed(b), strict=True)]
    assert [step[:5] for step in example.answer.split(". ")[:-1]] == columns
    return f"{example.answer.rsplit(' ', 1)[0]} {int(a) + int(b)}."


def _copied(example: Example) -> str:
    question = _question(example.turns)
    return question.split('"')[1] if '"' in question else question.split(": ", 1)[1]


def _reversed(example: Example) -> str:
    items = _items(_question(example.turns))
    return (", " if ", " in example.answer else " ").join(items[::-1])


def _sorted(example: Example) -> str:
    items = _items(_question(example.turns))
    return " ".join(sorted(items, key=lambda item: int(item) if item.isdigit() else ord(item)))


def _counted(example: Example) -> str:
    question = _question(example.turns)
    items = question.split(": ", 1)[1].split(", ")
    one = re.match(r"(?:How many times is|How often does|Count how often|Count) (\w+) (?:in|appear)", question)
    said, number = [], 0
    for item in items:
        if one is None or item == one[1]:
            number += 1
            said.append(f"{item} {number}")
        else:
            said.append(item)
    return f"{', '.join(said)}. The number is {number}."


def _read(told: str, question: str) -> str:
    """The one told sentence that shares its person or its value with the question."""
    asked = set(re.findall(r"\w+", question)) - {"Where", "What", "Who", "does", "a", "an", "in", "as", "pet"}
    verbs = {"live": "lives", "work": "works", "like": "likes", "have": "has"}
    words = {verbs.get(word, word) for word in asked}
    found = [sentence for sentence in re.findall(r"[^.]+\.", told) if words <= set(re.findall(r"\w+", sentence))]
    assert len(found) == 1, (told, question, found)
    return found[0].strip()


def _facts(example: Example) -> str:
    told, first = str(next(turn["content"] for turn in example.turns if turn["role"] == "user")).rsplit(". ", 1)
    return _read(f"{told}.", first if len(example.turns) == 1 else _question(example.turns))


def _followup(example: Example) -> str:
    first, question = str(example.turns[0]["content"]), _question(example.turns)
    before = str(example.turns[1]["content"])
    if number := re.search(r"\d+", question):
        return str(int(before) + int(number[0]))
    if "name" in question or "Who am I" in question:
        return f"Your name is {re.findall(r'[A-Z][a-z]+', first)[-1]}."
    if "large" in question:
        return " ".join(sorted(before.split(), key=int, reverse=True))
    if before.startswith("Thank"):
        return _read(first, question)
    separator = ", " if ", " in before else " "
    return separator.join(before.split(separator)[::-1])


def _tools(example: Example) -> str:
    """The call must name an offered tool with its parameters, and every argument must stand in the request."""
    offered = [tool.get("function", tool) for tool in json.loads(str(example.turns[0]["tools"]))]
    body = example.answer.removeprefix("<|tool_call|>").removesuffix("<|/tool_call|>")
    (call,) = json.loads(body)
    (tool,) = [tool for tool in offered if tool["name"] == call["name"]]
    parameters = tool["parameters"].get("properties", tool["parameters"])
    assert list(parameters) == list(call["arguments"])
    assert all(str(value) in _question(example.turns) for value in call["arguments"].values())
    kinds = {"string": str, "integer": int}
    assert all(isinstance(value, kinds[parameters[name]["type"]]) for name, value in call["arguments"].items())
    return f"<|tool_call|>{json.dumps([{'name': call['name'], 'arguments': call['arguments']}])}<|/tool_call|>"


def _results(example: Example) -> str:
    if example.turns[-1]["role"] == "user":
        plain = Example(example.task, example.turns[1:], example.answer, "")
        question = _question(plain.turns)
        solve = _facts if ". " in question else _copied if ": " in question or '"' in question else _sum
        return solve(plain)
    returned = json.loads(_question(example.turns))
    assert all(str(value) in example.answer for key, value in returned.items() if key not in ("status",))
    if returned.get("status") == "ok":
        return "Done."
    return example.answer


def _story(example: Example) -> str:
    (animal,) = [animal for animal in STORIES if f" {animal}" in _question(example.turns)]
    names = re.findall(r"\b[A-Z][a-z]+\b", _question(example.turns))
    return STORIES[animal].format(name=names[1], place=names[2])


def _talk(example: Example) -> str:
    question = _question(example.turns)
    assert example.answer in (WHO, ABLE, UNABLE) or example.answer.endswith(("?", "!", "come."))
    about_itself = question.startswith(
        ("Who are you", "What are you?", "What is your", "Which", "Are you", "Tell me about yourself")
    )
    return WHO if about_itself else example.answer


SOLUTIONS: dict[str, Callable[[Example], str]] = {
    "sum": _sum,
    "working": _working,
    "copy": _copied,
    "reverse": _reversed,
    "sort": _sorted,
    "count": _counted,
    "facts": _facts,
    "followup": _followup,
    "tools": _tools,
    "results": _results,
    "story": _story,
    "talk": _talk,
}


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_answers_are_right(task: str, held_out: bool) -> None:
    source = Source(f"test {task}", held_out=held_out)
    for _ in range(EXAMPLES):
        example = draw(task, source)
        assert example.task == task
        assert example.turns[-1]["role"] in ("user", "tool")
        assert SOLUTIONS[task](example) == example.answer, example


@pytest.mark.parametrize("task", TASKS)
def test_equal_seeds_draw_equal_examples(task: str) -> None:
    first, second, other = (Source(seed, held_out=False) for seed in (7, 7, 8))
    drawn = [[draw(task, source) for _ in range(20)] for source in (first, second, other)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_restored_source_goes_on() -> None:
    source = Source(1, held_out=False)
    state = source.state()
    drawn = [draw("copy", source) for _ in range(5)]
    source.restore(state)
    assert [draw("copy", source) for _ in range(5)] == drawn


@pytest.mark.parametrize("task", TASKS)
def test_held_out_content_is_never_trained_on(task: str) -> None:
    for held_out in (False, True):
        source = Source(f"split {task}", held_out=held_out)
        assert all(is_held_out(draw(task, source).content) == held_out for _ in range(EXAMPLES))


def test_no_task_trains_on_a_held_out_sum() -> None:
    """A sum may be asked anywhere, in a follow-up or beside tools: its pair of numbers must be a training pair."""
    source = Source("sums", held_out=False)
    pairs: list[tuple[int, int]] = []
    for task in TASKS:
        for _ in range(EXAMPLES):
            for turn in draw(task, source).turns:
                text = str(turn.get("content", "")) if turn["role"] == "user" else ""
                if found := re.fullmatch(r"\D*(\d+)(?: ?\+ ?| plus | and )(\d+)\D*", text):
                    pairs.append((int(found[1]), int(found[2])))
    assert len(pairs) > EXAMPLES
    assert not [pair for pair in pairs if is_held_out(f"{min(pair)} + {max(pair)}")]


def test_every_task_states_its_range() -> None:
    assert RANGES.keys() == TASKS.keys()
    assert all(RANGES.values())
