"""Compares and measures runs."""
