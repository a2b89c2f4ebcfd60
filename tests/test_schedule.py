import pytest

from keras_lc import CheckpointError
from keras_lc.schedule import BatchSchedule


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
