"""Publishes trained weights as a folder for the Hugging Face Hub and timm, with a model card."""
