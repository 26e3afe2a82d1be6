"""Arrays on disk: what was written comes back, whatever else lies there is one warning and a miss."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgephi import RequestError
from edgephi.runtime.array_files import STALE_SECONDS, SUFFIX, ArrayFiles

ONE, TWO, THREE = (bytes([number]) * 32 for number in (1, 2, 3))
VALUES = np.arange(2 * 3 * 5 * 7, dtype=np.float32).reshape(2, 3, 5, 7)
ROOM = 1 << 20


@pytest.fixture
def files(tmp_path: Path) -> ArrayFiles:
    return ArrayFiles(tmp_path / "cache", ROOM)


def _path(files: ArrayFiles, key: bytes) -> Path:
    return files.folder / f"{key.hex()}{SUFFIX}"


@pytest.mark.parametrize("array", [VALUES, VALUES[0, 0].astype(np.float16), np.ones(9, np.int8)])
def test_what_was_written_comes_back(files: ArrayFiles, array: np.ndarray) -> None:
    assert files.read(ONE) is None
    files.write(ONE, np.ascontiguousarray(array))
    found = ArrayFiles(files.folder, ROOM).read(ONE)
    assert found is not None and found.dtype == array.dtype and np.array_equal(found, array)
    assert files.read(TWO) is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no permission bits")
def test_nobody_else_may_look(files: ArrayFiles) -> None:
    files.write(ONE, VALUES)
    assert files.folder.stat().st_mode & 0o777 == 0o700
    assert _path(files, ONE).stat().st_mode & 0o777 == 0o600


def _foreign(path: Path) -> None:
    path.write_bytes(b"GIF89a" * 100)


def _of_another_key(path: Path) -> None:
    other = ArrayFiles(path.parent, ROOM)
    other.write(TWO, VALUES)
    os.replace(_path(other, TWO), path)


def _a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _a_link(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to("real")


def _a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _huge(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[56:88] = (1 << 40).to_bytes(8, "little") * 4
    path.write_bytes(data)


def _flipped(at: int) -> Callable[[Path], None]:
    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[at] ^= 0x10
        path.write_bytes(data)

    return flip


def _cut(length: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, length)


def _longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


DAMAGE: dict[str, Callable[[Path], None]] = {
    "foreign": _foreign, "another key": _of_another_key, "folder": _a_folder, "link": _a_link, "pipe": _a_pipe,
    "huge": _huge, "longer": _longer,
    **{f"cut to {length}": _cut(length) for length in (0, 1, 15, 16, 100, 119, 120, 121, 900)},
    **{f"byte {at}": _flipped(at) for at in (0, 17, 48, 50, 57, 90, 119, 120, 500, -1)},
}


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes")
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_is_damaged_is_one_warning_and_a_miss(files: ArrayFiles, damage: Callable[[Path], None]) -> None:
    for key in (ONE, THREE):
        files.write(key, VALUES)
        damage(_path(files, key))
    with pytest.warns(RuntimeWarning, match="prefix cache: .* it is computed anew") as seen:
        assert files.read(ONE) is None
        assert files.read(THREE) is None
        assert files.read(ONE) is None
    assert len(seen) == 1
    if _path(files, ONE).is_file() and not _path(files, ONE).is_symlink():
        files.write(ONE, VALUES)
        again = files.read(ONE)
        assert again is not None and np.array_equal(again, VALUES)


def test_a_process_killed_while_it_writes_leaves_nothing_that_is_believed(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np\nfrom pathlib import Path\nfrom edgephi.runtime.array_files import ArrayFiles\n"
        "files = ArrayFiles(Path(sys.argv[1]), 1 << 40)\nnumber = 0\n"
        "while True:\n    number += 1\n"
        "    files.write(number.to_bytes(32, 'big'), np.full((500, 1000), number, np.float32))\n"
    )
    folder = tmp_path / "cache"
    child = subprocess.Popen([sys.executable, "-c", code, str(folder)])
    try:
        deadline = time.monotonic() + 60
        while len(list(folder.glob(f"*{SUFFIX}"))) < 4 and time.monotonic() < deadline:
            time.sleep(0.002)
    finally:
        child.send_signal(signal.SIGKILL) if sys.platform != "win32" else child.kill()
        child.wait()
    files = ArrayFiles(folder, 1 << 40)
    names = sorted(folder.glob(f"*{SUFFIX}"))
    assert len(names) >= 4
    for path in names:
        key = bytes.fromhex(path.name.removesuffix(SUFFIX))
        found = files.read(key)
        assert found is not None and (found == int.from_bytes(key, "big")).all()
    begun = folder / f".{names[0].name}.1-1"
    begun.write_bytes(b"half")
    ArrayFiles(folder, 1 << 40)
    assert begun.exists()  # somebody may be writing it
    os.utime(begun, (0, time.time() - 2 * STALE_SECONDS))
    ArrayFiles(folder, 1 << 40)
    assert not begun.exists()


def test_what_was_used_longest_ago_makes_room_and_nothing_of_others_is_removed(tmp_path: Path) -> None:
    values = np.zeros(10_000, np.uint8)
    files = ArrayFiles(tmp_path, 45_000)
    foreign = [tmp_path / name for name in ("notes.txt", f"short{SUFFIX}")]
    for path in foreign:
        path.write_bytes(b"x" * 50_000)
    keys = [bytes([number]) * 32 for number in range(6)]
    for key in keys[:4]:
        files.write(key, values)
    files.touch([keys[3], keys[0], keys[1], keys[2]])  # the first is the youngest
    files.write(keys[4], values)
    kept = {key for key in keys if files.read(key) is not None}
    assert kept == {keys[4], keys[3], keys[0], keys[1]}
    assert sum(path.stat().st_size for path in tmp_path.glob(f"?{'?' * 63}{SUFFIX}")) <= 45_000
    files.write(keys[5], np.zeros(50_000, np.uint8))  # larger than all that there is
    assert files.read(keys[5]) is None and all(path.exists() for path in foreign)
    # another process counts what is there already
    ArrayFiles(tmp_path, 25_000).write(keys[5], values)
    assert len(list(tmp_path.glob(f"{'?' * 64}{SUFFIX}"))) == 2


def test_a_disk_that_fails_is_one_warning_and_the_end_of_writing(
    files: ArrayFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write(ONE, VALUES)
    calls: list[Path] = []

    def full(source: Path, target: Path) -> None:
        calls.append(target)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(RuntimeWarning, match="No space left on device") as seen:
        files.write(TWO, VALUES)
        files.write(THREE, VALUES)
    assert len(seen) == len(calls) == 1
    assert not list(files.folder.glob(".*"))
    assert files.read(ONE) is not None and files.read(TWO) is None


def test_a_folder_that_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RequestError, match="cannot keep a prefix cache"):
        ArrayFiles(tmp_path / "file" / "cache", ROOM)


def test_two_writers_of_one_key_leave_one_whole_file(tmp_path: Path) -> None:
    one, other = ArrayFiles(tmp_path, ROOM), ArrayFiles(tmp_path, ROOM)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one.write(ONE, VALUES)
        other.write(ONE, VALUES)
        found = one.read(ONE)
    assert found is not None and np.array_equal(found, VALUES)


def test_what_cannot_be_forgotten_is_said_each_time(files: ArrayFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in (ONE, TWO):
        files.write(key, VALUES)

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refuse)
        for keys in ([ONE], None):
            with pytest.warns(RuntimeWarning, match=r"cannot be removed and still hold .*Permission denied"):
                files.remove(keys)
    files.remove([ONE, THREE])
    assert not files.holds(ONE) and files.holds(TWO)
    files.remove(None)
    assert not files.holds(TWO)
    files.folder.rmdir()
    files.remove(None)  # a system may have emptied the cache: nothing is left to forget
