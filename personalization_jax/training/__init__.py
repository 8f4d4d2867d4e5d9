"""From schedules to trained models, on devices."""
