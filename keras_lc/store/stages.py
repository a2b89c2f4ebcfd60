"""What a run says of its stages: `run.json`, and one `<id>.stage.json` for each stage.

The files name checkpoints of their directory by digest. A stage is what its file says and nothing
else: a checkpoint that none of them names belongs to nobody.
"""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from keras_lc.errors import DamagedError, FormatError, StoreError
from keras_lc.store.directory import Directory

RUN = "run.json"
STAGE = ".stage.json"
VERSION = 1
END, BEST, LAST = "end", "best", "last"
_FLOAT = "$float"


@dataclass(frozen=True)
class State:
    """A checkpoint of the run: its name, for people, and the digest of its record."""

    name: str
    digest: str


@dataclass(frozen=True)
class Parent:
    """What a stage was trained from: the state `which` of another one, and with `schedule` False
    the schedule that this one had come to at its end."""

    stage: str
    which: str = END
    schedule: bool = True


@dataclass(frozen=True)
class Fit:
    """One call of `fit`.

    Attributes:
        prefix: begins the names of its checkpoints, and of no others.
        fingerprint: what it was called with.
        complete: whether it came to its end; the rest is known only then.
        seconds: that its last process took.
        watch: the metric that tells the best epoch.
        best: number of that epoch, from 0.
        epoch, logs: as `History` has them.
        states: its end, its best and its last epoch.
    """

    prefix: str
    fingerprint: dict[str, Any]
    complete: bool = False
    seconds: float | None = None
    watch: str | None = None
    best: int = 0
    epoch: list[int] = field(default_factory=list)
    logs: dict[str, list[float]] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        id: also begins the name of its file.
        description: for people.
        parent: None where it begins with the model as it is built.
        compile: what it was compiled with, as far as it did not take that over from its parent.
        fits: in the order of the calls.
        cached: name of an operation to its `fingerprint` and `result`.
        created: time at which it was first trained, ISO 8601.
    """

    id: str
    description: str = ""
    parent: Parent | None = None
    compile: dict[str, Any] = field(default_factory=dict)
    fits: list[Fit] = field(default_factory=list)
    cached: dict[str, dict[str, Any]] = field(default_factory=dict)
    created: str = ""

    @property
    def complete(self) -> bool:
        """Whether there is an end to go on from."""
        return bool(self.fits) and all(fit.complete for fit in self.fits)

    def states(self) -> Iterator[State]:
        """All that must be there for it."""
        for fit in self.fits:
            yield from fit.states.values()


@dataclass(frozen=True)
class Run:
    """What all stages share.

    Attributes:
        description: for people.
        model: what the model was built like.
        start: the model as it was built.
    """

    description: str = ""
    model: dict[str, Any] = field(default_factory=dict)
    start: State | None = None


@dataclass(frozen=True)
class Book:
    """All that the files of a run say."""

    run: Run
    stages: dict[str, Stage]

    def children(self, id: str) -> list[str]:  # noqa: A002
        """Stages that were trained from this one."""
        return [s.id for s in self.stages.values() if s.parent and s.parent.stage == id]

    def family(self, id: str) -> list[str]:  # noqa: A002
        """A stage and all below it, children before their parents."""
        below = [one for child in self.children(id) for one in self.family(child)]
        return [*below, id]

    def origin(self, parent: Parent | None) -> str | None:
        """Digest of what a stage of this parent is to be trained from; None if there is none."""
        if parent is None:
            return self.run.start.digest if self.run.start else None
        stage = self.stages.get(parent.stage)
        if stage is None or not stage.complete:
            return None
        states = stage.fits[-1].states
        return origin(states[parent.which], None if parent.schedule else states[END])

    def is_stale(self, stage: Stage) -> bool:
        """Whether what it was trained from, or what that was trained from, is another one now."""
        if not stage.fits:
            return False
        if stage.fits[0].fingerprint.get("parent") != self.origin(stage.parent):
            return True
        return stage.parent is not None and self.is_stale(self.stages[stage.parent.stage])


def origin(state: State, schedule: State | None = None) -> str:
    """Digest of what a stage is trained from, of which the schedule may be another state's."""
    return state.digest + (f" {schedule.digest}" if schedule else "")


def is_run(directory: Directory) -> bool:
    """Whether there is a run in a directory."""
    return RUN in directory.list()


def read(directory: Directory) -> Book:
    """All that the files of a run say; there need not be any.

    Raises:
        DamagedError, FormatError: one of them cannot be read.
    """
    book, faults = inspect(directory)
    for error in faults.values():
        raise error
    return book


def inspect(directory: Directory) -> tuple[Book, dict[str, DamagedError | FormatError]]:
    """What can be read, and why a file cannot."""
    faults: dict[str, DamagedError | FormatError] = {}
    run, stages = Run(), {}
    for file in sorted(directory.list()):
        if file.startswith(".") or not (file == RUN or file.endswith(STAGE)):
            continue
        try:
            document = _document(directory, file)
            if file == RUN:
                run = _run(document)
            else:
                stage = _stage(document)
                stages[stage.id] = stage
        except (DamagedError, FormatError) as error:
            faults[file] = error
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            faults[file] = DamagedError(
                f"{directory.child(file)!r} cannot be understood ({error!r}); move it away to have "
                "what it tells of trained anew."
            )
    return Book(run, _ordered(stages)), faults


def lost(book: Book, there: Container[str]) -> dict[str, list[str]]:
    """File to the names of checkpoints that it needs and whose digests are not there."""
    named = {stage.id + STAGE: list(stage.states()) for stage in book.stages.values()}
    named[RUN] = [book.run.start] if book.run.start else []
    gone = {
        file: [state.name for state in states if state.digest not in there]
        for file, states in named.items()
    }
    return {file: list(dict.fromkeys(names)) for file, names in gone.items() if names}


def write_run(directory: Directory, run: Run) -> None:
    """Write what all stages share."""
    _write(directory, RUN, asdict(run))


def write_stage(directory: Directory, stage: Stage) -> None:
    """Write a stage, in the place of what was said of it before."""
    _write(directory, stage.id + STAGE, asdict(stage))


def remove_stage(directory: Directory, id: str) -> None:  # noqa: A002
    """Delete the file of a stage."""
    directory.remove(id + STAGE)


def _write(directory: Directory, file: str, document: dict[str, Any]) -> None:
    text = json.dumps(_told({"format": VERSION, **document}), indent=1, allow_nan=False)
    with directory.write_once(file) as opened:
        opened.write(text.encode())


def _document(directory: Directory, file: str) -> dict[str, Any]:
    try:
        with directory.open(file) as opened:
            document = _meant(json.loads(opened.read()))
    except OSError as error:
        raise StoreError(f"cannot read {directory.child(file)!r}: {error}") from error
    if (version := document["format"]) > VERSION:
        raise FormatError(
            f"{directory.child(file)!r} is of version {version}, and this is keras_lc for version "
            f"{VERSION}; install a newer one."
        )
    return dict(document)


def _run(document: dict[str, Any]) -> Run:
    start = document["start"]
    return Run(document["description"], document["model"], State(**start) if start else None)


def _stage(document: dict[str, Any]) -> Stage:
    parent = document["parent"]
    fits = []
    for fit in document["fits"]:
        states = {which: State(**state) for which, state in fit["states"].items()}
        known = {key: fit[key] for key in Fit.__dataclass_fields__}
        fits.append(Fit(**known | {"states": states}))
        if fit["complete"] and states.keys() != {END, BEST, LAST}:
            raise ValueError(f"the states of {fit['prefix']} are {sorted(states)}")
    return Stage(
        document["id"],
        document["description"],
        Parent(**parent) if parent else None,
        document["compile"],
        fits,
        document["cached"],
        document["created"],
    )


def _ordered(stages: dict[str, Stage]) -> dict[str, Stage]:
    """Parents before their children, else in the order in which they were first trained."""
    found: dict[str, Stage] = {}

    def add(stage: Stage, below: frozenset[str]) -> None:
        above = stages.get(stage.parent.stage) if stage.parent else None
        if above is not None and above.id not in found and above.id not in below:
            add(above, below | {stage.id})
        found[stage.id] = stage

    for stage in sorted(stages.values(), key=lambda stage: stage.created):
        add(stage, frozenset())
    return found


def _told(value: Any) -> Any:
    """As strict JSON, which has no numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _told(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_told(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: str(value)}
    return value


def _meant(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_FLOAT}:
            return float(value[_FLOAT])
        return {key: _meant(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_meant(item) for item in value]
    return value
