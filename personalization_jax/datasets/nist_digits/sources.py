"""The published files of NIST digits by writer: names, places, digests.

Sources: QMNIST's README (github.com/facebookresearch/qmnist; Yadav and Bottou,
*Cold Case: The Lost MNIST Digits*) for names, shapes and label columns;
torchvision's prototype of QMNIST for the SHA-256 of the archives. The content
digests are those of the published MNIST images and training labels. For the
test digits and xnist no content digest is known: their archives are verified.
"""

from __future__ import annotations

from personalization_jax.datasets.nist_digits.files import (
  DigitFile,
  DigitPart,
  DigitSet,
)

# Those that torchvision and tensorflow-datasets use.
_MNIST_MIRRORS = (
  "https://ossci-datasets.s3.amazonaws.com/mnist/",
  "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_QMNIST_MIRRORS = (
  "https://raw.githubusercontent.com/facebookresearch/qmnist/master/",
)


def _images(
  name: str,
  num_digits: int,
  *,
  mirrors: tuple[str, ...] = _QMNIST_MIRRORS,
  content_sha256: str | None = None,
  archive_sha256: str | None = None,
) -> DigitFile:
  return DigitFile(
    name=name,
    urls=tuple(mirror + name for mirror in mirrors),
    shape=(num_digits, 28, 28),
    dtype="uint8",
    content_sha256=content_sha256,
    archive_sha256=archive_sha256,
  )


def _labels(
  name: str,
  num_digits: int,
  *,
  content_sha256: str | None = None,
  archive_sha256: str | None = None,
) -> DigitFile:
  return DigitFile(
    name=name,
    urls=tuple(mirror + name for mirror in _QMNIST_MIRRORS),
    shape=(num_digits, 8),
    dtype="int32",
    content_sha256=content_sha256,
    archive_sha256=archive_sha256,
  )


_MNIST_TRAIN = DigitPart(
  images=_images(
    "train-images-idx3-ubyte.gz",
    60_000,
    mirrors=_MNIST_MIRRORS,
    content_sha256=(
      "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
    ),
  ),
  labels=_labels(
    "qmnist-train-labels-idx2-int.gz",
    60_000,
    content_sha256=(
      "bb1b6e1ec7b04fd5696f1ed50b5f58f8ef195118edd5c93c81783df9740b8ac5"
    ),
  ),
)
_QMNIST_TEST = DigitPart(
  images=_images(
    "qmnist-test-images-idx3-ubyte.gz",
    60_000,
    archive_sha256=(
      "43fc22bf7498b8fc98de98369d72f752d0deabc280a43a7bcc364ab19e57b375"
    ),
  ),
  labels=_labels(
    "qmnist-test-labels-idx2-int.gz",
    60_000,
    archive_sha256=(
      "9fbcbe594c3766fdf4f0b15c5165dc0d1e57ac604e01422608bb72c906030d06"
    ),
  ),
)
_XNIST = DigitPart(
  images=_images(
    "xnist-images-idx3-ubyte.xz",
    402_953,
    archive_sha256=(
      "f075553993026d4359ded42208eff77a1941d3963c1eff49d6015814f15f0984"
    ),
  ),
  labels=_labels(
    "xnist-labels-idx2-int.xz",
    402_953,
    archive_sha256=(
      "db042968723ec2b7aed5f1beac25d2b6e983b9286d4f4bf725f1086e5ae55c4f"
    ),
  ),
)

DIGIT_SETS = {
  digit_set.name: digit_set
  for digit_set in (
    DigitSet(
      name="mnist",
      description="MNIST's 60,000 training digits, by 539 writers.",
      parts=(_MNIST_TRAIN,),
      num_writers=539,
    ),
    DigitSet(
      name="qmnist",
      description=(
        "MNIST's 60,000 training digits and QMNIST's 60,000 test digits."
      ),
      parts=(_MNIST_TRAIN, _QMNIST_TEST),
    ),
    DigitSet(
      name="xnist",
      description=(
        "All 402,953 digits of NIST Special Database 19, by 3,579"
        " writers, prepared like MNIST."
      ),
      parts=(_XNIST,),
      num_writers=3_579,
    ),
  )
}
