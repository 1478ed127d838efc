"""Write or check a dataset:    python tools/prepare_data.py glyphs --layout sop --out data/glyphs_sop"""

from _run import run_command

if __name__ == "__main__":
    run_command("prepare_data")
