"""A small data set in the NICO challenge's layout: drawn objects on drawn contexts, with the truth beside it.

    python -m src.datamodules.synthetic OUT [--seed 0] [--scale 1.0] [--strays N]

writes `OUT/data` (what the challenge ships) and `OUT/truth` (labels, contexts and foreground masks of every
image). The class of an object is its shape; colour, texture and pose are drawn without looking at the class.
The context paints the background and touches the object a little. Track 1 tests on two contexts that training
never shows, track 2 trains each class mostly in two contexts of its own and tests it in the other four: a
classifier that leans on the background does well in training and fails there.
"""
