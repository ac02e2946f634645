"""The package, in the order in which data flows through it.

manifest   images  sampler  transforms     files -> rows -> samples
datamodules/                               samples -> batches (nico); data for the demo (synthetic)
mixing/    fourier  losses  metrics        pure functions on batches
lightning_modules/                         one method a file
callbacks/ schedules                       what happens around training
runs       weights                         run directories, and what one stage hands to the next
members    image_sets  tta                 finished runs, what they look at, and how
prediction voting                          members x images -> probabilities -> votes -> prediction.json
report     plots   pages   export          what a person reads of it; networks for use elsewhere
precision                                  what stays float32 under bf16-mixed
cli        progress                        the command line, and how long work shows itself
"""
