import hashlib

import numpy as np
import pytest

from datamodules.sampling import EvaluationBatchSampler, TrainingSampler


@pytest.mark.parametrize(("length", "world_size"), [(10, 1), (11, 2), (17, 3)])
def test_training_draws_are_shared_out_without_overlap(length: int, world_size: int) -> None:
    samplers = [TrainingSampler(length, 0, rank, world_size) for rank in range(world_size)]
    draws = [[draw.image for draw in sampler] for sampler in samplers]
    assert {len(drawn) for drawn in draws} == {length // world_size} == {len(samplers[0])}
    every = [image for drawn in draws for image in drawn]
    assert len(set(every)) == len(every)


def test_epochs_have_orders_of_their_own_that_repeat() -> None:
    sampler = TrainingSampler(20, seed=1)
    first, again = list(sampler), list(sampler)
    sampler.set_epoch(1)
    assert first == again != list(sampler)


def test_orders_and_seeds_stay_those_of_earlier_versions() -> None:
    sampler = TrainingSampler(17, 3)
    sampler.set_epoch(2)
    assert hashlib.sha256(repr([tuple(draw) for draw in sampler]).encode()).hexdigest().startswith("2053585fc04bb423")


@pytest.mark.parametrize(("balance", "expected"), [(1.0, [20, 20, 20]), (0.5, [36, 17, 7]), (1e-9, [48, 10, 2])])
def test_balanced_epochs_have_shares_of_classes_and_take_turns(balance: float, expected: list[int]) -> None:
    targets = np.repeat([0, 1, 2], [48, 10, 2])
    sampler = TrainingSampler(60, seed=1, balance=balance, targets=targets)
    epochs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
        images = np.array([draw.image for draw in epochs[-1]])
        assert np.bincount(targets[images]).tolist() == expected
        assert len({draw.seed for draw in epochs[-1]}) == 60
        for index in range(3):
            drawn = np.bincount(images, minlength=60)[targets == index]
            assert drawn.max() - drawn.min() <= 1
    assert epochs[0] != epochs[1]
    sampler.set_epoch(0)
    assert list(sampler) == epochs[0]
    halves = [TrainingSampler(60, 1, rank, 2, balance=balance, targets=targets) for rank in range(2)]
    assert sorted(draw for half in halves for draw in half) == sorted(epochs[0])


def test_repeats_land_in_different_processes() -> None:
    drawn = [{draw.image for draw in TrainingSampler(12, 0, rank, 3, repeats=3)} for rank in range(3)]
    assert drawn[0] == drawn[1] == drawn[2]
    assert len(drawn[0]) == 4


@pytest.mark.parametrize(("length", "repeats"), [(12, 3), (10, 3), (7, 2)])
def test_repeats_keep_the_length_of_an_epoch(length: int, repeats: int) -> None:
    drawn = [draw.image for draw in TrainingSampler(length, 0, repeats=repeats)]
    assert len(drawn) == length
    assert len(set(drawn)) == -(-length // repeats)
    in_a_row = [drawn[start : start + repeats] for start in range(0, length, repeats)]
    assert all(len(set(copies)) == 1 for copies in in_a_row)


@pytest.mark.parametrize(("length", "batch_size", "world_size"), [(10, 4, 1), (25, 12, 2), (25, 6, 4), (7, 8, 3)])
def test_evaluation_sees_every_image_once_in_equally_many_batches(
    length: int, batch_size: int, world_size: int
) -> None:
    batches = [
        list(EvaluationBatchSampler(range(length), batch_size, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert len({len(own) for own in batches}) == 1
    assert sorted(index for own in batches for batch in own for index in batch) == list(range(length))
    assert all(0 < len(batch) <= batch_size for own in batches for batch in own)


def test_too_few_images_for_the_processes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.batch_size = 1"):
        EvaluationBatchSampler(range(3), 1, rank=0, world_size=2)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 3), (4, 2)])
def test_an_epoch_goes_on_with_another_number_of_processes(before: int, after: int) -> None:
    done = 24  # images over all processes
    first = [list(TrainingSampler(60, 3, rank, before, epoch=5))[: done // before] for rank in range(before)]
    rest = [list(TrainingSampler(60, 3, rank, after, epoch=5, start=done // after)) for rank in range(after)]
    draws = [draw for part in (*first, *rest) for draw in part]
    assert sorted(draws) == sorted(TrainingSampler(60, 3, epoch=5))


@pytest.mark.parametrize(("length", "world_size", "repeats"), [(12, 2, 3), (13, 3, 2), (5, 4, 3)])
def test_repeats_can_be_kept_together(length: int, world_size: int, repeats: int) -> None:
    for rank in range(world_size):
        drawn = [d.image for d in TrainingSampler(length, 0, rank, world_size, repeats, together=True)]
        assert len(drawn) == length // world_size
        in_a_row = [set(drawn[start : start + repeats]) for start in range(0, len(drawn), repeats)]
        assert all(len(copies) == 1 for copies in in_a_row)
    apart = list(TrainingSampler(length, 0, repeats=repeats))
    assert apart == list(TrainingSampler(length, 0, repeats=repeats, together=True))
