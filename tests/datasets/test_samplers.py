import itertools
import pickle

import pytest
from distributed import run_ranks
from mmengine.dataset import BaseDataset, ClassBalancedDataset, ConcatDataset
from torch.utils.data import BatchSampler

from mmvmt.datasets.samplers import SampleKey, SeededInfiniteSampler, derive_seed


def take(sampler, number):
    return [(int(key), key.seed) for key in itertools.islice(iter(sampler), number)]


def test_every_pass_is_a_new_permutation_and_every_draw_has_its_own_seed():
    keys = take(SeededInfiniteSampler(range(7), seed=3), 21)
    passes = [[index for index, _ in keys[start : start + 7]] for start in (0, 7, 14)]
    assert all(sorted(order) == list(range(7)) for order in passes)
    assert passes[0] != passes[1]
    assert len({seed for _, seed in keys}) == 21


def test_without_shuffle_the_order_is_kept_and_seeds_still_differ():
    keys = take(SeededInfiniteSampler(range(3), shuffle=False, seed=3), 6)
    assert [index for index, _ in keys] == [0, 1, 2, 0, 1, 2]
    assert len({seed for _, seed in keys}) == 6


def test_the_stream_is_a_function_of_the_seed():
    assert take(SeededInfiniteSampler(range(9), seed=1), 9) == take(SeededInfiniteSampler(range(9), seed=1), 9)
    assert take(SeededInfiniteSampler(range(9), seed=1), 9) != take(SeededInfiniteSampler(range(9), seed=2), 9)


@pytest.mark.parametrize('skipped', [0, 1, 6, 7, 15])
def test_skipping_goes_on_where_an_uninterrupted_run_would_be(skipped):
    whole = take(SeededInfiniteSampler(range(7), seed=5), 30)
    sampler = SeededInfiniteSampler(range(7), seed=5)
    sampler.skip(skipped)
    assert take(sampler, 10) == whole[skipped : skipped + 10]


def test_negative_skip_is_an_error():
    with pytest.raises(ValueError, match='must not be negative, got -1'):
        SeededInfiniteSampler(range(7), seed=5).skip(-1)


def keys_of_rank(rank, world_size):
    sampler = SeededInfiniteSampler(range(5), seed=5)
    sampler.skip(2)
    return take(sampler, 6)


def test_ranks_deal_one_stream_among_them():
    whole = take(SeededInfiniteSampler(range(5), seed=5), 16)
    first, second = run_ranks(keys_of_rank, 2)
    assert [key for pair in zip(first, second) for key in pair] == whole[4:16]


def epoch_of_ranks(size, world_size, **options):
    """What each rank sees of epoch 2."""
    samplers = [SeededInfiniteSampler(range(size), seed=5) for _ in range(world_size)]
    for rank, sampler in enumerate(samplers):
        sampler.rank, sampler.world_size = rank, world_size
        sampler.start_epoch(2, **options)
    return samplers, [[(int(key), key.seed) for key in sampler] for sampler in samplers]


@pytest.mark.parametrize('drop_last', [False, True])
def test_ranks_end_an_epoch_together_and_no_image_comes_twice(drop_last):
    for size, world_size, batch_size in itertools.product(range(4, 14), range(1, 5), range(1, 5)):
        case = dict(size=size, world_size=world_size, batch_size=batch_size, drop_last=drop_last)
        samplers, keys = epoch_of_ranks(**case)
        batches = {len(BatchSampler(of_rank, batch_size, drop_last)) for of_rank in keys}
        # What a loop counts on: the length of the loader.
        assert batches == {len(BatchSampler(samplers[0], batch_size, drop_last))}, case
        seen = [index for of_rank in keys for index, _ in of_rank]
        assert len(set(seen)) == len(seen) > size - world_size, case


@pytest.mark.parametrize(
    'size, world_size, batch_size, drop_last, seen',
    [(9, 1, 2, False, 9), (9, 2, 3, False, 9), (9, 2, 2, False, 8), (9, 2, 2, True, 9), (9, 2, 5, True, 8)],
)
def test_an_image_is_left_out_only_where_it_would_make_a_batch_of_some_ranks(
    size, world_size, batch_size, drop_last, seen
):
    _, keys = epoch_of_ranks(size, world_size, batch_size=batch_size, drop_last=drop_last)
    assert sum(map(len, keys)) == seen


def test_epochs_are_the_passes_of_the_stream():
    whole = take(SeededInfiniteSampler(range(7), seed=5), 21)
    _, (first, second) = epoch_of_ranks(7, 2, batch_size=2)
    assert [key for pair in itertools.zip_longest(first, second) for key in pair if key] == whole[14:]
    _, (rest, _) = epoch_of_ranks(7, 2, batch_size=2, batches_done=1)
    assert rest == first[2:]


def test_more_ranks_than_images_have_no_epochs():
    with pytest.raises(ValueError, match='2 training images cannot be dealt to 3 processes; use fewer'):
        epoch_of_ranks(2, 3, batch_size=1)


def test_a_key_travels_to_workers_with_its_seed():
    key = pickle.loads(pickle.dumps(SampleKey(4, 99)))
    assert (key, key.seed) == (4, 99)
    assert [10, 20, 30, 40, 50][key] == 50


@pytest.mark.parametrize('inside', [False, True])
def test_wrappers_that_lose_the_seeds_are_refused(inside):
    class Plain(BaseDataset):
        def load_data_list(self):
            return [dict(number=number) for number in range(3)]

        def get_cat_ids(self, idx):
            return [0]

    plain = Plain()
    wrapper = ClassBalancedDataset(plain, oversample_thr=1e-3)
    dataset = ConcatDataset([wrapper.dataset, plain]) if inside else wrapper
    if inside:
        assert len(SeededInfiniteSampler(dataset, seed=0)) == 6
        dataset.datasets[0] = wrapper
    with pytest.raises(TypeError, match='ClassBalancedDataset wraps other data sets'):
        SeededInfiniteSampler(dataset, seed=0)


def test_derived_seeds_are_the_same_everywhere():
    assert derive_seed('sample', 0, 0) == derive_seed('sample', 0, 0)
    assert 0 <= derive_seed('sample', 0, 1) < 2**32
    assert derive_seed('sample', 0, 1) != derive_seed('iteration', 0, 1)
