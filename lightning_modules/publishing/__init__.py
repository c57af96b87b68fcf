"""Giving trained weights to others: a folder that the Hugging Face Hub and timm understand, with a model card."""
