"""The command line: reads arguments and the environment, builds the objects below and calls them."""
