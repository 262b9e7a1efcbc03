"""The programs of examples/, as a user runs them: the commands on top of each, one by one."""

import ast
import concurrent.futures
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from oracle.command import LIMIT_SECONDS, ROOT, arguments

EXAMPLES = ROOT / "examples"
PROGRAMS = sorted(path.with_suffix(".py") for path in EXAMPLES.glob("*.toml"))
MADE = {  # The data of each, and how much of it: enough to learn from.
    "census": ("adult", 1_000),
    "cifar": ("cifar10", 100),
    "files": ("cifar10", 20),
    "images": ("flowers", 100),
    "pydataset": ("flowers", 20),
    "reviews": ("aclImdb", 300),
    "table": ("adult", 1_000),
}
REAL = {"census": "adult", "cifar": "cifar10", "files": "cifar10", "table": "adult"}
RUNS_AT_ONCE = 2  # Most of a small run is imports, on one core.


def _head(program: Path) -> str:
    return ast.get_docstring(ast.parse(program.read_text())) or ""


def _commands(program: Path) -> list[list[str]]:
    found = re.findall(r"^    ((?:python|headrace) .*)", _head(program), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in found]


def _run(words: list[str], folder: Path) -> str:
    """Runs a command of an example; returns what it printed."""
    name, *rest = words
    command = arguments(*rest)
    if name == "python":
        command["args"] = [sys.executable, *rest]
    done = subprocess.run(
        **{**command, "cwd": folder},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_SECONDS,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def _left_by_hand(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name in ("data", "out", "__pycache__")]


def _ran(name: str, folder: Path, real: Path | None) -> str:
    """Runs an example on real data or on a little made; returns what its last command printed."""
    shutil.copytree(EXAMPLES, folder, ignore=_left_by_hand)
    if real:
        (folder / "data").mkdir()
        (folder / "data" / real.name).symlink_to(real)
    elif name in MADE:
        _run(["python", "make_data.py", *map(str, MADE[name])], folder)
    return [_run(words, folder) for words in _commands(EXAMPLES / f"{name}.py")][-1]


def _real(name: str) -> Path | None:
    """Returns the folder of HEADRACE_DATA that an example takes."""
    folder = Path(os.environ.get("HEADRACE_DATA", "/nowhere"), REAL.get(name, "nothing"))
    return folder.resolve() if folder.is_dir() else None


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What an example printed, by its name; of `NAME-real` on real data."""
    base = tmp_path_factory.mktemp("examples")
    wanted = {program.stem: None for program in PROGRAMS}
    wanted |= {f"{name}-real": _real(name) for name in REAL if _real(name)}
    with concurrent.futures.ThreadPoolExecutor(RUNS_AT_ONCE) as pool:
        started = {
            name: pool.submit(_ran, name.removesuffix("-real"), base / name, real)
            for name, real in wanted.items()
        }

        def result(name: str) -> str:
            if name not in started:
                pytest.skip("no real data: set HEADRACE_DATA")
            return started[name].result()

        yield result
        pool.shutdown(cancel_futures=True)


def _accuracy(text: str) -> float:
    found = re.search(r"^accuracy on test: ([01]\.\d+)$", text, re.MULTILINE)
    assert found, text
    return float(found[1])


def _number(text: str) -> float:
    return float(text.replace(",", ""))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_a_program_says_how_to_run_it_how_long_it_takes_and_what_comes_out(program):
    assert _commands(program)[-2:] == [
        ["headrace", "run", f"{program.stem}.toml", "--output", f"out/{program.stem}"],
        ["python", program.name],
    ]
    assert re.search(r"^Takes (about )?\d+ (s|min)\b", _head(program), re.MULTILINE)
    assert "Prints" in _head(program)
    assert f"({program.name})" in (EXAMPLES / "README.md").read_text()


@pytest.mark.parametrize("name, num_files", [("files", 10 * 20), ("files-real", 10 * 200)])
def test_many_files_become_one_and_every_way_reads_all_images(name, num_files, printed):
    first, head, *ways = printed(name).splitlines()[-5:]
    assert first.startswith(f"{num_files:,} files became 1 of ")
    assert head.split() == ["images/s", "from", "disk", "from", "memory"]
    found = [
        re.fullmatch(r"(single files|TFRecords|load\(\)) +([\d,]+) +([\d,]+)", w) for w in ways
    ]
    assert [way and way[1] for way in found] == ["single files", "TFRecords", "load()"]
    assert all(_number(rate) > 0 for way in found for rate in way.groups()[1:])


# A guess is right for one of nine, and 200 photos of a class are few.
@pytest.mark.parametrize("name, least", [("cifar", 0.8), ("cifar-real", 0.25)])
def test_cifar_without_trucks_is_learned(name, least, printed):
    text = printed(name)
    classes = "airplane, automobile, bird, cat, deer, dog, frog, horse, ship"
    assert f"classes: {classes}" in text.splitlines()
    assert "Epoch 5/5" in text
    assert _accuracy(text) > least


# A guess is right for one of five.
def test_flowers_are_learned(printed):
    assert _accuracy(printed("images")) > 0.6


def test_reviews_are_learned(printed):
    assert _accuracy(printed("reviews")) > 0.9


# Half of the made people earn less, and 76 % of the real.
@pytest.mark.parametrize(
    "name, least",
    [("table", 0.8), ("table-real", 0.79), ("census", 0.8), ("census-real", 0.84)],
)
def test_who_earns_more_is_learned(name, least, printed):
    assert _accuracy(printed(name)) > least


def test_drawings_of_a_generator_are_learned(printed):
    assert _accuracy(printed("generator")) > 0.8


def test_the_pydataset_beside_the_pipeline(printed):
    *ways, last = printed("pydataset").splitlines()[-4:]
    found = [re.fullmatch(r"(.+?) +([\d,]+) images/s", way) for way in ways]
    assert [way and way[1] for way in found] == ["PyDataset", "PyDataset, 4 workers", "load()"]
    alone, four, pipeline = (_number(way[2]) for way in found)
    times = re.fullmatch(r"load\(\) is ([\d.]+) times as fast, ([\d.]+) times as 4 workers", last)
    assert [float(number) for number in times.groups()] == pytest.approx(
        [pipeline / alone, pipeline / four], abs=0.06
    )
