"""Experiments: YAML files, studies of many runs, and matching of widths."""
