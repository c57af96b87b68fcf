"""Latency, memory and time of training of networks beside each other, measured fairly."""
