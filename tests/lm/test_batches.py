from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eru.lm.batches import Streams, segments

COUNT = st.integers(1, 3000)
BPTT = st.integers(1, 80)


@given(total=COUNT, bptt=BPTT, seed=st.integers(0, 2**40), epoch=st.integers(0, 99), randomised=st.booleans())
def test_windows_cover_every_position_once_in_order(total, bptt, seed, epoch, randomised):
    windows = segments(total, bptt, seed=seed, epoch=epoch, randomised=randomised)
    assert [p for start, length in windows for p in range(start, start + length)] == list(range(total))
    assert windows == segments(total, bptt, seed=seed, epoch=epoch, randomised=randomised)
    lengths = [length for _, length in windows[:-1]]
    if randomised:
        assert all(5 <= length <= bptt + 20 for length in lengths)
    else:
        assert set(lengths) <= {bptt}


def test_lengths_are_spread_as_in_awd_lstm():
    lengths = np.array([length for _, length in segments(400_000, 70, seed=1, epoch=0)[:-1]])
    short = lengths < 52
    assert short.mean() == pytest.approx(0.05, abs=0.012)
    assert lengths[~short].mean() == pytest.approx(69.5, abs=0.3)  # int() rounds down
    assert lengths[~short].std() == pytest.approx(5, abs=0.3)
    assert lengths[short].mean() == pytest.approx(34.5, abs=1.2)


def test_epochs_and_seeds_have_windows_of_their_own():
    seen = {tuple(segments(5000, 70, seed=seed, epoch=epoch)) for seed in range(3) for epoch in range(3)}
    assert len(seen) == 9


@pytest.mark.parametrize("change", [{"total": 0}, {"bptt": 0}, {"seed": -1}, {"epoch": -1}])
def test_segments_refuse_what_is_out_of_range(change):
    (name,) = change
    with pytest.raises(ValueError, match=f"{name}={change[name]}"):
        segments(**{"total": 10, "bptt": 5, "seed": 0, "epoch": 0, **change})


@given(size=st.integers(2, 300), own=st.integers(1, 5), world_size=st.integers(1, 3))
def test_ranks_read_disjoint_contiguous_streams(size, own, world_size):
    count = own * world_size
    ids = np.arange(size, dtype=np.uint16)
    if size < 2 * count:
        with pytest.raises(ValueError, match=f"{size} tokens are too few for batch_size={count}"):
            Streams(ids, count, 0, world_size)
        return
    columns = []
    for rank in range(world_size):
        streams = Streams(ids, count, rank, world_size)
        inputs, targets = streams.window(0, streams.length)
        assert inputs.shape == targets.shape == (size // count - 1, own)
        assert torch.equal(targets, inputs + 1)
        columns += [[*inputs[:, b].tolist(), targets[-1, b].item()] for b in range(own)]
    assert list(chain.from_iterable(columns)) == list(range(size // count * count))


def test_windows_follow_on_each_other():
    streams = Streams(np.arange(100), 3)
    inputs, targets = (
        torch.cat(parts) for parts in zip(*(streams.window(s, n) for s, n in ((0, 5), (5, 1), (6, 26))), strict=True)
    )
    whole_inputs, whole_targets = streams.window(0, 32)
    assert torch.equal(inputs, whole_inputs)
    assert torch.equal(targets, whole_targets)
    assert inputs.dtype == targets.dtype == torch.int64


def test_one_stream_predicts_every_token_after_the_first():
    streams = Streams(np.arange(7, dtype=np.uint32), 1)
    assert streams.length == 6
    assert streams.window(0, 6)[1].flatten().tolist() == [1, 2, 3, 4, 5, 6]


def test_a_mapped_file_is_not_written_to(tmp_path):
    np.arange(20, dtype=np.uint16).tofile(tmp_path / "ids")
    inputs, _ = Streams(np.memmap(tmp_path / "ids", np.uint16, mode="r"), 2).window(0, 9)
    inputs.zero_()
    assert np.fromfile(tmp_path / "ids", np.uint16).tolist() == list(range(20))


@given(
    size=st.integers(2, 60),
    batch_size=st.integers(1, 4),
    ranks=st.integers(1, 3),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_partial_shuffle_rotates_every_stream(size, batch_size, ranks, seed, data):
    """Against the paper's own operations: cut, roll each row, read; several ranks as one with all the rows."""
    epoch = data.draw(st.integers(0, 5))
    start = data.draw(st.integers(0, size - 2))
    length = data.draw(st.integers(1, size - 1 - start))
    ids = np.random.default_rng(0).permutation(size * batch_size * ranks + ranks - 1)
    rows = ids[: size * batch_size * ranks].reshape(-1, size)
    for rank in range(ranks):
        streams = Streams(ids, batch_size * ranks, rank, ranks).shuffled(seed=seed, epoch=epoch)
        whole = torch.cat([streams.window(0, size - 1)[0], streams.window(0, size - 1)[1][-1:]])
        inputs, targets = streams.window(start, length)
        assert inputs.T.tolist() == whole.T[:, start : start + length].tolist()
        assert targets.T.tolist() == whole.T[:, start + 1 : start + length + 1].tolist()
        alone = Streams(ids, batch_size * ranks).shuffled(seed=seed, epoch=epoch).window(start, length)[0]
        assert torch.equal(inputs, alone[:, rank * batch_size : (rank + 1) * batch_size])
        for row, read in zip(rows[rank * batch_size : (rank + 1) * batch_size], whole.T.tolist(), strict=True):
            offset = row.tolist().index(read[0])
            assert read == np.roll(row, -offset).tolist()


def test_offsets_of_partial_shuffle_are_uniform_and_of_their_own():
    ids = np.tile(np.arange(8), 100)

    def offsets(seed, epoch):
        return Streams(ids, 100).shuffled(seed=seed, epoch=epoch).window(0, 1)[0][0].tolist()

    drawn = {(seed, epoch): tuple(offsets(seed, epoch)) for seed in range(20) for epoch in range(20)}
    assert len(set(drawn.values())) == 400
    assert drawn[3, 4] == tuple(offsets(3, 4))
    counts = np.bincount([offset for row in drawn.values() for offset in row], minlength=8)
    assert abs(counts / 5000 - 1).max() < 0.06  # 40 000 draws of 8: one standard deviation is 1.3 %


def test_partial_shuffle_leaves_the_streams_as_they_were_and_reads_the_map(tmp_path):
    np.arange(20, dtype=np.uint16).tofile(tmp_path / "ids")
    streams = Streams(np.memmap(tmp_path / "ids", np.uint16, mode="r"), 2)
    before = streams.window(0, 9)
    shuffled = streams.shuffled(seed=0, epoch=1)
    assert not torch.equal(shuffled.window(0, 9)[0], before[0])
    assert torch.equal(streams.window(0, 9)[0], before[0])
    changed = np.memmap(tmp_path / "ids", np.uint16, mode="r+")
    changed += 100
    changed.flush()
    assert shuffled.window(0, 9)[0].min() >= 100  # nothing was read beforehand


@pytest.mark.parametrize("change", [{"seed": -1}, {"epoch": -1}])
def test_partial_shuffle_refuses_what_is_out_of_range(change):
    (name,) = change
    with pytest.raises(ValueError, match=f"{name}=-1: must be at least 0"):
        Streams(np.arange(9), 1).shuffled(**{"seed": 0, "epoch": 0, **change})


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (0, 0), (0, 10), (9, 1)])
def test_a_window_must_lie_inside(start, length):
    with pytest.raises(ValueError, match=f"start={start}, length={length}"):
        Streams(np.arange(10), 1).window(start, length)


@pytest.mark.parametrize(
    ("batch_size", "rank", "world_size"), [(0, 0, 1), (1, 1, 1), (1, -1, 2), (1, 0, 0), (3, 1, 2)]
)
def test_streams_refuse_what_is_out_of_range(batch_size, rank, world_size):
    with pytest.raises(ValueError, match=r"batch_size=0|rank=|batch_size=3: must be a multiple of the 2 processes"):
        Streams(np.arange(10), batch_size, rank, world_size)
