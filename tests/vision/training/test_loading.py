import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vision.data.sample import Sample
from vision.datasets import numbered
from vision.training.loading import Prepared, epoch_order, load


class Numbers:
    """A data set whose pictures tell their number; some of them are broken."""

    def __init__(self, count, broken=()):
        self.names = [str(number) for number in range(count)]
        self.dataset, self.broken = numbered(count), broken

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        if index in self.broken:
            raise ValueError(f"{index}.png: cannot be read")
        return Sample(self.names[index], Image.new("RGB", (4, 4), (index, 0, 0)), label=index)


def number_and_draw(sample, rng):
    return torch.tensor([sample.label, rng.random()]), torch.tensor(sample.label)


def drawn(broken="refuse", workers=0, epoch=0, reader=None, batches=None, seed=1):
    reader = reader or Numbers(7)
    batches = epoch_order(len(reader), 3, seed=seed, epoch=epoch) if batches is None else batches
    return list(load(Prepared(reader, number_and_draw, seed=seed, epoch=epoch, broken=broken), batches, workers))


def assert_same(some, others):
    for (images, targets, passed), (images_, targets_, passed_) in zip(some, others, strict=True):
        assert torch.equal(images, images_)
        assert torch.equal(targets, targets_)
        assert passed == passed_


@given(count=st.integers(1, 40), size=st.integers(1, 12), ranks=st.integers(1, 4), epoch=st.integers(0, 3))
def test_every_picture_is_read_once_an_epoch_but_for_an_incomplete_batch(count, size, ranks, epoch):
    batch_size = size * ranks
    if count < batch_size:
        with pytest.raises(ValueError, match=f"there are only {count} training pictures"):
            epoch_order(count, batch_size, seed=1, epoch=epoch)
        return
    shares = [epoch_order(count, batch_size, seed=1, epoch=epoch, rank=rank, ranks=ranks) for rank in range(ranks)]
    whole = epoch_order(count, batch_size, seed=1, epoch=epoch)
    assert np.array_equal(np.concatenate(shares, axis=1), whole)  # the processes share the very same batches
    read = whole.ravel().tolist()
    assert len(set(read)) == len(read) == count - count % batch_size


def test_processes_share_a_batch_equally_or_not_at_all():
    with pytest.raises(ValueError, match="batch_size=5: must be a multiple of the 2 processes"):
        epoch_order(10, 5, seed=1, epoch=0, ranks=2)


def test_epochs_and_seeds_differ():
    orders = [tuple(epoch_order(30, 30, seed=s, epoch=e).ravel()) for s, e in ((1, 0), (1, 1), (2, 0))]
    assert len(set(orders)) == 3


def test_what_is_drawn_depends_on_neither_workers_nor_where_one_begins():
    whole = drawn()
    assert_same(whole, drawn(workers=2))
    rest = epoch_order(7, 3, seed=1, epoch=0)[1:]
    assert_same(whole[1:], drawn(batches=rest))
    assert not torch.equal(whole[0][0], drawn(epoch=1)[0][0])


def test_loading_leaves_the_training_s_own_chance_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    drawn()
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_is_refused_with_its_name(workers):
    with pytest.raises(ValueError, match=r"^5\.png: cannot be read$"):
        drawn(reader=Numbers(6, broken=(5,)), workers=workers)


def test_a_broken_picture_gives_way_to_the_next_good_one_and_is_counted():
    batches = drawn("skip", reader=Numbers(6, broken=(0, 5)))
    labels = sorted(label for _, targets, _ in batches for label in targets.tolist())
    assert labels == [1, 1, 1, 2, 3, 4]  # 5 and 0 are both followed by 1
    assert sum(passed for *_, passed in batches) == 3


def test_where_all_are_broken_there_is_an_error_and_no_endless_search():
    with pytest.raises(ValueError, match="not one picture of the data set can be read"):
        drawn("skip", reader=Numbers(6, broken=range(6)))
