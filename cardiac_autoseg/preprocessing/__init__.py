"""From raw images to the preprocessed store that training reads."""
