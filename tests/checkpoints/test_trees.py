import jax
import numpy as np
import pytest

from personalization_jax.checkpoints import files, trees


def make_tree():
  return {
    "weights": jax.random.normal(jax.random.key(0), (3, 4)),
    "key": jax.random.key_data(jax.random.key(7))[None],
    "step": np.int32(5)[None],
  }


def save(path, tree, about):
  trees.save_async(path, tree, about)()


def test_trees_survive_the_disk_bit_for_bit(tmp_path):
  tree = make_tree()
  path = tmp_path / "state"
  like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), tree)
  assert not trees.exists(path)
  save(path, tree, {"rows": 3})
  assert trees.exists(path)
  assert trees.about(path) == {"rows": 3}
  restored = trees.restore(path, like)
  assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(restored))
  jax.tree.map(np.testing.assert_array_equal, restored, tree)
  save(path, {**tree, "step": np.int32(6)[None]}, {})
  assert trees.restore(path, like)["step"] == 6
  trees.remove(path)
  assert not list(tmp_path.iterdir())


def test_it_counts_once_it_is_finished(tmp_path):
  path = tmp_path / "state"
  finish = trees.save_async(path, make_tree(), {})
  assert not trees.exists(path)
  finish()
  assert trees.exists(path)


def test_every_fault_in_every_file_is_noticed(tmp_path):
  path = tmp_path / "state"
  save(path, make_tree(), {"rows": 3})
  for file in [file for file in tmp_path.rglob("*") if file.is_file()]:
    content = file.read_bytes()
    faults = [None, content + b"x"]
    if content:
      faults += [b"", content[:-1], bytes([content[0] ^ 1]) + content[1:]]
    for fault in faults:
      file.unlink() if fault is None else file.write_bytes(fault)
      with pytest.raises((ValueError, OSError)):
        pytest.fail(f"{file}, {fault}: {trees.about(path)}")
      file.write_bytes(content)
      assert trees.about(path) == {"rows": 3}
  (path / "stray").write_text("")
  with pytest.raises(ValueError, match="stray"):
    trees.about(path)


def test_what_is_known_of_it_is_protected_too(tmp_path):
  path = tmp_path / "state"
  save(path, make_tree(), {"rows": 3})
  manifest = tmp_path / "state.sha256.json"
  manifest.write_text(manifest.read_text().replace('"rows": 3', '"rows": 2'))
  with pytest.raises(ValueError, match="isn't as it was written"):
    trees.about(path)


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
  """Where files are, and below; nothing else is."""
  path = tmp_path / "deep" / "results.csv"
  files.write_atomically(path, "whole")
  others = [tmp_path / ".hidden", tmp_path / "x.part", tmp_path / ".a.b.part"]
  cut = [path.with_name(".results.csv.4711.part"), tmp_path / ".x.12.part"]
  for each in (*others, *cut):
    each.write_text("")
  files.remove_temporary(tmp_path)
  assert {each for each in tmp_path.rglob("*") if each.is_file()} == {
    path,
    *others,
  }
