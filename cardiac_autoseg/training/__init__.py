"""The one fixed runner and what it is made of."""
