"""Every notebook of the tutorial runs from top to bottom, and so do the solutions in it."""

import copy
import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from tutorial.lesson import check, digits

TUTORIAL = Path(__file__).parent.parent / "tutorial"
NOTEBOOKS = sorted(TUTORIAL.glob("*.ipynb"))


def read(path):
    return nbformat.read(path, as_version=4)


def solutions(notebook):
    """Places of the cells that show how an exercise is done, and the code in them."""
    for place, cell in enumerate(notebook.cells):
        if cell.source.startswith("<details><summary>Solution</summary>"):
            yield place, re.search(r"^```python\n(.*?)^```", cell.source, re.S | re.M)[1]


def solved(notebook):
    """Behind each solution its code as a cell of its own, and the check once more."""
    whole = copy.deepcopy(notebook)
    for place, code in reversed(list(solutions(notebook))):
        again = copy.deepcopy(notebook.cells[place - 1])
        again.id += "-again"
        whole.cells[place + 1 : place + 1] = [nbformat.v4.new_code_cell(code), again]
    return whole


def printed(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_no_outputs_and_a_check_for_each_exercise(path):
    notebook = read(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert notebook.cells[0].source.startswith("# ")
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    exercises = re.findall(r"^\d+\. ", text.partition("## Exercises")[2], re.M)
    places = [place for place, _ in solutions(notebook)]
    assert len(places) == len(exercises) > 0
    for place in places:
        empty, test = notebook.cells[place - 2 : place]
        assert empty.source == ""
        assert re.search(r"^check\(", test.source, re.M)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # no MNIST in the cache
    monkeypatch.setenv("PYTHONPATH", str(TUTORIAL.parent))
    for name in ("KERAS_BACKEND", "KERAS_HOME", "KERAS_LC_MNIST"):
        monkeypatch.delenv(name, raising=False)
    for module in TUTORIAL.glob("*.py"):
        shutil.copy(module, tmp_path)
    notebook = solved(read(path))
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for place, cell in enumerate(notebook.cells):
        if cell.get("id", "").endswith("-again"):
            assert printed(notebook.cells[place - 3]).startswith("Not yet: ")
            assert printed(cell).endswith("Right.\n")


def test_mnist_is_taken_where_it_is_at_hand(tmp_path, monkeypatch):
    images, labels = np.full((3, 28, 28), 255, "uint8"), np.arange(3, dtype="uint8")
    file = tmp_path / "datasets" / "mnist.npz"
    file.parent.mkdir()
    np.savez(file, x_train=images, y_train=labels, x_test=images[:1], y_test=labels[:1])
    monkeypatch.setenv("KERAS_LC_MNIST", str(file))
    (x, y), (x_test, y_test) = digits()
    assert x.shape == (3, 28, 28)
    assert x.dtype == "float32"
    assert x.max() == 1
    assert list(y) == [0, 1, 2]
    assert len(x_test) == len(y_test) == 1
    monkeypatch.delenv("KERAS_LC_MNIST")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert len(digits()[0][0]) == 3
    monkeypatch.setenv("KERAS_LC_MNIST", str(tmp_path / "missing.npz"))
    with pytest.raises(FileNotFoundError):
        digits()


def test_the_digits_of_scikit_learn_are_the_size_of_mnist(tmp_path, monkeypatch):
    monkeypatch.delenv("KERAS_LC_MNIST", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (x, y), (x_test, y_test) = digits()
    assert x.shape == (1400, 28, 28)
    assert x_test.shape == (397, 28, 28)
    assert 0 == x.min() < x.max() == 1
    assert set(y) == set(y_test) == set(range(10))


def test_a_check_tells_what_is_missing_and_what_is_wrong(capsys):
    check(lambda: answer == 3, "too low")  # noqa: F821
    check(lambda: 2 == 3, "too low")
    check(lambda: 3 == 3, "too low")
    shown = "Not yet: name 'answer' is not defined.\nNot yet: too low.\nRight.\n"
    assert capsys.readouterr().out == shown
