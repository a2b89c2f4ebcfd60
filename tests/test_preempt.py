import signal
import threading

import pytest

from keras_lc import CheckpointError
from keras_lc.preempt import Preemption

USR1, USR2 = signal.SIGUSR1, signal.SIGUSR2


@pytest.fixture(autouse=True)
def handlers():
    before = {number: signal.getsignal(number) for number in (USR1, USR2, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def listening(*signals, alive=True):
    preemption = Preemption(signals)
    preemption.listen(lambda frame: alive)
    return preemption


def test_a_signal_is_noted_and_does_nothing_else():
    preemption = listening("SIGUSR1", USR2)
    assert preemption.received is None
    signal.raise_signal(USR2)
    assert preemption.received is USR2
    signal.raise_signal(USR1)
    assert preemption.received is USR1


def test_handlers_of_before_are_called_and_put_back():
    seen = []

    def before(number, frame):
        seen.append((number, frame is not None))

    signal.signal(USR1, before)
    preemption = listening("SIGUSR1", "SIGUSR2")
    signal.raise_signal(USR1)
    assert seen == [(USR1, True)]
    preemption.close()
    assert signal.getsignal(USR1) is before
    assert signal.getsignal(USR2) is signal.SIG_DFL
    assert preemption.received is USR1  # still known


def test_a_handler_that_came_later_stays():
    preemption = listening("SIGUSR1")

    def later(number, frame):
        pass

    signal.signal(USR1, later)
    preemption.close()
    assert signal.getsignal(USR1) is later


def test_listening_anew_forgets():
    preemption = listening("SIGUSR1")
    signal.raise_signal(USR1)
    preemption.listen(lambda frame: True)
    assert preemption.received is None
    preemption.close()
    assert signal.getsignal(USR1) is signal.SIG_DFL


def test_a_signal_after_the_training_was_left_does_what_it_did_before():
    seen = []

    def before(number, frame):
        seen.append(number)

    signal.signal(USR1, before)
    preemption = listening("SIGUSR1", alive=False)
    signal.raise_signal(USR1)
    assert seen == [USR1]
    assert preemption.received is None
    assert signal.getsignal(USR1) is before


def test_a_second_interrupt_interrupts():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    preemption = listening("SIGINT")
    signal.raise_signal(signal.SIGINT)
    assert preemption.received is signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("wrong", ["SIGNOTHING", 12345, "SIGKILL", "usr1"])
def test_what_cannot_be_caught_is_refused(wrong):
    with pytest.raises(CheckpointError, match=str(wrong)):
        Preemption([wrong])


def test_one_signal_need_not_be_in_a_list():
    assert Preemption("SIGUSR1")
    assert not Preemption(())


def test_in_another_thread_there_is_a_warning():
    found = []

    def run():
        with pytest.warns(UserWarning, match="main thread"):
            found.append(listening("SIGUSR1"))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert len(found) == 1
    assert signal.getsignal(USR1) is signal.SIG_DFL
