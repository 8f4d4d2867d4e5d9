"""Command-line flags that several scripts share."""
