"""What a run does beside its steps: averages, mixes of weights, the baseline of raw pixels, profiles, advice."""
