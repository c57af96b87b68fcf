"""Effective receptive fields: how much each pixel contributes to the middle of a network's last feature map."""
