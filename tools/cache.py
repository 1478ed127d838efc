"""List and remove stored features:    python tools/cache.py"""

from _run import run_command

if __name__ == "__main__":
    run_command("cache")
