"""Widths that make a layout as fast, or as large, as a reference network."""
