"""Whose computed texts go together."""

Realm = tuple[str, str, int]
"""Tenant, adapter and YaRN factor: what has to agree, beside the tokens, for keys, values and states to be shared."""
