"""The test suite. A package, so that tests can share modules under one name."""
