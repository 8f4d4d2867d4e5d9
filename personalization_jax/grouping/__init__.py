"""Data grouping: an individual's data enlarged by what resembles it.

`samples` is SG, `individuals` is IG; both measure similarity in the latent
space of an auto-encoder that the caller has trained.
"""

from personalization_jax.grouping.individuals import (
  class_means as class_means,
)
from personalization_jax.grouping.individuals import (
  class_means_of_all as class_means_of_all,
)
from personalization_jax.grouping.individuals import (
  individual_distances as individual_distances,
)
from personalization_jax.grouping.individuals import (
  nearest_individuals as nearest_individuals,
)
from personalization_jax.grouping.individuals import (
  nearest_individuals_of_all as nearest_individuals_of_all,
)
from personalization_jax.grouping.single_sample import (
  planned_bytes as planned_bytes,
)
from personalization_jax.grouping.single_sample import (
  random_group as random_group,
)
from personalization_jax.grouping.single_sample import (
  single_sample_group as single_sample_group,
)
from personalization_jax.grouping.single_sample import (
  single_sample_groups as single_sample_groups,
)
