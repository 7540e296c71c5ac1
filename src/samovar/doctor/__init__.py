"""Whether a model file is what it claims to be: each check passes, fails, or says that it cannot know, and what to do."""
