"""Train models from a text, measure them, and publish them to the Hugging Face Hub."""
