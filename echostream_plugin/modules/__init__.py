"""Layers and their streaming states."""
