"""Training: the LightningModule, its parts and the command line."""
