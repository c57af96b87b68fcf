"""The parts of a study's report."""
