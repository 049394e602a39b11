"""Random sequences of changes, crashes, resumptions and repairs, against a dict: the index is what the surviving operations imply, exactly."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from quarry_runtime import tiny
from quarry_runtime.encode import Encoder

from .crash import KILLED, full_at, in_child, kill_at
from .sequences import WORDS, World, encoder, play

SEQUENCES = int(os.environ.get("QUARRY_SEQUENCES", "500"))
AT_ONCE = 100


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    made = [tmp_path_factory.mktemp("models") / str(seed) for seed in (1, 2)]
    for seed, folder in enumerate(made):
        tiny.encoder(folder, WORDS, dimension=4, seed=seed)
    return made


@pytest.fixture
def fast(tmp_path: Path) -> Iterator[Path]:
    """In memory where that is a file system: a killed process loses nothing there either, and nothing waits for a disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Encoder, "load", encoder)


@pytest.mark.parametrize("first", range(0, SEQUENCES, AT_ONCE))
def test_random_sequences_leave_what_the_surviving_operations_imply(first: int, models: list[Path], fast: Path) -> None:
    last = min(first + AT_ONCE, SEQUENCES)
    command = [sys.executable, "-m", "tests.sequences", fast, first, last, *models]
    done = subprocess.run([str(word) for word in command], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    played = [int(number) for number in done.stdout.split()]
    if done.returncode and played:
        play(fast / "again", played[-1], models)  # here pytest says what differs
    assert (done.returncode, played) == (0, list(range(first, last))), done.stderr


def test_the_crashes_are_real(models: list[Path], tmp_path: Path) -> None:
    """Else the sequences would prove nothing: a run that is killed after its first calls has done only some of its work."""
    world = World(tmp_path, 1, models)
    assert in_child(world.steps, kill_at(40)) == KILLED
    assert in_child(world.steps, full_at(10)) == "refused"
    assert in_child(world.steps) == "done"
    world.check()
