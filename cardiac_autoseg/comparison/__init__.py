"""Are models trained on other labels as good as those trained on the expert's? Margins, statistics and their report."""
