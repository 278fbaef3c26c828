"""The replica: PySyncObj behind our journal, transport and guards. Its only importer."""
