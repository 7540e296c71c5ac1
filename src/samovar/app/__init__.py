"""The chat app: what stands behind the page, on top of the server. It keeps its users' chats in a database of its own."""
