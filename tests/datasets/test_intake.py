"""People's arrays as they come: each kind, and what becomes of it."""

import numpy as np
import pytest

from personalization_jax.datasets import Population, intake, new_people, npz

COUNT = 12
IDS = np.repeat([0, 1, 2], 4)
LABELS = np.tile([0, 1], 6)
NAMES = np.array(["ada", "bob", "zoe"])


def arrays(**changes):
  images = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8), np.uint8)
  return {"images": images, "labels": LABELS, "individuals": IDS, **changes}


def take(said=None, **changes):
  """A population of arrays that went through a file."""
  say = (lambda text: None) if said is None else said.append
  return Population.from_arrays(**arrays(**changes), say=say)


IDS_OF_ANY_KIND = {
  "plain": (IDS, None),
  "gaps": (IDS * 7 + 3, None),
  "uint64": (IDS.astype(np.uint64), None),
  "whole floats": (IDS.astype(float), None),
  "a column": (IDS[:, None], None),
  "pandas' integers": (IDS.astype(object), None),
  "texts of 0..2": (IDS.astype(str), None),
  "texts": (NAMES[IDS], ("ada", "bob", "zoe")),
  "a column of texts": (NAMES[IDS][:, None], ("ada", "bob", "zoe")),
  "bytes": (NAMES.astype("S")[IDS], ("ada", "bob", "zoe")),
  "pandas' texts": (NAMES.astype(object)[IDS], ("ada", "bob", "zoe")),
  "bool": (IDS > 1, ("False", "True")),
  "negative": (IDS - 5, ("-5", "-4", "-3")),
  "int64": (
    IDS * 10**12 + 9,
    ("9", "1000000000009", "2000000000009"),
  ),
  "beyond int64": (
    IDS.astype(np.uint64) + np.uint64(2**63),
    tuple(str(2**63 + one) for one in range(3)),
  ),
}


@pytest.mark.parametrize("kind", IDS_OF_ANY_KIND)
def test_ids_of_any_kind(kind):
  ids, names = IDS_OF_ANY_KIND[kind]
  said = []
  population = take(said, individuals=ids)
  assert population.individuals.dtype == np.int32
  assert population.individual_names == names
  assert bool(said) == (names is not None)
  if names is None:
    np.testing.assert_array_equal(
      population.individuals, np.ravel(ids).astype(int)
    )
  else:
    found = [population.name_of(one) for one in population.individuals]
    expected = [
      one.decode() if isinstance(one, bytes) else str(one)
      for one in np.ravel(ids).tolist()
    ]
    assert found == expected


LABELS_OF_ANY_KIND = {
  "plain": (LABELS, None),
  "whole floats": (LABELS.astype(np.float32), None),
  "a column": (LABELS[:, None], None),
  "one-hot": (np.eye(2)[LABELS], None),
  "one-hot bool": (np.eye(2, dtype=bool)[LABELS], None),
  "one-hot without a class": (np.eye(3)[2 * LABELS], ("0", "2")),
  "bool": (LABELS == 1, ("False", "True")),
  "from 1": (LABELS + 1, ("1", "2")),
  "gaps, in numeric order": (LABELS * 7 + 3, ("3", "10")),
  "negative": (-LABELS, ("-1", "0")),
  "texts": (np.array(["yes", "no"])[LABELS], ("no", "yes")),
  "bytes": (np.array([b"yes", b"no"])[LABELS], ("no", "yes")),
}


@pytest.mark.parametrize("kind", LABELS_OF_ANY_KIND)
def test_labels_of_any_kind(kind):
  labels, names = LABELS_OF_ANY_KIND[kind]
  population = take(labels=labels)
  assert population.num_classes == 2
  assert population.label_names == names
  swapped = kind in ("negative", "texts", "bytes")
  np.testing.assert_array_equal(population.labels, LABELS ^ swapped)


def test_a_file_names_its_classes(tmp_path):
  path, said = tmp_path / "a.npz", []
  np.savez(path, **arrays(label_names=np.array(["sit", "run", "walk"])))
  population = npz.load(path, say=said.append)
  assert population.label_names == ("sit", "run")
  assert said == ["classes without a sample are left out: walk."]
  # Numbers are places, whatever names look like.
  population = take(labels=LABELS, label_names=["1", "0"])
  np.testing.assert_array_equal(population.labels, LABELS)
  texts = np.array(["run", "sit"])[LABELS]
  assert take(labels=texts, label_names=["sit", "run"]).labels[0] == 1


@pytest.mark.parametrize(
  ("changes", "sentence"),
  [
    ({"labels": LABELS + 0.5}, "labels must be whole .* row 0 holds 0.5"),
    ({"labels": np.full(COUNT, np.nan)}, "row 0 holds nan"),
    ({"labels": np.zeros((COUNT, 2))}, "one-hot, but row 0 isn't a single 1"),
    ({"labels": 2 * np.eye(2)[LABELS]}, "one-hot, but row 0 isn't"),
    ({"labels": np.zeros((COUNT, 2, 2))}, r"vector of 12 .* \(12, 2, 2\)"),
    ({"individuals": np.eye(3)[IDS]}, r"individuals must be a vector"),
    ({"individuals": np.where(IDS, IDS, np.nan)}, "row 0 holds nan"),
    ({"individuals": IDS + 1j}, "integers or texts, but are complex"),
    ({"individuals": np.array([*"aabbccddeef", ""])}, "row 11 holds ''"),
    ({"individuals": [*"aabbccddeef", None]}, "row 11 holds None"),
    (
      {"individuals": np.array([*"aabbccddeef", np.nan], object)},
      "row 11 holds nan",
    ),
    ({"individuals": (IDS + 2.0**24).astype("f4")}, "float32 and reach 1.677"),
    ({"individuals": np.full(COUNT, np.inf)}, "float64 and reach inf"),
    (
      {"label_names": ["a"]},
      r"names of classes \(a\) or whole numbers of 0..0, .* row 1",
    ),
    ({"label_names": ["a", "a"]}, "has a name twice"),
    ({"is_test": LABELS + 1}, "is_test must be 0 .* row 1 holds 2"),
    ({"is_test": np.array(["train", "hold"] * 6)}, "row 1 holds hold"),
  ],
)
def test_what_nobody_can_read_is_named(changes, sentence):
  with pytest.raises(ValueError, match=sentence) as error:
    take(**changes)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("given", "parts"),
  [
    (LABELS, 2 * LABELS),
    (LABELS == 1, 2 * LABELS),
    (np.array(["train", "test"])[LABELS], 2 * LABELS),
    (np.array(["Train", "val"])[LABELS], LABELS),
    (np.array(["validation", "test"])[LABELS], 1 + LABELS),
  ],
)
def test_a_split_of_one_s_own(tmp_path, given, parts):
  path = tmp_path / "a.npz"
  np.savez(path, **arrays(is_test=given))
  found = npz.load(path)
  np.testing.assert_array_equal(found.parts, parts)
  assert found.fingerprint() != take().fingerprint()
  np.savez(path, **arrays(fold=given))
  assert npz.load(path, say=lambda text: None).parts is None
  np.testing.assert_array_equal(npz.load(path, split_key="fold").parts, parts)


def images(dtype, top, *shape, low=0):
  """Numbers that reach from `low` to `top`."""
  shape = (COUNT, *(shape or (8, 8)))
  values = np.linspace(low, top, int(np.prod(shape))).reshape(shape)
  return values.astype(dtype)


U8, F32 = np.uint8, np.float32
KINDS = {
  # What comes, what is stored, and by what it is multiplied.
  "uint8 [N, H, W]": (images(U8, 255), U8, 1),
  "uint8 [N, H, W, 1]": (images(U8, 255, 8, 8, 1), U8, 1),
  "uint8 [N, H, W, 3]": (images(U8, 255, 8, 8, 3), U8, 1),
  "uint8 of 0 and 1": (images(U8, 1), U8, 255),
  "uint8 of 0 to 16": (images(U8, 16), U8, 255 / 16),
  "bool": (images(U8, 1) == 1, U8, 255),
  "int64 in 0..255": (images(int, 255), U8, 1),
  "uint16 in 0..255": (images(np.uint16, 255), U8, 1),
  "uint16": (images(np.uint16, 40000), F32, 1 / 65535),
  "floats in 0..1": (images(float, 1, 8, 8, 1), F32, 1),
  "float16 in -1..1": (images(np.float16, 1, 8, 8, 3, low=-1), F32, 1),
  "floats of 0 to 255": (images(float, 255, 8, 8, 1), F32, 1 / 255),
  "whole floats of 0 to 16": (
    np.rint(images(float, 16, 8, 8, 1)),
    F32,
    1 / 16,
  ),
  "floats a little above 1": (images(float, 1.1, 8, 8, 1), F32, 1),
  "floats above 255": (images(float, 999, 8, 8, 1), F32, 1),
  "floats [N, A, B]": (images(float, 99), F32, 1),
  "floats [N, F]": (images(float, 99, 5), F32, 1),
  "uint8 [N, F]": (images(U8, 255, 5), F32, 1),
  "int64 [N, F]": (images(int, 70000, 5, low=-9), F32, 1),
  "bool [N, F]": (images(U8, 1, 5) == 1, F32, 1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_any_kind(kind):
  given, dtype, factor = KINDS[kind]
  said = []
  stored = take(said, images=given).images
  assert stored.dtype == dtype
  if given.ndim == 3 and given.dtype.kind != "f":
    given = given[..., None]
  expected = np.asarray(given * np.float64(factor))
  expected = np.rint(expected) if dtype == U8 else expected
  np.testing.assert_allclose(stored, expected, rtol=1e-6)
  # Told whenever models see other numbers than the file's.
  assert bool(said) == (factor != 1 and given.dtype != bool)


def test_stored_bytes_stay_as_they_are():
  given = arrays()["images"][..., None]
  assert take(images=given).images is given
  floats = images(F32, 1, 8, 8, 1)
  assert take(images=floats).images is floats


@pytest.mark.parametrize(
  ("given", "sentence"),
  [
    (images(np.int16, 255, low=-3), "uint8 .* int16 in -3..255"),
    (images(np.int32, 70000), "uint8 in 0..255, or floats .* in 0..70000"),
    (images(U8, 255, 3, 8, 8), "channels first: say layout=channels_first or"),
    (images(float, 1, 1, 8, 8), "channels first: say layout="),
    (images(U8, 255, 4, 8, 8, 3), "say layout=features to"),
    (images(U8, 255, 8, 0), "an empty axis"),
    (np.array([["a"]] * COUNT), "bool, integers or floats, but are <U1"),
  ],
)
def test_samples_that_may_be_anything_are_asked_about(given, sentence):
  with pytest.raises(ValueError, match=sentence):
    take(images=given)


def test_a_layout_is_taken_by_its_word():
  first = images(U8, 255, 3, 8, 8)
  moved = np.moveaxis(first, 1, 3)
  found = take(images=first, layout="channels_first").images
  np.testing.assert_array_equal(found, moved)
  assert take(images=moved, layout="channels_last").images is moved
  assert take(images=first, layout="channels_last").sample_shape == (3, 8, 8)
  grey = take(images=images(float, 255), layout="grey").images
  assert grey.shape == (COUNT, 8, 8, 1)
  assert grey.max() == 1
  kept = take(images=images(U8, 16), layout="features").images
  assert (kept.shape, kept.dtype, kept.max()) == ((COUNT, 8, 8), F32, 16)
  kept = take(images=images(float, 255, 8, 8, 1), layout="features").images
  assert kept.max() == 255
  for layout, given in (
    ("grey", first),
    ("channels_first", images(U8, 9)),
    ("grey", images(U8, 9, 5)),
    ("rows", first),
  ):
    with pytest.raises(ValueError, match=f"layout={layout} "):
      take(images=given, layout=layout)


def test_floats_of_a_file_that_may_be_images_are_asked_about(tmp_path):
  path = tmp_path / "a.npz"
  np.savez(path, **arrays(images=images(float, 1)))
  with pytest.raises(ValueError, match=r"12, 8, 8\].* layout=grey or layout="):
    npz.load(path)
  assert npz.load(path, layout="grey").sample_shape == (8, 8, 1)
  assert npz.load(path, layout="features").sample_shape == (8, 8)


def test_images_are_padded_to_squares():
  given = images(U8, 255, 5, 8)
  found = take(images=given, pad=True).images
  assert found.shape == (COUNT, 8, 8, 1)
  np.testing.assert_array_equal(found[:, 1:6, :, 0], given)
  assert not found[:, [0, 6, 7]].any()
  assert take(images=given).sample_shape == (5, 8, 1)


def test_arrays_of_other_names(tmp_path):
  path, said = tmp_path / "a.npz", []
  given = arrays()
  np.savez(path, x=given["images"], y=LABELS, subject=IDS, age=IDS)
  message = r"'images', 'labels', 'individuals'; it has x, y, subject, age: "
  message += "say which to take by image_key, label_key, individual_key"
  with pytest.raises(ValueError, match=message):
    npz.load(path)
  keys = {"image_key": "x", "label_key": "y", "individual_key": "subject"}
  population = npz.load(path, **keys, say=said.append)
  assert population.fingerprint() == take().fingerprint()
  assert said == [f"{path}: arrays that aren't read: age."]
  with pytest.raises(ValueError, match=r"'fold'; it has .* by split_key"):
    npz.load(path, **keys, split_key="fold")


def as_model_takes(
  shape=(8, 8, 1), num_classes=2, names=None, values=None, white=None, **changes
):
  return new_people.population_of(
    arrays(**changes),
    num_classes,
    shape,
    label_names=names,
    label_values=values,
    white=white,
    say=print,
  )


def test_a_model_s_shape_says_which_axis_is_which():
  first = images(U8, 255, 3, 8, 8)
  found = as_model_takes((8, 8, 3), images=first)
  np.testing.assert_array_equal(found.images, np.moveaxis(first, 1, 3))
  grey = as_model_takes((8, 8, 1), images=images(float, 255), white=255)
  assert grey.images.max() == 1
  kept = as_model_takes((8, 8), images=images(float, 255))
  assert kept.images.max() == 255
  kept = as_model_takes((5,), images=images(U8, 16, 5))
  assert kept.images.max() == 16


@pytest.mark.parametrize(
  ("labels", "names", "expected"),
  [
    (LABELS, None, LABELS),
    (LABELS == 1, None, LABELS),
    (LABELS.astype(str), None, LABELS),
    (np.eye(2)[LABELS], None, LABELS),
    (LABELS, ("run", "sit"), LABELS),
    (np.array(["sit", "run"])[LABELS], ("run", "sit"), 1 - LABELS),
    (np.full(COUNT, b"sit"), ("run", "sit"), np.ones(COUNT)),
    (np.ones(COUNT, int), ("1", "2"), np.ones(COUNT)),
    (np.array(["1"] * COUNT), ("1", "2"), np.zeros(COUNT)),
    (LABELS == 1, ("False", "True"), LABELS),
  ],
)
def test_labels_are_read_by_a_model_s_names(labels, names, expected):
  found = as_model_takes(labels=labels, names=names)
  np.testing.assert_array_equal(found.labels, expected)
  assert found.label_names == names


@pytest.mark.parametrize(
  ("given", "expected"),
  [
    (np.array([5, 1] * 6), [2, 0] * 6),
    (np.array(["5", "1"] * 6), [2, 0] * 6),
    (np.eye(3, dtype=int)[[2, 0] * 6], [2, 0] * 6),
    (np.eye(6, dtype=int)[[5, 1] * 6], [2, 0] * 6),
  ],
)
def test_numbers_stand_for_what_they_did_in_training(given, expected):
  """Whichever of them a file holds: 1, 3 and 5 are classes 0, 1 and 2."""
  population = take(labels=np.array([1, 3, 5, 5] * 3))
  about = {
    "num_classes": 3,
    "names": population.label_names,
    "values": population.label_values,
  }
  found = as_model_takes(labels=given, **about)
  np.testing.assert_array_equal(found.labels, expected)
  for wrong in ([0, 1], [1, 4]):
    message = r"\(1, 3, 5\) or whole numbers \(1, 3, 5\), but row"
    with pytest.raises(ValueError, match=message):
      as_model_takes(labels=np.array(wrong * 6), **about)


def test_pixels_are_read_as_they_were_in_training():
  """Whatever else is in a file: a dark one stays dark."""
  dark = images(U8, 16)
  plain = take(images=images(U8, 255))
  assert plain.white is None
  assert as_model_takes(images=dark, white=None).images.max() == 16
  few = take(images=dark)
  assert (few.white, few.images.max()) == (16, 255)
  binary = images(U8, 1)
  assert as_model_takes(images=binary, white=16).images.max() == 16
  with pytest.raises(ValueError, match=r"must lie in 0\.\.16, but reach"):
    as_model_takes(images=images(U8, 255), white=16)
  wide = take(images=images(np.uint16, 60000))
  assert wide.white == 65535
  found = as_model_takes(images=images(np.uint16, 200), white=65535)
  assert found.images.max() == np.float32(200 / 65535)
  floats = images(float, 15)[..., None] + 0.0
  found = as_model_takes(images=floats, white=255)
  np.testing.assert_allclose(found.images, floats / 255, rtol=1e-6)
  # Kept as numbers, they are never images.
  kept = take(images=floats, layout="features")
  assert (kept.white, kept.images.max()) == (0, 15)
  assert as_model_takes(images=floats, white=0).images.max() == 15


def test_a_file_s_names_and_a_model_s_are_the_same_classes():
  own = {"label_names": np.array(["walk", "sit", "run"])}
  found = as_model_takes(labels=LABELS + 1, names=("run", "sit"), **own)
  np.testing.assert_array_equal(found.labels, 1 - LABELS)
  with pytest.raises(ValueError, match=r"\(run, sit\) .* row 0 holds walk"):
    as_model_takes(labels=LABELS, names=("run", "sit"), **own)
  # A model without names knows places.
  np.testing.assert_array_equal(
    as_model_takes(labels=LABELS, **own).labels, LABELS
  )


def test_two_files_agree_by_name():
  train = as_model_takes(individuals=NAMES[IDS])
  test = as_model_takes(individuals=np.array(["zoe", "bob", "ada"])[IDS])
  both, split = new_people.join(train, test)
  for place, person in enumerate(("ada", "bob", "zoe")):
    own, _, tested = split.parts(place)
    np.testing.assert_array_equal(NAMES[IDS][own], person)
    expected = np.flatnonzero(test.names_of(test.individuals) == person)
    np.testing.assert_array_equal(tested - COUNT, expected)
  assert both.names_of(split.individuals).tolist() == NAMES.tolist()
  # Integers and their texts name the same people.
  some = as_model_takes(individuals=IDS + 7)
  texts = as_model_takes(individuals=(IDS + 7).astype(str))
  for pair in ((some, texts), (texts, some)):
    _, split = new_people.join(*pair)
    for place in range(3):
      own, _, tested = split.parts(place)
      np.testing.assert_array_equal(own, tested - COUNT)


def test_who_is_in_one_file_alone_is_named():
  """Two people are tested on, one of them and a third one train."""
  train = as_model_takes(individuals=np.repeat(["ada", "bob"], 6))
  test = as_model_takes(individuals=np.repeat(["bob", "carl"], 6))
  message = r"one kind alone: ada \(to train on\), carl \(to test on\)\."
  with pytest.raises(ValueError, match=message):
    new_people.join(train, test)


def test_listed():
  assert intake.listed([1, 2]) == "1, 2"
  assert intake.listed([*"abcd"], 2) == "a, b and 2 more"
