"""plot, report, and figures in a notebook and a terminal."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import keras_lc as package
from keras_lc.figures import terminal
from keras_lc.report.history import history
from keras_lc.report.plot import panels
from keras_lc.store import safetensors
from tests.cli.commands import keras_lc
from tests.cli.conftest import STATES, make

ROOT = Path(__file__).parents[2]
VOID = {"meta", "br"}


class Checked(HTMLParser):
    """Every element is closed, in its order; nothing comes from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        assert tag not in ("script", "link", "iframe")
        for name, value in attributes:
            if name in ("src", "href", "xlink:href"):
                assert value.startswith(("#", "data:")), value
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_history_is_that_of_the_weights(training):
    drawn = history(training)
    assert drawn.tensors == ("weights/0", "weights/1")  # not the frozen one, nor the optimizer
    assert [point.id for point in drawn.checkpoints] == [f"cp-000{i}" for i in range(1, 7)]
    assert drawn.checkpoints[0].movement == (None, None)
    way = STATES[3]["weights/0"].astype(float) - STATES[2]["weights/0"]
    expected = np.linalg.norm(way) / np.linalg.norm(STATES[3]["weights/0"])
    assert drawn.checkpoints[3].movement[0] == pytest.approx(expected)
    assert {point.bound for point in drawn.checkpoints} == {(0.0, 0.0)}
    assert list(panels(drawn)) == ["size", "total", "falling", "rising", "movement"]


@pytest.mark.parametrize("codec", ["balanced", "fast"])
def test_no_value_is_further_off_than_the_bound(tmp_path, codec):
    make(tmp_path, codec=codec)
    drawn = history(tmp_path)
    assert "error" in panels(drawn)
    for i in (2, 4, 6):
        tensors = keras_lc("info", tmp_path / f"cp-000{i}", "--tensors", "--json").json["tensors"]
        bounds = {tensor["name"]: tensor["bound"] for tensor in tensors}
        for name in ("weights/0", "weights/1"):
            found = package.loader.load_named(tmp_path / f"cp-000{i}").decoder.reconstruction
            error = np.abs(found[name].astype(float) - STATES[i - 1][name]).max()
            assert 0 < error <= bounds[name] * 1.0001
        own = np.sqrt(np.mean(np.square(found["weights/0"].astype(float))))
        assert drawn.checkpoints[i - 1].bound[0] == pytest.approx(bounds["weights/0"] / own)


def test_the_bound_holds_for_matrices_too(tmp_path):
    rng = np.random.default_rng(0)
    states = [rng.normal(size=(128, 128)).astype(np.float32)]
    for _ in range(3):
        way = rng.normal(size=(128, 2)) @ rng.normal(size=(2, 128)) + rng.normal(size=(128, 128))
        states.append((states[-1] + 0.003 * way).astype(np.float32))
    for i, state in enumerate(states):
        with open(tmp_path / f"s{i}.safetensors", "wb") as file:
            safetensors.write(file, {"w": state}, {})
    files = tmp_path.glob("*.safetensors")
    keras_lc("import", *files, "--to", tmp_path / "chain", "--codec", "balanced")
    for i in (1, 2, 3):
        reference = tmp_path / f"chain/s{i}"
        (tensor,) = keras_lc("info", reference, "--tensors", "--json").json["tensors"]
        assert tensor["kind"] == "lattice"
        way = package.loader.load_named(reference).decoder.reconstruction["w"] - states[i]
        assert tensor["bound"] / 10 < np.abs(way).max() <= tensor["bound"]


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_plot_draws_a_picture(training, tmp_path, suffix):
    target = tmp_path / f"p.{suffix}"
    document = keras_lc("plot", training, target, "--json").json
    assert document["target"] == str(target)
    magic = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert target.read_bytes().startswith(magic)
    target.write_bytes(b"precious")
    assert "--force" in keras_lc("plot", training, target, code=1).err
    assert target.read_bytes() == b"precious"
    keras_lc("plot", training, target, "--force")
    assert target.read_bytes().startswith(magic)


def test_plot_says_what_it_cannot_draw(training, tmp_path):
    assert ".png" in keras_lc("plot", training, tmp_path / "p.jpeg", code=1).err
    (tmp_path / "empty").mkdir()
    assert "no checkpoint" in keras_lc("plot", tmp_path / "empty", tmp_path / "p.png", code=3).err
    with mock.patch.dict(sys.modules, {"matplotlib.figure": None}):
        err = keras_lc("plot", training, tmp_path / "p.png", code=1).err
    assert err == "keras-lc: drawing needs matplotlib: pip install 'keras-lc[plot]'\n"


def test_a_damaged_checkpoint_is_left_out_of_the_picture(training, tmp_path):
    (training / "cp-0005.weights.h5").write_bytes(b"\x89LCK\r\n\x1a\n" + bytes(99))
    document = keras_lc("plot", training, tmp_path / "p.png", "--json", code=2).json
    points = {point["id"]: point for point in document["checkpoints"]}
    assert points["cp-0006"]["damaged"]
    assert points["cp-0006"]["movement"] == []
    assert points["cp-0004"]["movement"][0] > 0


def test_the_page_stands_alone(training, tmp_path):
    (training / "cp-0002.lcd").write_bytes(b"\x89LCK\r\n\x1a\n" + bytes(99))
    (training / "x<b>.lcd").write_bytes(b"")
    training = training.rename(tmp_path / "a <b> & c")
    target = tmp_path / "page.html"
    keras_lc("report", training, target, code=2)
    text = target.read_text()
    page = Checked(text)
    assert page.seen.count("svg") == 5
    assert "a <b> & c" in page.text
    assert all(name in page.text for name in ("cp-0001", "cp-0002.lcd", "cp-0006", "x<b>.lcd"))
    assert not re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?https?:", text)
    assert text.count('class="base') == 3  # two, and the key
    assert "--force" in keras_lc("report", training, target, code=1).err


def test_figures_in_a_notebook(training):
    shown = package.show(training)
    assert Checked(shown._repr_html_()).seen.count("tr") == 7
    assert "cp-0004" in str(shown)
    assert package.show(training / "best").document()["id"] == "cp-0004"
    with pytest.raises(package.CheckpointError, match="no directory"):
        package.show(training / "nope" / "latest")


def test_figures_in_a_terminal(training, monkeypatch, capsys):
    (training / "x.lcd").write_bytes(b"")
    monkeypatch.setenv("FORCE_COLOR", "1")
    for width in (100, 130):
        monkeypatch.setenv("COLUMNS", str(width))
        terminal.show(package.show(training))
        lines = capsys.readouterr().out.splitlines()
        plain = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in lines]
        assert max(map(len, plain)) <= width
        assert "val_loss" in plain[0]
        assert plain[-1].startswith("6 checkpoints")
        assert next(line for line in lines if "x.lcd" in line).startswith("\x1b[31m")
        text = " ".join(line[plain[0].index("damaged") :].strip() for line in plain[7:-1])
        assert "the file does not begin like a checkpoint." in text


def test_nothing_is_cut_off_where_a_terminal_is_narrow(training, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "30")
    terminal.show(package.show(training))
    out = capsys.readouterr().out
    assert all(f"cp-000{i}" in out for i in range(1, 7))
    assert "…" not in out


def test_a_long_name_is_told_whole(monkeypatch, capsys):
    from keras_lc.figures import Column, Figures, Table

    class One(Figures):
        def parts(self):
            yield Table([Column("a", "a"), Column("b", "b")], [{"a": "x" * 30, "b": "y" * 50}])

    monkeypatch.setenv("COLUMNS", "60")
    terminal.show(One())
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60
    assert "".join(lines).count("y") == 50


def test_a_listing_that_no_one_reads_is_no_traceback(training):
    command = f"{sys.executable} -m keras_lc ls {training} | true"
    ran = subprocess.run(
        ["bash", "-c", command],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stderr == ""
