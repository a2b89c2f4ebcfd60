"""What goes, and in which order: files of stages first, children before their parents, then the
checkpoints that nobody names any more. Wherever this is stopped, what is left is a run."""

from __future__ import annotations

from keras_lc.errors import OptionError
from keras_lc.stages import states
from keras_lc.stages.session import Session
from keras_lc.store import index, stages
from keras_lc.store.stages import Book, Run


def delete_stages(session: Session, id: str, cascade: bool) -> None:  # noqa: A002
    """Delete a stage, and with `cascade` all that were trained from it.

    Raises:
        NotFoundError: there is no such stage.
        OptionError: it has children, or its block is being run.
    """
    family = session.book_with(id).family(id)
    session.check_no_block(*family)
    if len(family) > 1 and not cascade:
        others = ", ".join(repr(other) for other in family[:-1])
        raise OptionError(
            f"{others} were trained from stage {id!r}: delete them first, or all at once with "
            "cascade=True."
        )
    with session.writing():
        for one in family:
            stages.remove_stage(session.directory, one)
        states.sweep(session.directory, session.book)
    session.forget(*family)


def delete_run(session: Session) -> None:
    """Delete all of a run, but for files that are no part of it."""
    directory = session.directory
    session.check_no_block()
    if directory.exists():
        with session.writing():
            for one in reversed(session.book.stages):
                stages.remove_stage(directory, one)
            stages.write_run(directory, Run())  # it names no checkpoint
            states.sweep(directory, Book(Run(), {}))
            directory.remove(index.INDEX)
            directory.remove(stages.RUN)
    session.rebuild()
