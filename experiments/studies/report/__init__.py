"""A study's report: from its folder to tables, pictures and TensorBoard entries."""
