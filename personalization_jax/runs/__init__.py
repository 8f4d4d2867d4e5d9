"""The run directory: results, tables and saved models as files."""
