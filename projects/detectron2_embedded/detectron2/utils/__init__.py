"""Logging, events, communication and other helpers."""
