"""Distillation of a teacher into an adapter."""
