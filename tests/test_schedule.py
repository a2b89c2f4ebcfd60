from datetime import timedelta

import pytest

from keras_lc import CheckpointError
from keras_lc.schedule import BatchSchedule, TimeSchedule, schedule


def saves(every, batches):
    schedule = BatchSchedule(every)
    return [
        (epoch, batch) for epoch, epoch_batches in enumerate(batches)
        for batch in epoch_batches if schedule.due(batch)
    ]  # fmt: skip


def test_counts_across_epochs_as_keras_does():
    assert saves(3, [range(5)] * 3) == [(0, 2), (1, 0), (1, 3), (2, 1), (2, 4)]


def test_counts_steps_per_execution():
    assert saves(3, [[3, 7, 11]]) == [(0, 3), (0, 7), (0, 11)]


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "batch", None])
def test_anything_but_a_number_of_batches_is_refused(every):
    with pytest.raises(CheckpointError, match="save_freq"):
        BatchSchedule(every)


@pytest.mark.parametrize("cut", range(1, 15))
def test_batches_are_counted_on_in_another_process(cut):
    events = [(epoch, batch) for epoch in range(3) for batch in range(5)]
    first = BatchSchedule(3)
    saved = [event for event in events[:cut] if first.due(event[1])]
    second = BatchSchedule(3)
    second.restore(first.state())
    saved += [event for event in events[cut:] if second.due(event[1])]
    assert saved == saves(3, [range(5)] * 3)


def test_time_passes():
    now = 100.0
    span = TimeSchedule(timedelta(minutes=10), clock=lambda: now)
    times = []
    for batch in range(40):
        if span.due(batch % 7):
            times.append(now)
        now += 100
    assert times == [700.0, 1300.0, 1900.0, 2500.0, 3100.0, 3700.0]
    assert span.state() == {}
    span.restore({})
    assert not span.due(0)
    now += 600
    assert span.due(1)


def test_what_a_user_means():
    assert isinstance(schedule(4), BatchSchedule)
    assert isinstance(schedule(timedelta(seconds=1)), TimeSchedule)


@pytest.mark.parametrize("span", [timedelta(0), timedelta(seconds=-1)])
def test_a_span_of_time_is_positive(span):
    with pytest.raises(CheckpointError, match="save_freq"):
        TimeSchedule(span)
