"""The columns of a run's tables, in their order."""

from __future__ import annotations

# The two accuracies of every model, as columns and as people call them.
SYMBOLS = {"individual": "acc(D_I)", "global": "acc(D_G)"}
DATA = tuple(SYMBOLS)
SPREAD = ("mean", "rank", "sd", "min", "max")
FURTHER_TESTS = ("holm", "wilcoxon", "wilcoxon_holm")
FAIRNESS = (
  "fairness_max_ratio", "fairness_mean_ratio", "fairness_rank_correlation",
)  # fmt: skip

RESULT_COLUMNS = (
  "method", "individual", "seed", "individual_accuracy", "global_accuracy",
  "individual_test_size", "global_test_size", "status",
  "best_steps",
)  # fmt: skip
TABLE_COLUMNS = (
  "method",
  *(f"{data}_{column}" for data in DATA for column in SPREAD),
  *(f"p_{data}" for data in DATA),
  *(f"p_{data}_{test}" for data in DATA for test in FURTHER_TESTS),
  *FAIRNESS,
  "fairness_coincide",
  "diverged",
  "seeds",
  *(f"{data}_seed_sd" for data in DATA),
  *(f"{data}_{column}" for data in DATA for column in ("difference", "pairs")),
)
_MEASURES = (
  "mean", "pooled", "bottom_decile", "median", "top_decile", "macro_f1",
  "balanced_accuracy", "log_loss", "calibration_error",
)  # fmt: skip
MEASURE_COLUMNS = (
  "method",
  *(f"{data}_{measure}" for data in DATA for measure in _MEASURES),
)
CHOICE_COLUMNS = (
  "method", "hurt", "hurt_with_choice", "gain", "gain_with_choice",
)  # fmt: skip
CHOICE_BY_PERSON_COLUMNS = (
  "method", "seed", "individual", "chosen", "validation_accuracy",
  "validation_accuracy_of_global", "test_accuracy", "test_accuracy_of_global",
)  # fmt: skip
# The p-values are of two-sided paired t-tests over individuals, uncorrected.
AGREEMENT_COLUMNS = (
  "group", "measure", "part", "latent_space", "mean", "sd", "random",
  "individuals", "p_random", "p_raw_pixels",
)  # fmt: skip
# `method` and `against` are the two sides: methods, or what is said of all.
CLAIM_COLUMNS = (
  "claim", "claim_verdict", "data", "method", "against", "paper_method",
  "paper_against", "ours_method", "ours_against", "difference", "low", "high",
  "pairs", "p_wilcoxon", "p_holm", "people_needed", "verdict",
)  # fmt: skip
