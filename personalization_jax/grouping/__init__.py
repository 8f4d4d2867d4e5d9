"""Data grouping: an individual's data enlarged by what resembles it.

`single_sample` is SG, `individuals` is IG; both measure similarity in a latent
space that the caller provides. `groups` has everybody's, as rows of the store.
"""

from personalization_jax.grouping.individuals import class_means as class_means
from personalization_jax.grouping.individuals import (
  nearest_individuals as nearest_individuals,
)
from personalization_jax.grouping.single_sample import (
  planned_bytes as planned_bytes,
)
from personalization_jax.grouping.single_sample import (
  single_sample_group as single_sample_group,
)
from personalization_jax.grouping.single_sample import (
  single_sample_groups as single_sample_groups,
)
