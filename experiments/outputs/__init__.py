"""What a run writes beside its results: tables, figures, reports."""
