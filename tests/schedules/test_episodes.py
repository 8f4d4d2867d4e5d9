"""Each guarantee of `episodes`, by its name."""

import numpy as np
import pytest

from personalization_jax.schedules.episodes import episodes

# Four people of 3, 9, 4 and 6 rows, mixed; the second isn't of D_G, nor is a
# row of the third.
INDIVIDUALS = np.random.default_rng(0).permutation(
  np.repeat([7, 2, 30, 5], [3, 9, 4, 6])
)
ROWS = np.random.default_rng(1).permutation(np.flatnonzero(INDIVIDUALS != 2))
ROWS = np.delete(ROWS, np.argmax(INDIVIDUALS[ROWS] == 30)).astype(np.int32)
WRITERS, BATCH, INNER = [5, 7, 30], 4, 5


def draw(num_episodes=12, seed=0, **about):
  about = {"batch_size": BATCH, "inner_steps": INNER, **about}
  return episodes(
    ROWS, INDIVIDUALS, num_episodes=num_episodes, seed=seed, **about
  )


def by_episode(drawn):
  """Of each episode its writer, and its batches [inner_steps, B]."""
  for batches in drawn.reshape(-1, INNER, BATCH):
    (writer,) = np.unique(INDIVIDUALS[batches[batches >= 0]])
    yield writer, batches


def of(writer):
  return np.sort(ROWS[INDIVIDUALS[ROWS] == writer])


def test_one_writer():
  drawn = draw()
  assert drawn.shape == (12 * INNER, BATCH)
  assert drawn.dtype == np.int32
  for writer, batches in by_episode(drawn):
    assert np.isin(batches[batches >= 0], of(writer)).all()


def test_turns():
  writers = np.array([writer for writer, _ in by_episode(draw())])
  turns = writers.reshape(-1, 3)
  assert (np.sort(turns, axis=1) == WRITERS).all()
  assert len(np.unique(turns, axis=0)) > 1


def test_reshuffled():
  found = [b.ravel() for writer, b in by_episode(draw()) if writer == 5]
  for drawn in found:
    assert (drawn >= 0).all()
    for start in range(0, len(drawn) - 5, 6):
      np.testing.assert_array_equal(np.sort(drawn[start : start + 6]), of(5))
  assert len({drawn.tobytes() for drawn in found}) == len(found) > 1


@pytest.mark.parametrize("writer", [7, 30])
def test_small_writers(writer):
  for own, batches in by_episode(draw()):
    if own == writer:
      assert (np.sort(batches[:, :3], axis=1) == of(writer)).all()
      assert (batches[:, 3:] == -1).all()


def test_no_empty_batch():
  assert (draw() >= 0).any(axis=1).all()


def test_prefix():
  np.testing.assert_array_equal(draw(5), draw()[: 5 * INNER])


def test_draws_depend_on_the_seed_alone():
  np.testing.assert_array_equal(draw(), draw())
  assert not np.array_equal(draw(), draw(seed=1))


def test_people_outside_d_g_do_not_matter():
  """Of whom one has the lowest id here, and the highest there."""
  other = np.where(INDIVIDUALS == 2, 99, INDIVIDUALS)
  drawn = episodes(ROWS, other, BATCH, INNER, 12, seed=0)
  np.testing.assert_array_equal(drawn, draw())
