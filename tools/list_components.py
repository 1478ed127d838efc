"""List every component, or show one: python tools/list_components.py [NAME] [--kind K] [--json] [--strict]"""

from _run import run_command

if __name__ == "__main__":
    run_command("list_components")
