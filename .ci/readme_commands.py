"""Print the two commands of README.md, a line each: the fenced blocks that follow the lines "Command one" and
"Command two". CI runs these, so that what the README says cannot drift from what works."""

import pathlib
import re
import sys

text = pathlib.Path("README.md").read_text(encoding="utf-8")
for name in ("one", "two"):
    found = re.search(rf"^\*\*Command {name}\*\*[^\n]*\n+```sh\n(.+?)\n```", text, re.MULTILINE | re.DOTALL)
    if found is None or "\n" in found[1]:
        sys.exit(f"README.md has no single line for command {name}")
    print(found[1])
