import jax
import numpy as np

from personalization_jax.checkpoints import trees


def make_tree():
  return {
    "weights": jax.random.normal(jax.random.key(0), (3, 4)),
    "key": jax.random.key(7)[None],
    "step": np.int32(5)[None],
  }


def test_trees_survive_the_disk_bit_for_bit(tmp_path):
  tree = make_tree()
  path = tmp_path / "state"
  assert not trees.exists(path)
  trees.save(path, tree, {"rows": 3})
  assert trees.exists(path)
  assert trees.about(path) == {"rows": 3}
  assert trees.damage(path) is None
  restored = trees.restore(path, jax.eval_shape(lambda: tree))
  np.testing.assert_array_equal(restored["weights"], tree["weights"])
  np.testing.assert_array_equal(
    jax.random.key_data(restored["key"]), jax.random.key_data(tree["key"])
  )
  assert restored["step"] == 5
  trees.save(path, {**tree, "step": np.int32(6)[None]})
  assert trees.restore(path, tree)["step"] == 6
  trees.remove(path)
  assert not list(tmp_path.iterdir())


def test_it_counts_once_it_is_finished(tmp_path):
  path = tmp_path / "state"
  finish = trees.save_async(path, make_tree())
  assert not trees.exists(path)
  finish()
  assert trees.exists(path)


def test_every_fault_in_every_file_is_noticed(tmp_path):
  path = tmp_path / "state"
  trees.save(path, make_tree(), {"rows": 3})
  files = [file for file in tmp_path.rglob("*") if file.is_file()]
  for file in files:
    content = file.read_bytes()
    faults = [None, content + b"x"]
    if content:
      faults += [b"", content[:-1], bytes([content[0] ^ 1]) + content[1:]]
    for fault in faults:
      file.unlink() if fault is None else file.write_bytes(fault)
      assert trees.damage(path), (file, fault)
      file.write_bytes(content)
      assert trees.damage(path) is None
  (path / "stray").write_text("")
  assert "stray" in trees.damage(path)


def test_what_is_known_of_it_is_protected_too(tmp_path):
  path = tmp_path / "state"
  trees.save(path, make_tree(), {"rows": 3})
  manifest = tmp_path / "state.sha256.json"
  manifest.write_text(manifest.read_text().replace('"rows": 3', '"rows": 2'))
  assert "isn't as it was written" in trees.damage(path)


def test_restoring_on_the_host_gives_numpy_arrays(tmp_path):
  tree = {"a": np.arange(6.0).reshape(2, 3), "b": [np.int32(4)[None]]}
  trees.save(tmp_path / "state", tree)
  restored = trees.restore_on_host(tmp_path / "state", tree)
  assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(restored))
  np.testing.assert_array_equal(restored["a"], tree["a"])
