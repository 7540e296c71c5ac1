"""One question per file; each prints the machine, its command, medians and spread, and the peer measured in the same run."""
