"""Decide: from a data set's fingerprint to a plan. Pure numpy; reads no image file and imports no torch."""
