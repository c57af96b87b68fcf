"""Pictures of data and results in training: tensors in, matplotlib figures out."""
