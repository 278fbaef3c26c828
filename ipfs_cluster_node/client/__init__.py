"""The Python client: an asyncio core and a thin synchronous face."""
