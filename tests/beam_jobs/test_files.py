"""Files appear whole or not at all; on object stores, tests/engines/test_object_stores.py."""

import pytest

from beam_jobs import files


def test_a_file_that_is_given_up_leaves_nothing(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with pytest.raises(KeyError), files.created(str(path)) as file:
        file.write(b"half")
        raise KeyError
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [
        ("file", b"before")
    ]


def test_a_file_appears_when_it_is_whole(tmp_path):
    with files.created(str(tmp_path / "file")) as file:
        file.write(b"whole")
        (found,) = tmp_path.iterdir()
        assert found.name.startswith("file.") and found.suffix == files.TEMPORARY
    assert [found.name for found in tmp_path.iterdir()] == ["file"]
    assert files.read(str(tmp_path / "file")) == b"whole"
