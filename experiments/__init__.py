"""Experiments: their YAMLs, and what runs, compares and reports many of them."""
