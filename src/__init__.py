"""The packages (folders, and single files) layer by layer: each imports only from those below it.

report             what people read: figures, tables, report.html
prediction         finished runs as members, the images they see, their votes
sweeps             what -m does: a process for each job, Hydra's sweeper, Optuna's studies
runs               run directories: the only thing that one stage hands to the next
callbacks          what happens around training
masks              from maps to masks: GrabCut, CRF, the pool that computes them, a judge, a comparison
lightning_modules  one method per file: classifier, c2am, centred_box, average_maps, moco, co_teacher, distillation
datamodules        a manifest as a LightningDataModule; synthetic: the demo's data
mixing             one strategy per file
transforms         augmentation of uint8 images and their masks
data               manifests, trees, splits, decoding, datasets, the order of images
losses metrics fourier schedules averages          pure functions
cli derived errors help kinds overrides            the command line
files digests locks numbers progress text precision stopping transfers distributed lightning_private  importable by all
"""
