"""The chat app that browsers show: its pages, and the server side of what they do."""
