"""``python -m medvlad``: the command, where its folder is not on the path."""

from medvlad.cli import main

main()
