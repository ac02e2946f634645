"""A small data set in the NICO challenge's layout: drawn objects in drawn contexts, with the truth next to it.

    python -m src.datamodules.synthetic OUT [--seed 0] [--scale 1.0] [--strays N]

writes `OUT/data` (what the challenge ships) and `OUT/truth` (labels, contexts and foreground masks of every
image). The class of an object is its shape; colour, texture and pose are drawn without looking at the class.
The context paints the background and touches the object a little. Track 1 tests on two contexts that training
never shows; track 2 trains each class mostly in its own two contexts and tests it in the other four. A classifier
that relies on the background does well in training and fails there.
"""
