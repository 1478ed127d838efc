"""Classify images:    python tools/predict.py work_dirs/dinov3_food101 photos/ --out predictions.csv"""

from _run import run_command

if __name__ == "__main__":
    run_command("predict")
