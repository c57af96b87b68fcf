"""Selective scans of feature maps in several forms; :mod:`mobilemamba.dispatch` chooses between them."""
