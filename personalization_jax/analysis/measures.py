"""Measures beside the mean accuracy over people (NumPy, pandas)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from personalization_jax.analysis import metrics, tables
from personalization_jax.analysis.columns import DATA, MEASURE_COLUMNS
from personalization_jax.analysis.result import Labels, Result
from personalization_jax.datasets import Population
from personalization_jax.datasets.splits import PADDING

# Of confidence, for the calibration error.
_BINS = 15


def measures(
  results: Sequence[Result] | Mapping[str, Result | Sequence[Result]],
  population: Population | None = None,
) -> pd.DataFrame:
  """One row a method: accuracies of people and of samples, and calibration.

  Args:
    results: as `compare` takes them.
    population: what they were made of; results without true labels need it.

  Returns:
    For D_I (`individual_...`) and for D_G (`global_...`), NaN where models
    diverged or results don't have it:

        mean, bottom_decile, median, top_decile   of people's accuracies; a
                                      tenth of the people is below the bottom
                                      decile, and a tenth above the top one
        macro_f1, balanced_accuracy   mean over people of each one's F1 score
                                      and recall, averaged over the classes of
                                      the samples tested
        log_loss                      mean over people of each one's mean
                                      -ln p(true class), in nats
        pooled                        accuracy over the samples of all people
        calibration_error             expected calibration error over the
                                      samples of all people, in 15 bins of
                                      equal width

    Of several seeds, each person's means over them count, and means over seeds
    of what is pooled.

  Raises:
    ValueError: if results can't be compared person by person, or are of another
      population.

  Source: C. Guo et al., "On calibration of modern neural networks", 2017, for
    the calibration error.
  """
  labels = None if population is None else population.labels
  rows = []
  for method, own in tables.by_seed(tables.named(results)).items():
    row: dict[str, object] = {"method": method}
    for data in DATA:
      found = _of_method(own, data, labels)
      row |= {f"{data}_{name}": value for name, value in found.items()}
    rows.append(row)
  return pd.DataFrame(rows, columns=[*MEASURE_COLUMNS])


def to_dataframe(
  results: Sequence[Result] | Mapping[str, Result | Sequence[Result]],
  population: Population | None = None,
) -> pd.DataFrame:
  """One row for each method, seed and person: sizes, accuracies and log losses.

  Args:
    results: as `compare` takes them, but of whatever splits and seeds.
    population: what they were made of; results without true labels need it.

  Returns:
    `method`, `seed` and `individual` (its name or id); `train_size` and
    `test_size`, the samples of D_I, and `train_classes` and `test_classes`, how
    many classes they are of; the accuracies on the test data of D_I and D_G and
    on the validation data of D_I; the mean log losses on D_I and D_G in nats;
    and whether the model `diverged`. NaN where a number can't be computed, or
    an older version didn't keep it.

  Raises:
    ValueError: if results are of another population, or have no labels.
  """
  labels = None if population is None else population.labels
  tables_of_results = []
  for result in tables.named(results):
    unknown = np.full(len(result.individuals), np.nan)
    size, classes = metrics.sizes(result.truth("individual", labels))
    trained = result.train_size, result.train_classes
    columns = {
      "method": result.method,
      "seed": result.seed,
      "individual": result.people,
      "train_size": unknown if trained[0] is None else trained[0],
      "train_classes": unknown if trained[1] is None else trained[1],
      "test_size": size,
      "test_classes": classes,
      "individual_accuracy": result.individual_accuracy(labels)[0],
      "global_accuracy": result.global_accuracy(labels)[0],
      "validation_accuracy": result.validation_accuracy(labels)[0],
      **{f"{data}_log_loss": _log_loss(result, data, labels) for data in DATA},
      "diverged": result.diverged,
    }
    tables_of_results.append(pd.DataFrame(columns))
  return pd.concat(tables_of_results, ignore_index=True)


def _of_method(
  results: Sequence[Result], data: str, labels: Labels
) -> dict[str, float]:
  """One method's measures on D_I or D_G, by its results with all seeds."""
  accuracy = _over_seeds(
    [getattr(result, f"{data}_accuracy")(labels)[0] for result in results]
  )
  of_classes = [_of_classes(result, data, labels) for result in results]
  f1, recall = (_over_seeds(values) for values in zip(*of_classes))
  log_loss = _over_seeds([_log_loss(one, data, labels) for one in results])
  pooled, calibration = zip(*(_pooled(one, data, labels) for one in results))
  bottom, median, top = np.full(3, np.nan)
  if len(accuracy):
    bottom, median, top = np.quantile(accuracy, [0.1, 0.5, 0.9])
  return {
    "mean": metrics.spread(accuracy).mean,
    "pooled": metrics.spread(np.array(pooled)).mean,
    "bottom_decile": bottom,
    "median": median,
    "top_decile": top,
    "macro_f1": metrics.spread(f1).mean,
    "balanced_accuracy": metrics.spread(recall).mean,
    "log_loss": metrics.spread(log_loss).mean,
    "calibration_error": metrics.spread(np.array(calibration)).mean,
  }


def _over_seeds(values: Sequence[np.ndarray]) -> np.ndarray:
  """People's means of [S] of each seed, without those who have none."""
  means = metrics.mean_without_nan(np.stack(values))
  return means[~np.isnan(means)]


def _of_classes(
  result: Result, data: str, labels: Labels
) -> tuple[np.ndarray, np.ndarray]:
  """Each person's macro-F1 and balanced accuracy [S], NaN if diverged."""
  truth = result.truth(data, labels)
  predictions = getattr(result, f"{data}_predictions")
  scored = truth != PADDING
  classes = 1 + max(truth.max(initial=0), predictions.max(initial=0))
  people = np.broadcast_to(np.arange(len(truth))[:, None], truth.shape)

  def count(values: np.ndarray, which: np.ndarray) -> np.ndarray:
    """How often each person has each class [S, C]."""
    of_both = (people * classes + values)[which]
    found = np.bincount(of_both, minlength=len(truth) * classes)
    return found.reshape(len(truth), classes)

  true = count(truth, scored)
  predicted = count(predictions, scored & (predictions >= 0))
  hits = count(truth, scored & (predictions == truth))
  number = np.where(result.diverged, np.nan, (true > 0).sum(axis=1))
  # Without a sample of a class there is no hit of it.
  f1 = 2 * hits / np.maximum(true + predicted, 1)
  recall = hits / np.maximum(true, 1)
  with np.errstate(invalid="ignore"):
    f1, recall = (each.sum(axis=1) / number for each in (f1, recall))
  return f1, recall


def _log_loss(result: Result, data: str, labels: Labels) -> np.ndarray:
  """Each person's mean -ln p(true class) [S]; NaN if diverged or unknown."""
  logs = getattr(result, f"{data}_log_probability")
  if logs is None:
    return np.full(len(result.individuals), np.nan)
  scored = result.truth(data, labels) != PADDING
  total = np.where(scored, logs, 0).sum(axis=1, dtype=np.float64)
  with np.errstate(invalid="ignore"):
    return np.where(result.diverged, np.nan, 0 - total / scored.sum(axis=1))


def _pooled(result: Result, data: str, labels: Labels) -> tuple[float, float]:
  """Accuracy and calibration error over the samples of all people."""
  truth = result.truth(data, labels)
  predictions = getattr(result, f"{data}_predictions")
  scored = (truth != PADDING) & ~result.diverged[:, None]
  correct = (predictions == truth)[scored]
  if not len(correct):
    return np.nan, np.nan
  accuracy = float(correct.mean())
  logs = getattr(result, f"{data}_log_confidence")
  if logs is None:
    return accuracy, np.nan
  confidence = np.exp(logs[scored], dtype=np.float64)
  # A bin holds its upper edge.
  bins = np.clip(np.ceil(confidence * _BINS).astype(int) - 1, 0, _BINS - 1)
  gaps = np.bincount(bins, weights=correct - confidence)
  return accuracy, float(np.abs(gaps).sum() / len(correct))
