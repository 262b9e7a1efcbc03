"""Which files the paths of a spec name."""

import json
import os

import pytest

from beam_jobs.config import load_spec
from beam_jobs.errors import SpecError
from beam_jobs.sources import listing, units

SPEC = """\
name = "images"
[source]
format = "images"
paths = {paths}
[split]
fractions = {{ train = 1.0 }}
[features.image]
size = [8, 8]
"""


def listed(folder, *paths: str) -> list[listing.File]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.toml").write_text(SPEC.format(paths=json.dumps(paths)))
    return listing.list_files(load_spec(str(folder / "spec.toml")).source)


def touch(folder, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def relative(files) -> list[str]:
    return [file.relative for file in files]


@pytest.mark.parametrize(
    "path, expected",
    [
        ("d", ["a.png", "c/b.png", "c/e/f.png"]),
        ("d/", ["a.png", "c/b.png", "c/e/f.png"]),
        ("d/c", ["b.png", "e/f.png"]),
        ("d/*.png", ["a.png"]),
        ("d/*/*.png", ["c/b.png"]),
        ("d/**.png", ["a.png", "c/b.png", "c/e/f.png"]),
        ("d/[bc]/?.png", ["c/b.png"]),
        ("d/a.png", ["a.png"]),
    ],
)
def test_a_path_is_a_file_or_a_folder_or_a_pattern(path, expected, tmp_path):
    touch(tmp_path / "d", "a.png", "c/b.png", "c/e/f.png", ".dot.png", "c/.hidden/g.png")
    assert relative(listed(tmp_path, path)) == expected


@pytest.mark.parametrize("name", ["x[1]", "x*", "x?", "[!x]", "x[", "{x}"])
def test_the_folder_of_the_spec_is_no_pattern(name, tmp_path):
    touch(tmp_path / name, "d/a.png", "d/c/b.png")
    touch(tmp_path / "x1", "d/of another spec.png")
    for path in ("d", "d/**", str(tmp_path / name / "d")):
        files = listed(tmp_path / name, path)
        assert relative(files) == ["a.png", "c/b.png"], path
        assert files[0].path == str(tmp_path / name / "d/a.png")


@pytest.mark.parametrize("name", ["part[1].png", "what?.png", "all*.png"])
def test_a_path_that_is_there_is_no_pattern(name, tmp_path):
    touch(tmp_path / "d", name, "part1.png", "whatx.png", "all of them.png", f"sub {name}/1.png")
    assert relative(listed(tmp_path, f"d/{name}")) == [name]
    assert relative(listed(tmp_path, f"d/sub {name}")) == ["1.png"]


def test_a_path_that_matches_nothing_is_told_as_it_was_written(tmp_path):
    with pytest.raises(SpecError) as error:
        listed(tmp_path / "x[1]", "no*")
    assert str(error.value) == (
        f"source.paths: '{tmp_path}/x[1]/no*' matches no file. Correct the path."
    )


def test_a_file_name_that_is_no_text(tmp_path):
    touch(tmp_path / "d", "a.png")
    folder = os.fsencode(tmp_path / "d")
    with open(folder + b"/\xe9.png", "wb"):
        pass
    with pytest.raises(SpecError) as error:
        listed(tmp_path, "d")
    assert str(error.value) == (
        f"source.paths: the file name {folder + b'/%s.png' % bytes([0xE9])!r} is not UTF-8. "
        "Rename it."
    )


def test_the_fingerprint_is_of_the_root_too(tmp_path):
    touch(tmp_path / "d", "c/a.png")
    files = [listed(tmp_path, path) for path in ("d", "d/c", "d/**", "d/c/*")]
    assert len({tuple(file.path for file in found) for found in files}) == 1
    of_d, of_c, also_of_d, also_of_c = (units.of_files(found).fingerprint for found in files)
    assert of_d != of_c
    assert (of_d, of_c) == (also_of_d, also_of_c)


def test_links_are_followed_but_not_in_circles(tmp_path):
    touch(tmp_path / "elsewhere", "bird/b.png", "bird/c.png")
    touch(tmp_path / "d", "cat/a.png")
    (tmp_path / "d" / "bird").symlink_to(tmp_path / "elsewhere" / "bird")
    (tmp_path / "d" / "cat" / "up").symlink_to(tmp_path / "d")
    (tmp_path / "elsewhere" / "bird" / "nothing.png").symlink_to(tmp_path / "nothing")
    expected = ["bird/b.png", "bird/c.png", "cat/a.png"]
    assert relative(listed(tmp_path, "d")) == expected
    assert relative(listed(tmp_path, "d/*/*.png")) == expected


def test_what_is_no_regular_file_is_left_alone(tmp_path):
    touch(tmp_path / "d", "a.png")
    os.mkfifo(tmp_path / "d" / "pipe.png")
    assert relative(listed(tmp_path, "d")) == ["a.png"]
    with pytest.raises(SpecError, match="'.*/pipe.png' matches no file"):
        listed(tmp_path, "d/pipe.png")


@pytest.mark.parametrize("pattern", ["d/*", "d/?\\?.png", "d/a[\\]b.png", "d/[!c]*"])
def test_a_backslash_is_a_character_like_any_other(pattern, tmp_path):
    touch(tmp_path / "d", "a\\b.png")
    assert relative(listed(tmp_path, pattern)) == ["a\\b.png"]


@pytest.mark.parametrize(
    "pattern, expected",
    [
        ("d/[a-c].png", ["a.png", "c.png"]),
        ("d/[!a-c].png", ["^.png", "d.png"]),
        ("d/[^d].png", ["^.png", "d.png"]),
        ("d/[]].png", []),
        ("d/+.png", []),
        ("d/**c.png", ["c.png", "e/c.png"]),
    ],
)
def test_sets_of_characters(pattern, expected, tmp_path):
    touch(tmp_path / "d", "a.png", "c.png", "d.png", "^.png", "e/c.png")
    if expected:
        assert relative(listed(tmp_path, pattern)) == expected
    else:
        with pytest.raises(SpecError, match="matches no file"):
            listed(tmp_path, pattern)


def test_a_dot_file_that_is_named_counts(tmp_path):
    touch(tmp_path / "d", ".a.png", "b.png")
    assert relative(listed(tmp_path, "d/.a.png")) == [".a.png"]
    assert relative(listed(tmp_path, "d/*")) == ["b.png"]
