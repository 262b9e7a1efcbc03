"""Millions of files in columns: the same files as plain Python finds, whatever the parts."""

import hashlib
import itertools
import os

import numpy as np
import pytest

from beam_jobs.config import Source
from beam_jobs.errors import SpecError
from beam_jobs.sources import listing, units
from beam_jobs.sources.listing import File


def tree(folder) -> None:
    """1,205 files: in one folder, beside folders, in folders of folders, and some that hide."""
    names = [f"big/{number}.png" for number in range(1_100)]
    names += [f"{a}/{b}/{number}.png" for a in "xy" for b in "ab" for number in range(25)]
    names += ["x/é.png", "x/a.png", "x.png", "x-.png", "ü/日本/1.png"]
    for number, name in enumerate([*names, ".dot.png", "x/.hidden/1.png", "x/a/.z/b/1.png"]):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(number % 7))
        os.utime(path, ns=(0, 1_700_000_000_123_456_789 + number))


def expected(root, folder, split=None) -> list[File]:
    """The files below a folder as os.walk has them: its own before those in its folders."""
    found = []
    for path, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for name in sorted(name for name in names if name[0] != "."):
            file = os.path.join(path, name)
            status = os.stat(file)
            relative = os.path.relpath(file, root)
            found.append(File(file, relative, status.st_size, status.st_mtime_ns, split))
    return found


def fingerprint(files) -> str:
    digests = []
    for file in files:
        length = len(file.relative.encode())
        said = f"{file.size_bytes} {file.modified} {file.split or ''} {length} {file.path}"
        digests.append(hashlib.md5(said.encode()).digest())
    halves = [sum(int.from_bytes(d[at : at + 8], "big") for d in digests) for at in (0, 8)]
    return "".join(f"{half % 2**64:016x}" for half in halves)


def files_of(found: units.Listing) -> list[File]:
    return [file for unit in found.units for file in units.unpacked(unit)]


def source(*paths) -> Source:
    return Source(format="images", paths=tuple(map(str, paths)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("input") / "d"
    tree(made)
    return made


@pytest.mark.parametrize("few", [0, 300, 20_000], ids="threads, both, none".split(", "))
@pytest.mark.parametrize("at_once", [200, 500, 50_000])
def test_files_are_those_of_plain_python_in_a_known_order(few, at_once, folder, monkeypatch):
    monkeypatch.setattr(listing, "_FEW_FILES", few)
    monkeypatch.setattr(units, "_FILES_AT_ONCE", at_once)
    files = expected(folder, folder)
    assert len(files) == 1_205
    assert [file.relative for file in files[:2]] == ["x-.png", "x.png"]
    found = units.list_source(source(folder))
    assert files_of(found) == files
    assert found.size_bytes == sum(file.size_bytes for file in files) > 3_000
    assert found.matched == {str(folder): 1_205}
    sizes = [len(units.unpacked(unit)) for unit in found.units]
    assert max(sizes) <= 500
    if at_once == 50_000:
        assert sizes == [500, 500, 205]


def test_the_fingerprint_is_what_hashlib_says(folder):
    files = expected(folder, folder)
    found = units.list_source(source(folder))
    assert str(found.fingerprint) == fingerprint(files)
    assert units.of_files(files).fingerprint == found.fingerprint
    assert units.of_files(files[::-1]).fingerprint == found.fingerprint


@pytest.mark.parametrize(
    "changed",
    [{"path": "z/c"}, {"relative": "c"}, {"size_bytes": 9}, {"modified": 9}, {"split": "z"}],
)
def test_each_attribute_changes_the_fingerprint(changed):
    file = {"path": "a/b/c", "relative": "b/c", "size_bytes": 1, "modified": 2, "split": None}
    others = [File(**{**file, **change}) for change in ({}, changed)]
    found = [str(units.of_files([other]).fingerprint) for other in others]
    assert found == [fingerprint([other]) for other in others]
    assert len(set(found)) == 2


@pytest.mark.parametrize("wanted", [1, 2, 3, 4, 7, 256])
def test_parts_are_the_whole(wanted, folder):
    paths = folder, folder.parent / "d" / "x" / "?" / "*", folder / "x.png"
    parts = listing.parts(source(*paths), wanted)
    assert len(parts) == min(wanted, {1: 1, 2: 2, 3: 3}.get(wanted, len(parts)))
    assert 0 < len(parts) <= wanted
    found = [units.list_part(part) for part in parts]
    whole = units.list_part(listing.branches(source(*paths)))
    files = [file for part in found for file in files_of(part)]
    assert files == files_of(whole)
    assert files[:1_205] == expected(folder, folder)
    assert len(files) == 1_205 + 50 + 1
    total = sum((part.fingerprint for part in found), units.Fingerprint())
    assert str(total) == str(whole.fingerprint) == fingerprint(files)
    for name, hashes in whole.hashes.items():
        np.testing.assert_array_equal(np.concatenate([part.hashes[name] for part in found]), hashes)


def test_parts_cut_where_folders_are(folder):
    parts = listing.parts(source(folder), 256)
    assert [branch.folder for part in parts for branch in part] == [
        f"{folder}/{name}"
        for name in ("", "big/", "x/", "x/a/", "x/b/", "y/", "y/a/", "y/b/", "ü/", "ü/日本/")
    ]


def test_links_back_end_in_every_part(tmp_path):
    (tmp_path / "d" / "a" / "b").mkdir(parents=True)
    (tmp_path / "d" / "a" / "b" / "1.png").touch()
    (tmp_path / "d" / "a" / "b" / "up").symlink_to(tmp_path / "d")
    for wanted in (1, 256):
        parts = listing.parts(source(tmp_path / "d"), wanted)
        found = [file.relative for part in parts for file in files_of(units.list_part(part))]
        assert found == ["a/b/1.png"], wanted


@pytest.mark.parametrize("first, second", itertools.permutations(["d", "d/c", "d/*/a.png"], 2))
def test_a_file_that_is_matched_twice(first, second, tmp_path):
    for name in ("d/c/a.png", "d/b.png", "d/c/z.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(SpecError) as error:
        units.list_source(source(tmp_path / first, tmp_path / second))
    assert str(error.value) == (
        f"source.paths: '{tmp_path}/d/c/a.png' is matched twice. Name it once."
    )


def test_two_files_with_one_relative_path(tmp_path):
    for name in ("one/c/a.png", "two/c/a.png", "one/b.png", "two/c/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    one, two = tmp_path / "one", tmp_path / "two"
    with pytest.raises(SpecError) as error:
        units.list_source(source(two, one))
    assert str(error.value) == (
        f"source.paths: '{one}/c/a.png' and '{two}/c/a.png' have one relative path, 'c/a.png', "
        "which is their key. Move one of the roots up."
    )
    by_split = Source(format="images", paths={"train": (str(two),), "test": (str(one),)})
    assert [file.split for file in files_of(units.list_source(by_split))] == 2 * ["train"] + 2 * [
        "test"
    ]


def test_texts_of_one_hash_are_no_repetition(folder):
    found = units.list_part(listing.branches(source(folder / "x")))
    same = np.full_like(found.hashes["path"], 7)  # As if all of them collided.
    units.check_unique("path", [(same, lambda: b"".join(found.units))])


def test_a_path_that_matches_nothing(folder):
    with pytest.raises(SpecError) as error:
        units.list_source(source(folder, folder / "*.jpg"))
    assert str(error.value) == (
        f"source.paths: '{folder}/*.jpg' matches no file. Correct the path."
    )
