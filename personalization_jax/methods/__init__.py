"""Methods, their specs, and the rows that each trains on."""

from personalization_jax.grouping.groups import Group as Group
from personalization_jax.methods.method import Method as Method
from personalization_jax.methods.method import known_method as known_method
from personalization_jax.methods.method import parse_method as parse_method
from personalization_jax.methods.method import parse_methods as parse_methods
