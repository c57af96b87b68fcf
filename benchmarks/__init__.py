"""Measurements of MobileMamba beside its peers; each module is a command, see README.md."""
