"""The prefix cache: what is found fits, answers stay what they are without it, and it never stands in the way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgephi
from edgephi import PrefixCache, RequestError, Session
from edgephi.runtime import prefix_cache
from edgephi.runtime.array_files import SUFFIX
from edgephi.runtime.cache import Position
from edgephi.runtime.decode import Decoder
from edgephi.runtime.graphs import Graph, Interrupt, Interrupted
from edgephi.runtime.inputs import MediaRow, TokenInputs, identity
from edgephi.runtime.manifest import Manifest, read_manifest
from edgephi.runtime.prefix_cache import BLOCK, Prefixes, find
from edgephi.runtime.providers import find as find_device
from edgephi.runtime.rotary import RotaryTables

# The same sequence, cut another way: float32 rounding apart.
TOLERANCE = 1e-5


def _ids(seed: int, length: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, 384, length)]


@pytest.fixture(scope="module")
def folder(tiny_bundle: Callable[..., Path]) -> Path:
    return tiny_bundle("mini")


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Manifest:
    return read_manifest(folder)


@pytest.fixture(scope="module")
def make(folder: Path, manifest: Manifest) -> Iterator[Callable[..., Decoder]]:
    """(cache, context=None) → decoder over one graph."""
    with closing(Graph(folder / manifest.graphs["text"].file, find_device("cpu"), 2)) as graph:

        def decoder(cache: PrefixCache | None = None, context: int | None = None) -> Decoder:
            tables = RotaryTables.open(folder, manifest.text, context)
            prefixes = None if cache is None else Prefixes(cache, manifest, "cpu")
            return Decoder(graph, manifest.text, tables, TokenInputs(graph), 64, prefixes)

        yield decoder


def _assert_same(found: np.ndarray, wanted: np.ndarray) -> None:
    assert np.abs(found - wanted).max() < TOLERANCE * np.ptp(wanted)


def test_a_sequence_that_another_one_interrupted_is_not_read_again(make: Callable[..., Decoder]) -> None:
    cache, go = PrefixCache(), Interrupt()
    decoder, one, two = make(cache), _ids(1, 300), _ids(2, 200)
    decoder.advance(one, go)
    assert cache.blocks.size == 0  # alone, it is never copied
    decoder.advance(two, go)
    assert cache.blocks.size == 4 * BLOCK * decoder.cache.shape.bytes_per_position
    logits, work = decoder.advance(one, go)
    assert (work.reused, work.computed) == (256, 44)
    _assert_same(logits, make().advance(one, go)[0])
    # behind a beginning that is still there, in the middle of a block
    decoder.advance([*one[:100], *two], go)
    logits, work = decoder.advance([*one, 5], go)
    assert (work.reused, work.computed) == (256, 45)
    _assert_same(logits, make().advance([*one, 5], go)[0])


def test_at_least_one_position_is_computed_for_its_logits(make: Callable[..., Decoder]) -> None:
    cache, go = PrefixCache(), Interrupt()
    decoder, one = make(cache), _ids(1, 2 * BLOCK)
    decoder.advance(one, go)
    decoder.advance(_ids(2, 10), go)
    logits, work = decoder.advance(one, go)
    assert work.reused == BLOCK
    _assert_same(logits, make().advance(one, go)[0])


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_sequences_gives_what_a_straight_run_gives(make: Callable[..., Decoder], seed: int) -> None:
    """Beginnings are shared, left, taken up again and lengthened, in memory that does not hold them all."""
    random, go = np.random.default_rng(seed), Interrupt()
    decoder = make(PrefixCache(memory_bytes=6 * BLOCK * make().cache.shape.bytes_per_position))
    trunk, reused = _ids(seed, 400), 0
    for _ in range(14):
        at, more = int(random.integers(1, 400)), int(random.integers(0, 150))
        sequence = [*trunk[:at], *_ids(int(random.integers(0, 3)), more)]
        logits, work = decoder.advance(sequence, go)
        reused += work.reused
        assert list(decoder.cache.positions) == sequence and work.reused + work.computed == len(sequence)
        for token in _ids(9, int(random.integers(0, 4))):
            logits, _ = decoder.append(token, go)
        _assert_same(logits, make().advance(list(decoder.cache.positions), go)[0])
        decoder.rewind(int(random.integers(0, len(decoder.cache) + 1)))
    assert reused > 0


def test_the_two_rotary_tables_are_never_mixed(make: Callable[..., Decoder]) -> None:
    cache, go = PrefixCache(), Interrupt()
    decoder, short = make(cache), _ids(3, 4095)
    long = [*short, 1, 2, 3]
    decoder.advance(short, go)
    logits, work = decoder.advance(long, go)  # all of it lies under the other table
    assert (work.reused, work.recomputed) == (0, 4095)
    wanted = make().advance(long, go)[0].copy()
    _assert_same(logits, wanted)
    logits, work = decoder.advance(short, go)
    assert (work.reused, work.recomputed) == (4032, 63)
    _assert_same(logits, make().advance(short, go)[0])
    logits, work = decoder.advance(long, go)
    assert (work.reused, work.recomputed) == (4096, 0)
    _assert_same(logits, wanted)
    # a session that has one table from the first token on shares what it computed with nobody else
    assert make(cache, 5000).advance(short, go)[1].reused == 4032
    assert make(cache, 4096).advance(short, go)[1].reused == 4032


def test_the_last_user_takes_memory_along_and_a_later_process_finds_the_disk(
    folder: Path, tmp_path: Path
) -> None:
    prompt = _ids(4, 300)
    with edgephi.load(folder, threads=2, prefix_cache=False) as plain:
        wanted = plain.generate(prompt, max_tokens=40)
        assert plain.generate(_ids(5, 300), max_tokens=1).usage.cached_tokens == 0
        assert plain.generate(prompt, max_tokens=1).usage.cached_tokens == 0
    first = PrefixCache(folder=tmp_path)
    with edgephi.load(folder, threads=2, prefix_cache=first) as phi:
        assert phi.generate(prompt, max_tokens=40).token_ids == wanted.token_ids
    assert first.blocks.size == 0
    assert len(list(tmp_path.glob(f"*{SUFFIX}"))) == 5  # of 339 positions
    with edgephi.load(folder, threads=2, prefix_cache=PrefixCache(folder=tmp_path)) as phi:
        again = phi.generate(prompt, max_tokens=40)
        assert again.token_ids == wanted.token_ids and again.usage.cached_tokens == 256
        assert again.usage.prompt_tokens == 300
        longer = phi.generate([*prompt, *again.token_ids, 3], max_tokens=1)
        assert longer.usage.cached_tokens == 339


@pytest.mark.parametrize("disk", [False, True])
def test_clearing_forgets_what_a_session_read_in_every_place(folder: Path, tmp_path: Path, disk: bool) -> None:
    """Its conversations of now and before; what only others read stays."""
    cache, prompts = PrefixCache(folder=tmp_path if disk else None), [_ids(seed, 200) for seed in range(20, 23)]

    def kept() -> int:
        return len(list(tmp_path.glob(f"*{SUFFIX}"))) if disk else cache.blocks.size

    with edgephi.load(folder, threads=1, prefix_cache=cache) as phi:
        with edgephi.load(folder, threads=1, prefix_cache=cache) as other:
            for prompt in prompts[:2]:
                phi.generate(prompt, max_tokens=2)
            other.generate(prompts[2], max_tokens=2)
            cache.blocks.flush()
            assert kept()
            phi.clear()
            for prompt in prompts[:2]:
                assert other.generate(prompt, max_tokens=1).usage.cached_tokens == 0
            other.generate(prompts[0], max_tokens=1)
            assert other.generate(prompts[2], max_tokens=1).usage.cached_tokens == 192
            cache.clear()
            assert not kept() and not cache.blocks.size
            assert phi.generate(prompts[1], max_tokens=1).usage.cached_tokens == 0


def test_clearing_forgets_what_an_earlier_process_left_and_this_one_found(folder: Path, tmp_path: Path) -> None:
    one, two = _ids(23, 200), _ids(24, 200)
    with edgephi.load(folder, threads=1, prefix_cache=PrefixCache(folder=tmp_path)) as phi:
        phi.generate(one, max_tokens=1)
        phi.generate(two, max_tokens=1)
    with edgephi.load(folder, threads=1, prefix_cache=PrefixCache(folder=tmp_path)) as phi:
        assert phi.generate(one, max_tokens=1).usage.cached_tokens == 192
        phi.clear()
        assert len(list(tmp_path.glob(f"*{SUFFIX}"))) == 3  # of the other one, which was not read here
        assert phi.generate(one, max_tokens=1).usage.cached_tokens == 0


def test_only_keys_of_what_is_there_are_remembered(
    make: Callable[..., Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefix_cache, "_REMEMBERED", 8)
    decoder, go = make(PrefixCache(memory_bytes=0)), Interrupt()
    kept = make(PrefixCache())
    for seed in range(30, 40):
        decoder.advance(_ids(seed, 150), go)
        kept.advance(_ids(seed, 150), go)
    prefixes = [each._prefixes for each in (decoder, kept)]
    assert prefixes[0] is not None and prefixes[1] is not None
    assert len(prefixes[0]._used) <= 10 and len(prefixes[1]._used) == 18


def test_damaged_files_cost_a_warning_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    prompt = _ids(6, 300)
    with edgephi.load(folder, threads=2, prefix_cache=PrefixCache(folder=tmp_path)) as phi:
        wanted = phi.generate(prompt, max_tokens=10)
    for path in tmp_path.glob(f"*{SUFFIX}"):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
    with edgephi.load(folder, threads=2, prefix_cache=PrefixCache(folder=tmp_path)) as phi:
        with pytest.warns(RuntimeWarning, match="is damaged or not a file of this cache"):
            again = phi.generate(prompt, max_tokens=10)
        assert again.token_ids == wanted.token_ids and again.usage.cached_tokens == 0
    with edgephi.load(folder, threads=2, prefix_cache=PrefixCache(folder=tmp_path)) as phi:
        assert phi.generate(prompt, max_tokens=10).usage.cached_tokens > 0  # written anew


def test_nothing_of_another_bundle_is_found(
    folder: Path, tiny_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    prompt = _ids(7, 200)
    cache = PrefixCache(folder=tmp_path)
    with edgephi.load(folder, threads=2, prefix_cache=cache) as phi:
        phi.generate(prompt, max_tokens=1)
        with edgephi.load(tiny_bundle("mini", precision="int8"), threads=2, prefix_cache=cache) as other:
            assert other.generate(prompt, max_tokens=1).usage.cached_tokens == 0
        with edgephi.load(folder, threads=2, prefix_cache=cache) as same:
            assert same.generate(prompt, max_tokens=1).usage.cached_tokens == 192


def test_nothing_is_copied_for_sessions_of_another_bundle(make: Callable[..., Decoder], manifest: Manifest) -> None:
    cache, go = PrefixCache(), Interrupt()
    decoder, _other = make(cache), Prefixes(cache, manifest, "another device")
    decoder.advance(_ids(1, 200), go)
    assert cache.blocks.size == 0
    _same = Prefixes(cache, manifest, "cpu")
    decoder.advance(_ids(1, 300), go)
    assert cache.blocks.size == 4 * BLOCK * decoder.cache.shape.bytes_per_position


def test_sessions_at_work_at_the_same_time_say_what_each_says_alone(folder: Path) -> None:
    """Two conversations each, in turn, with a beginning that all of them share."""
    trunk = _ids(8, 130)
    prompts = [[*trunk, *_ids(seed, 100)] for seed in (1, 2, 3, 4)]
    with edgephi.load(folder, threads=1, prefix_cache=False) as alone:
        wanted = [alone.generate(prompt, max_tokens=25).token_ids for prompt in prompts]
    cache, found, cached = PrefixCache(), dict[tuple[int, int], Sequence[int]](), list[int]()

    def talk(session: Session, mine: tuple[int, int]) -> None:
        for turn in range(6):
            which = mine[turn % 2]
            reply = session.generate(prompts[which], max_tokens=25)
            found[which, turn] = reply.token_ids
            cached.append(reply.usage.cached_tokens)

    with edgephi.load(folder, threads=1, prefix_cache=cache) as one:
        with edgephi.load(folder, threads=1, prefix_cache=cache) as other:
            pairs = (one, (0, 1)), (other, (2, 3))
            threads = [threading.Thread(target=talk, args=pair) for pair in pairs]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(120)
    assert len(found) == 12
    assert all(token_ids == wanted[which] for (which, _), token_ids in found.items())
    assert sum(count >= 192 for count in cached) >= 8  # from the second turns on


def test_cancelling_while_blocks_are_brought_back_keeps_what_came(
    make: Callable[..., Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, go, one = PrefixCache(), Interrupt(), _ids(1, 400)
    decoder = make(cache)
    decoder.advance(one, go)
    decoder.advance(_ids(2, 10), go)
    stopped, get, calls = Interrupt(), cache.blocks.get, list[bytes]()

    def cancel_at_the_third(key: bytes) -> np.ndarray | None:
        calls.append(key)
        if len(calls) == 3:
            stopped.request()
        return get(key)

    monkeypatch.setattr(cache.blocks, "get", cancel_at_the_third)
    with pytest.raises(Interrupted):
        decoder.advance(one, stopped)
    assert list(decoder.cache.positions) == one[: 3 * BLOCK]
    logits, work = decoder.advance(one, go)
    assert work.reused == 384
    _assert_same(logits, make().advance(one, go)[0])


def test_positions_are_told_apart_by_content() -> None:
    rows = np.zeros((4, 2), np.float32)
    row = MediaRow(9, "abc", 1, rows)
    others: list[Sequence[Position]] = [
        [9], [9, 9], [99], [row], [replace(row, row=2)], [replace(row, content="abd")], [replace(row, placeholder=8)],
        [9, row], [row, row],
    ]
    assert len({identity(each) for each in others}) == len(others)
    assert identity([5, replace(row, features=rows + 1)]) == identity([5, row])


def test_which_cache_a_session_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_cache, "_open", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert find(None) is find(None) and not find(None).blocks.persistent
    assert find(tmp_path / "a") is find(str(tmp_path / "a")) is not find(None)
    assert find(True).blocks.persistent
    off = find(False)
    assert off is not find(False) and not off.blocks.keeps
    own = PrefixCache(memory_bytes=5)
    assert find(own) is own
    for wrong in ({"memory_bytes": -1}, {"disk_bytes": 1.5}):
        with pytest.raises(RequestError, match="allowed is a whole number of bytes from 0 on"):
            PrefixCache(**wrong)  # type: ignore[arg-type]  # what a caller may pass by mistake
