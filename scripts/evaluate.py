#!/usr/bin/env python3
"""The command `echostream evaluate`, by the name that it had before."""

import sys

from echostream_plugin.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
