"""From one file format to another: quantising, and lossless conversion."""
