"""The Python client, for asyncio."""
