import jax
import numpy as np

from personalization_jax import checkpoints


def test_trees_survive_the_disk_bit_for_bit(tmp_path):
  tree = {
    "weights": jax.random.normal(jax.random.key(0), (3, 4)),
    "key": jax.random.key(7)[None],
    "step": np.int32(5)[None],
  }
  path = tmp_path / "state"
  assert not checkpoints.exists(path)
  checkpoints.save(path, tree)
  assert checkpoints.exists(path)
  restored = checkpoints.restore(path, jax.eval_shape(lambda: tree))
  np.testing.assert_array_equal(restored["weights"], tree["weights"])
  np.testing.assert_array_equal(
    jax.random.key_data(restored["key"]), jax.random.key_data(tree["key"])
  )
  assert restored["step"] == 5
  checkpoints.save(path, {**tree, "step": np.int32(6)[None]})
  assert checkpoints.restore(path, tree)["step"] == 6
