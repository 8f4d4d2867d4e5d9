import random

import pytest

from personalization_jax.checkpoints import chunks
from personalization_jax.checkpoints.chunks import Chunk


def finished(first, last):
  return Chunk(first, last, -1, (first, last))


def at(first, last, step):
  return Chunk(first, last, step, (first, last))


def test_a_fresh_run_goes_chunk_by_chunk():
  assert chunks.plan([], 5, 2) == [Chunk(0, 2), Chunk(2, 4), Chunk(4, 5)]


def test_what_is_finished_stays_and_what_has_begun_goes_on():
  known = [at(2, 4, 50), finished(0, 2), at(2, 4, 100)]
  assert chunks.plan(known, 7, 2) == [
    finished(0, 2),
    Chunk(2, 4, 100, (2, 4)),
    Chunk(4, 6),
    Chunk(6, 7),
  ]


def test_smaller_chunks_share_what_a_larger_one_saved():
  known = [at(0, 4, 50), at(0, 2, 75)]
  assert chunks.plan(known, 5, 2) == [
    Chunk(0, 2, 75, (0, 2)),
    Chunk(2, 4, 50, (0, 4)),
    Chunk(4, 5),
  ]


def test_larger_chunks_throw_no_progress_away():
  known = [finished(0, 2), at(2, 4, 50)]
  assert chunks.plan(known, 8, 8) == [
    finished(0, 2),
    Chunk(2, 4, 50, (2, 4)),
    Chunk(4, 8),
  ]


@pytest.mark.parametrize("seed", range(25))
def test_everybody_goes_on_once_from_the_latest_that_is_known(seed):
  """Against each individual's own search."""
  generator = random.Random(seed)
  count, size = generator.randint(1, 12), generator.randint(1, 5)
  known = []
  for _ in range(generator.randint(0, 6)):
    first = generator.randrange(count)
    last = generator.randint(first + 1, count)
    known.append(at(first, last, generator.choice([-1, 10, 20, 30])))
  planned = chunks.plan(known, count, size)
  assert [i for chunk in planned for i in chunk.indices] == list(range(count))
  for chunk in planned:
    assert chunk.is_finished or len(chunk.indices) <= size
    for index in chunk.indices:
      steps = [one.step for one in known if index in one.indices]
      assert chunk.step == (-1 if -1 in steps else max([0, *steps]))
      if chunk.step > 0:
        assert at(*chunk.source, chunk.step) in known


def test_names_say_what_they_hold():
  for chunk, name in (
    (at(3, 17, 420), "00003-00017-step-0000420"),
    (finished(3, 17), "00003-00017.npz"),
  ):
    assert chunk.name == name
    assert chunks.named(name) == chunk
  for name in ("00003-00017", "00003-00017-step-0000420.sha256.json", "x.npz"):
    assert chunks.named(name) is None
