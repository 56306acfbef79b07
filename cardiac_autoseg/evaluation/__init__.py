"""Scoring label volumes against reference labels: overlap, surface distances, clinical numbers and their agreement."""
