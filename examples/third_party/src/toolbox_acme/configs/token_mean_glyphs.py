"""PatchMixer with a mean in place of the MLP across patches.      python tools/train.py acme:token_mean_glyphs"""
_base_ = ['patchmixer_glyphs.py']
model = dict(backbone=dict(mixer=dict(type='acme.TokenMean')))
