"""List the recipes that are installed:    python tools/recipes.py"""

from _run import run_command

if __name__ == "__main__":
    run_command("recipes")
