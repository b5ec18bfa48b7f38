"""Model families: one file each, registered in `gpt.models.registry`."""
