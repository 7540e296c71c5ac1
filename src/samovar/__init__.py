"""Samovar: run the open-weight Qwen3 family on hardware you own."""
