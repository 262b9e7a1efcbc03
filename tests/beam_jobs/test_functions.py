import sys

import pytest

from beam_jobs import functions
from beam_jobs.errors import SpecError


@pytest.fixture(autouse=True)
def _own_path(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])


def test_a_module_beside_the_spec_is_found(tmp_path):
    (tmp_path / "beside_the_spec.py").write_text("def f():\n    return 3\n")
    assert functions.load("beside_the_spec:f", str(tmp_path), "source.function")() == 3


@pytest.mark.parametrize(
    "name, message",
    [
        ("json", r"^source\.function: must be package\.module:function, but is 'json'\.$"),
        ("json:", "must be package"),
        (":loads", "must be package"),
        ("no_such_module:f", "cannot import 'no_such_module:f': ModuleNotFoundError: No module"),
        ("json:no_such", "cannot import 'json:no_such': AttributeError: module 'json' has no"),
        ("json:__name__", r"'json:__name__' is not a function\.$"),
    ],
)
def test_what_is_no_function(tmp_path, name, message):
    with pytest.raises(SpecError, match=message):
        functions.load(name, str(tmp_path), "source.function")


def test_a_module_that_raises(tmp_path):
    (tmp_path / "raises.py").write_text("raise RuntimeError('two\\nlines')\n")
    with pytest.raises(SpecError, match=r"cannot import 'raises:f': RuntimeError: two lines\.$"):
        functions.load("raises:f", str(tmp_path), "source.function")


def test_a_module_that_wants_to_leave(tmp_path):
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)\n")
    with pytest.raises(SpecError, match=r"cannot import 'leaves:f': SystemExit: 0\.$"):
        functions.load("leaves:f", str(tmp_path), "source.function")


def test_the_standard_library_stays(tmp_path, monkeypatch):
    (tmp_path / "colorsys.py").write_text("")
    (tmp_path / "own_colors.py").write_text("import colorsys\nf = colorsys.rgb_to_hsv\n")
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    assert functions.load("own_colors:f", str(tmp_path), "source.function")(0, 0, 1)[2] == 1
