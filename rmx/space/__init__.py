"""Deploying to a Hugging Face Space."""
