"""How far a result can be trusted: evidence from networks, anatomy and image, a score, intervals, and flags in words."""
