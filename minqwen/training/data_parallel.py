"""Data parallelism: several processes take a share of each batch, and sum their gradients.

    loss  = sum_r sum_{i of r} share_i * loss_i          r = rank, i = the pieces that it has
    grads = sum_r sum_{i of r} d(share_i * loss_i) / d params

    share_i = n_i / n          n_i = counted tokens of piece i, n = those of all ranks together

Every process has the whole model. In a step it computes the gradient of its own pieces, all sum
their gradients, and each makes the same update with the sum. That is gradient accumulation with
the pieces in several processes, and the derivation stands in accumulate.py: the loss of the batch
is one mean over its tokens, and share_i is the part that piece i has in it.

The arithmetic of unequal counts. Let rank 0 count n_0 tokens with the mean loss l_0 and rank 1 n_1
tokens with l_1. The batch is

    loss = (n_0 * l_0 + n_1 * l_1) / (n_0 + n_1)

The mistake to avoid is the mean of the ranks' means, (l_0 + l_1) / 2, which is what summing and
dividing by the number of ranks gives: with n = (300, 100) a token of rank 1 would weigh three times
as much as one of rank 0. So the ranks sum their counts first, one number each, and every backward
pass starts from n_i / n. The sum over ranks is then the gradient; nothing is divided afterwards.

Buckets. A model has hundreds of tensors, and each message costs a time of its own, however short it
is. So the gradients are laid end to end in the order of their names, and the long vector is summed
in buckets of about 25 MB: small tensors share one, a large tensor fills several. The order has to
be the same in every process; the names make it so.

    bytes that a process sends and receives in a step, summed around a ring of R processes:
    2 * (R - 1) / R * 4 bytes * parameters, each way; nearly the same for 10 and for 1,000

What stays the same. The pieces and their numbers do not depend on how many processes there are, so
neither does the dropout, nor the balance loss of a mixture, which is of each piece by itself. Only
the order of the sums differs: 1e-16 of the scale in float64, 1e-7 in float32.

The gradient is not clipped by each rank: the norm is one of the sum. (A rank that clips its own
part first turns the direction of the whole.)

Paper:    Qwen Technical Report, 2.4 Training: batches of 4M tokens. How they were shared among
          machines is not published.
Origin:   Goyal et al. 2017, arXiv:1706.02677 (section 3: sums of shares of a batch); buckets of
          25 MB: Li et al. 2020, arXiv:2006.15704.
Differs:  Li et al. sum a bucket as soon as the backward pass has filled it, while it goes on; here
          sums begin when the pass has ended, so their time is added. A GPU's gradients go through
          the host's memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from ..backend import Array, array_module, at_least_float32, to_numpy
from ..model.config import QwenConfig
from ..model.moe_fields import sparse_layers
from ..params import Params
from .accumulate import Batch, LossAndGrads, PieceSums, count_tokens, finish, sum_pieces
from .communicator import Communicator

BUCKET = 25 * 2**20  # bytes


class HasBatch(Protocol):
    """What require_shared reads of the settings."""

    @property
    def batch_size(self) -> int:
        """Rows in an update, of all processes together."""

    @property
    def accumulate(self) -> int:
        """Pieces of a batch in one process."""


def pieces_of_batch(config: QwenConfig, batch_size: int, accumulate: int, size: int) -> int:
    """Return into how many pieces a batch is cut, when `size` processes share it.

    A model without dropout and without experts has the same gradient however the batch is cut, so
    each process gets the same number of pieces, none of them larger than one process would have.
    Otherwise the pieces are those of one process, and the processes share them as they are.

    Args:
        config: of the model.
        batch_size: rows in a batch, of all processes together.
        accumulate: pieces in one process.
        size: processes.

    Raises:
        ValueError: a process would have nothing to do.

    >>> from minqwen.model.presets import own_size
    >>> pieces_of_batch(own_size("tiny", vocab_size=500), batch_size=8, accumulate=3, size=2)
    4
    """
    if size > batch_size:
        raise ValueError(
            f"batch_size must be at least {size}, a row for each process, got {batch_size}"
        )
    if size == 1:
        return accumulate
    if config.dropout == 0 and not any(sparse_layers(config)):
        return min(batch_size, size * -(-accumulate // size))
    if accumulate < size:
        raise ValueError(
            f"accumulate must be at least {size}, a piece for each process, got {accumulate}: with "
            "dropout or experts the pieces belong to the result, so they are not cut further"
        )
    return accumulate


def require_shared(config: QwenConfig, settings: HasBatch, size: int = 1, threads: int = 1) -> None:
    """Raise ValueError unless every process, and every thread in it, gets a piece of a batch.

    Args:
        config: of the model.
        settings: of the run, with batch_size and accumulate.
        size: processes.
        threads: in each process.
    """
    pieces = pieces_of_batch(config, settings.batch_size, settings.accumulate, size)
    if not 1 <= threads <= pieces // size:
        raise ValueError(
            f"threads must be from 1 to the {pieces // size} pieces of a batch that a process has, "
            f"got {threads}; accumulate={settings.accumulate} says how many there are"
        )


def own_pieces(pieces: int, rank: int, size: int) -> range:
    """Return the numbers of the pieces that a rank has: neighbours, and nearly equally many.

    >>> [list(own_pieces(5, rank, size=2)) for rank in range(2)]
    [[0, 1, 2], [3, 4]]
    """
    least, more = divmod(pieces, size)
    start = rank * least + min(rank, more)
    return range(start, start + least + (rank < more))


def data_parallel_loss_and_grads(
    params: Params,
    config: QwenConfig,
    micro_batches: Sequence[Batch],
    communicator: Communicator,
    seed: Sequence[int] = (),
    *,
    first: int = 0,
    z_loss_coef: float = 0.0,
    pool_router_layers: bool = False,
    threads: int = 1,
    loss_scale: float = 1.0,
) -> LossAndGrads:
    """Return what loss_and_grads would give for the pieces of all processes; collective.

    Args:
        params: of the model, the same in every process.
        config: of the model.
        micro_batches: the pieces that this process has.
        communicator: to the other processes.
        seed: of the dropout, the same in every process.
        first: number of the first of these pieces in the batch.
        z_loss_coef: of the z-loss on the routers.
        pool_router_layers: balance the experts of all layers together, see router_loss.py.
        threads: pieces at work at the same time in this process.
        loss_scale: see loss_and_grads, the same in every process.

    Raises:
        ValueError: no token counts, in any process.
    """
    own = sum(map(count_tokens, micro_batches))
    tokens = int(communicator.allreduce(np.array([float(own)]))[0])
    if tokens == 0:
        raise ValueError("the batch has no token that counts in the loss")
    options: dict[str, Any] = {"z_coef": z_loss_coef, "pool_layers": pool_router_layers}
    options |= {"first": first, "threads": threads, "loss_scale": loss_scale}
    try:
        sums = sum_pieces(params, config, micro_batches, tokens, seed, **options)
    except FloatingPointError as error:  # np.errstate(all="raise"): the others know nothing of it
        raise ArithmeticError(f"process {communicator.rank}: {error}") from error
    return finish(sum_over_ranks(sums, params, config, communicator), config, tokens)


def sum_over_ranks(
    sums: PieceSums, params: Params, config: QwenConfig, communicator: Communicator
) -> PieceSums:
    """Return the sums over the pieces of all processes; the gradients are overwritten with theirs.

    Args:
        sums: of this process; without a gradient where none of its tokens counts.
        params: of the model, for the names and shapes.
        config: of the model.
        communicator: to the other processes.
    """
    layers = sum(map(bool, sparse_layers(config)))
    load = np.zeros((layers, config.num_experts if layers else 0)) + to_numpy(sums.load)
    numbers = np.array([float(sums.loss), float(sums.aux_loss), *load.reshape(-1)])
    loss, aux_loss, *counts = communicator.allreduce(numbers).tolist()

    grads: Params = {}
    for key in sorted(params):  # one order in every process
        w, g = params[key], sums.grads.get(key)
        xp = array_module(w)
        if g is None:  # zeros as the others send them: of 32 bits, also where w has 16
            g = xp.zeros(w.shape, at_least_float32(w))
        grads[key] = xp.ascontiguousarray(g)
    for views in buckets(grads.values()):
        _sum_bucket(views, communicator)
    return PieceSums(
        loss,
        aux_loss,
        np.array(counts).reshape(load.shape),
        {key: grads[key] for key in params},
    )


def buckets(arrays: Iterable[Array], size: int = BUCKET) -> Iterator[list[Array]]:
    """Lay arrays end to end and cut the line into buckets; yield the parts that are in each.

    Args:
        arrays: C-contiguous, of one dtype.
        size: bytes in a bucket.

    Yields:
        flat views of the arrays.

    >>> line = [np.arange(5.0), np.arange(5.0, 7.0)]
    >>> [[part.tolist() for part in bucket] for bucket in buckets(line, size=3 * 8)]
    [[[0.0, 1.0, 2.0]], [[3.0, 4.0], [5.0]], [[6.0]]]
    """
    bucket: list[Array] = []
    room = 0
    for array in arrays:
        flat = array.reshape(-1)
        while flat.size:
            if room == 0:
                if bucket:
                    yield bucket
                bucket, room = [], max(1, size // flat.itemsize)
            part, flat = flat[:room], flat[room:]
            bucket.append(part)
            room -= part.size
    if bucket:
        yield bucket


def _sum_bucket(views: list[Array], communicator: Communicator) -> None:
    """Overwrite the parts of one bucket with the sums over all processes: one message."""
    xp: Any = array_module(views[0])
    total = xp.asarray(communicator.allreduce(to_numpy(xp.concatenate(views))))
    start = 0
    for view in views:
        view[...] = total[start : start + view.size]
        start += view.size
