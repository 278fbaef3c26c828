"""Prints a hash of what pyproject.toml asks to be installed."""

import hashlib
import json
import tomllib
from pathlib import Path

document = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
project = document["project"]
asked = [
    project["requires-python"],
    project["dependencies"],
    project["optional-dependencies"],
    document["dependency-groups"],
]
print(hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16])
