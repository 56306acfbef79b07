"""From a scan to a clinical result: reading, segmenting, measuring, judging, and writing what a person opens."""
