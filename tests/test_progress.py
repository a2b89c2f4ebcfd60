import io

import pytest
from models import dense, fit

from keras_lc import LCModelCheckpoint, progress, restore_latest


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(progress, "_PATIENCE", -1.0)
    monkeypatch.setattr(progress, "_PAUSE", -1.0)


def opened(monkeypatch, stderr):
    """As stderr, from here on: pytest puts its own in place before a test begins."""
    monkeypatch.setattr("sys.stderr", stderr)
    return stderr


def test_a_long_work_is_shown_on_a_terminal(impatient, monkeypatch):
    terminal = opened(monkeypatch, Terminal())
    assert list(progress.shown("abc", 3, "reading")) == ["a", "b", "c"]
    states = terminal.getvalue().split("\r")[1:]
    assert [state.split()[-1] for state in states] == ["0/3", "1/3", "2/3", "3/3"]
    assert all(state.startswith("reading ") for state in states)
    assert terminal.getvalue().endswith("\n")


def test_a_quick_work_is_not(monkeypatch):
    terminal = opened(monkeypatch, Terminal())
    assert list(progress.shown("abc", 3, "reading")) == ["a", "b", "c"]
    assert terminal.getvalue() == ""


def test_nothing_is_shown_in_a_file(impatient, monkeypatch):
    file = opened(monkeypatch, io.StringIO())
    assert list(progress.shown("abc", 3, "reading")) == ["a", "b", "c"]
    assert file.getvalue() == ""


def test_an_error_leaves_a_whole_line(impatient, monkeypatch):
    terminal = opened(monkeypatch, Terminal())

    def work():
        for item in progress.shown("abc", 3, "reading"):
            if item == "b":
                raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        work()
    assert terminal.getvalue().endswith("1/3\n")


def test_a_long_restore_is_shown(tmp_path, impatient, monkeypatch):
    terminal = opened(monkeypatch, Terminal())
    fit(dense(), [LCModelCheckpoint(tmp_path / "cp-{epoch}")])
    restore_latest(tmp_path, dense())
    assert "restoring cp-3 " in terminal.getvalue()
    assert terminal.getvalue().endswith("3/3\n")
