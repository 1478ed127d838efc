"""Probe a frozen DINOv3 on your own images, in minutes: one folder a class, no training of the encoder.

    python tools/train.py configs/dinov3_folder_probe.py --data DIR

Data: DIR/<class>/*.jpg, of which a fifth of the images of each class is the test set and a tenth the validation set; or
DIR/train, DIR/val and DIR/test with the class folders in each. At least 2 classes, with about ten images each.
What is trained and compared: see `configs/dinov3_food101_probe.py`. The encoder is ViT-S/16, the smallest:
`--model vitb16` (vitl16, vith16plus) has better features and takes longer.
Then: `python tools/predict.py work_dirs/dinov3_folder_probe PICTURES --out predictions.csv`
"""
_base_ = ['dinov3_food101_probe.py']
_data = dict(type='datasets.ImageFolder', divide='images')
model = dict(backbone=dict(name='vits16'))
train_dataloader = dict(
    dataset=dict(_delete_=True, **_data, root='data/pictures', split='train'),
    on_bad_item='raise',  # 'skip' leaves out what cannot be read, counted and named, also of val and test
    sampler=dict(batch_size=32))
val_dataloader = dict(
    dataset=dict(_delete_=True, **_data, root='{train_dataloader.dataset.root}', split='val'),
    on_bad_item='{train_dataloader.on_bad_item}')
test_dataloader = dict(
    dataset=dict(_delete_=True, **_data, root='{train_dataloader.dataset.root}', split='test'),
    on_bad_item='{train_dataloader.on_bad_item}')
optim_wrapper = dict(optimizer=dict(lr=32 / 256))
train_cfg = dict(max_epochs=30, val_interval=30)
arguments = dict(data='train_dataloader.dataset.root')
