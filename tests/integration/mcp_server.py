"""An MCP server over stdio, as a process of its own: `python -m tests.integration.mcp_server`.

It acts by leaving lines in the file that the environment variable MCP_EFFECTS names.
"""

from __future__ import annotations

import os
from pathlib import Path

from mcp.server.fastmcp import FastMCP

server = FastMCP("till", log_level="ERROR")


def act(line: str) -> None:
    """Leave a line in the effects file."""
    with Path(os.environ["MCP_EFFECTS"]).open("a") as file:
        file.write(line + "\n")


@server.tool()
def charge(amount: int) -> str:
    """Charge a card."""
    act(f"charge {amount}")
    return f"charged {amount}"


@server.tool()
def refuse(amount: int) -> str:
    """Refuse a card."""
    act(f"refuse {amount}")
    raise ValueError(f"no money for {amount}")


@server.tool()
def break_down(amount: int) -> str:
    """Charge a card and die before saying so."""
    act(f"break_down {amount}")
    os._exit(1)


if __name__ == "__main__":
    server.run()
