"""Effective receptive fields: what pixels contribute to the middle of a network's last feature map."""
